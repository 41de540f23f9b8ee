"""The timing cache beside an engine: with it a second build takes the tactics that the first one measured.

Tactics are chosen by measuring, so two builds of one graph differ; the cache pins them. It is read only if the
manifest of the engine it lies beside names its sha256: native code parses it.
"""

import hashlib
from pathlib import Path
from typing import Any

from kd2edge.artifact import has_manifest, open_artifact
from kd2edge.errors import UserError
from kd2edge.files import write_atomic

SUFFIX = ".timing_cache"


def cache_path(engine: Path) -> Path:
    return engine.with_name(engine.name + SUFFIX)


def attach(config: Any, logger: Any, engine: Path) -> str | None:
    """Give the config the cache beside `engine`, or a fresh one; the sha256 of the cache that TensorRT took.

    None where there was none, it is not the manifest's, or TensorRT will not use it (another version, another GPU).
    """
    known = _recorded(engine)
    heard = len(logger.warnings)
    cache = config.create_timing_cache(known or b"")
    refused = any("timing cache" in message.lower() for message in logger.warnings[heard:])
    if cache is None or refused or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return None
    return hashlib.sha256(known).hexdigest() if known else None


def keep(config: Any, engine: Path, begun_with: str | None) -> dict[str, Any]:
    """Write the config's cache beside `engine`: its file, sha256 and size, and the sha256 of what it began with."""
    content = bytes(memoryview(config.get_timing_cache().serialize()))
    path = write_atomic(cache_path(engine), content)
    digest = hashlib.sha256(content).hexdigest()
    return {"file": path.name, "sha256": digest, "bytes": len(content), "begun_with": begun_with}


def _recorded(engine: Path) -> bytes | None:
    """The bytes of the cache, if the verified manifest of the engine names their sha256."""
    try:
        content = cache_path(engine).read_bytes()
        details = open_artifact(engine).manifest.details if has_manifest(engine) else {}
    except (OSError, UserError):
        return None
    build = details.get("build")
    record = build.get("timing_cache") if isinstance(build, dict) else None
    named = record.get("sha256") if isinstance(record, dict) else None
    return content if named == hashlib.sha256(content).hexdigest() else None
