"""Who signed what is measured, as a condition of its row: verified here, by the keys that this machine trusts.

The gate reads it from the report. A report is a text file: whoever can write it can write this too, so that a gate
protects against shipping the wrong file by mistake, and `require_signature` on the device against a forged one.
"""

import re
from collections.abc import Mapping
from typing import Any

from kd2edge import signing
from kd2edge.artifact import Artifact
from kd2edge.errors import UserError, first_line


def signed(artifact: Artifact, asked: bool) -> dict[str, Any]:
    """The condition `signed`: the key and the name it is trusted by; else, where it is `asked` for, `unsigned`: why."""
    try:
        found = signing.signature_of(artifact)
    except UserError as fault:
        return {"unsigned": first_line(fault)} if asked else {}
    if found is None:
        return {"unsigned": "nobody signed it"} if asked else {}
    return {"signed": {"key": found.key, "name": found.name}}


def unsigned(conditions: Mapping[str, Any]) -> str | None:
    """Why a row counts as unsigned; None where it says by which key it is signed."""
    told = conditions.get("signed")
    if isinstance(told, dict) and told.get("name") and re.fullmatch(r"[0-9a-f]{64}", str(told.get("key"))):
        return None
    return str(conditions.get("unsigned") or "the report names no key")
