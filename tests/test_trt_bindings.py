"""Every name that our code takes from NVIDIA's binding is in it: in that of 10.3 (JetPack 6), of the newest 11, of RTX.

The bindings of TensorRT can be downloaded but not imported without its libraries: their names are looked up among the
strings of the compiled module. Which names are touched is read off our code (see bindings.py), not listed.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest

import kd2edge
from kd2edge.schema import Build
from tests.bindings import Touched, touched

PACKAGE = Path(kd2edge.__file__).parent
EDGE = PACKAGE / "edge"
RTX = EDGE / "backends" / "tensorrt_rtx.py"
SHARED = [
    *sorted(EDGE.glob("trt_*.py")),
    EDGE / "backends" / "tensorrt.py",
    EDGE / "here.py",
    PACKAGE / "verbs/doctor.py",
]
WHEELS = {
    "10.3": ("tensorrt-cu12-bindings==10.3.0", "3.10", "manylinux_2_17_x86_64"),
    "11": ("tensorrt-cu13-bindings>=11.4,<12", "3.12", "manylinux_2_28_x86_64"),
}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kd2edge-tests" / "bindings"


class Binding:
    """The names in a wheel: those that end a string of its compiled module, and those in its Python files.

    Compilers keep one copy of strings with a common ending (serialize is found in get_fields_to_serialize).
    """

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if name.endswith((".so", ".py"))}
        compiled = b"\0".join(content for name, content in files.items() if name.endswith(".so"))
        self.strings = b"\0".join({*re.findall(rb"[A-Za-z_][A-Za-z0-9_]*(?=\0)", compiled)}) + b"\0"
        self.python = "\n".join(content.decode() for name, content in files.items() if name.endswith(".py"))

    def has(self, name: str) -> bool:
        before = b"" if name[0].isupper() else rb"(?<![A-Za-z0-9])"
        compiled = re.search(before + re.escape(name.encode()) + rb"\0", self.strings)
        return compiled is not None or re.search(rf"^{re.escape(name)} =", self.python, re.M) is not None


def download(requirement: str, python: str, platform: str) -> Path:
    """The wheel, from a cache in the user's home, else from the registry. Skips where that cannot be reached."""
    folder = CACHE / re.sub(r"[^\w.]+", "_", requirement)
    wheels = list(folder.glob("*.whl"))
    if wheels:
        return wheels[0]
    tags = ["--python-version", python, "--implementation", "cp", "--abi", "none", "--platform", platform]
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, *tags, requirement]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{requirement} cannot be had from the registry: {error}")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=list(WHEELS))
def binding(request: pytest.FixtureRequest) -> Binding:
    return Binding(download(*WHEELS[request.param]))


@pytest.fixture(scope="module")
def ours() -> Touched:
    return touched(SHARED)


def test_every_name_is_in_the_binding(binding: Binding, ours: Touched) -> None:
    assert sorted(name for name in ours.names if not binding.has(name)) == []


def test_a_name_that_was_never_there_is_missed(binding: Binding, ours: Touched) -> None:
    """The same, with each name spoilt: but for those that are another one's ending, none is found."""
    for name in ours.names:
        assert not binding.has(f"{name}_x"), name
    for invented in ("execute_async_v9", "fp16_mode", "max_workspace", "set_binding_shape_now", "BuildFlag"):
        assert not binding.has(invented)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f(trt: Any):\n  trt.Invented.value_of", {"Invented", "value_of"}),
        (
            "def f(config: Any):\n  a = config.made()\n  for b in a.parts:\n    b.size_of = 1",
            {"made", "parts", "size_of"},
        ),
        (
            "class A:\n  def f(self, trt: Any):\n    self._e = trt.R()\n  def g(self):\n    self._e.run_it()",
            {"R", "run_it"},
        ),
        ("def f(trt: Any):\n  class L(trt.Base):\n    def told(self): self.kept = 1", {"Base", "told"}),
        ("def made() -> Any: ...\ndef f():\n  made().part_of", {"part_of"}),
        (
            "def f(trt: Any):\n  x, y = trt.One(), 3\n  y.real_part\n  (z for z in [x.get_it(i) for i in y])",
            {"One", "get_it"},
        ),
        ("def f(path: Path):\n  path.with_name('a')", set[str]()),
    ],
)
def test_the_objects_are_followed_through_the_code(code: str, names: set[str], tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert touched([tmp_path / "code.py"]).names == names


def test_the_walk_reaches_all_parts(ours: Touched) -> None:
    """One name of each stage; were an annotation lost, the walk would end there and find nothing wrong."""
    stages = {
        "create_network": "network",
        "parse_from_file": "parser",
        "set_memory_pool_limit": "configuration",
        "set_timing_cache": "timing cache",
        "set_shape": "profile",
        "build_serialized_network": "builder",
        "deserialize_cuda_engine": "runtime",
        "get_tensor_profile_shape": "engine",
        "execute_async_v3": "execution",
        "get_engine_information": "inspector",
        "report_layer_time": "profiler",
        "log": "logger",
    }
    assert [part for name, part in stages.items() if name not in ours.names] == []


def test_no_other_file_touches_the_binding() -> None:
    touching = [
        path for path in PACKAGE.rglob("*.py") if re.search(r"\btrt\.[A-Za-z_]+", path.read_text(encoding="utf-8"))
    ]
    assert {path.relative_to(PACKAGE) for path in touching} <= {path.relative_to(PACKAGE) for path in [*SHARED, RTX]}


def test_what_may_be_lacking_is_somewhere(ours: Touched) -> None:
    assert ours.optional == {"STRONGLY_TYPED", "ComputeCapability"}
    old, new = (Binding(download(*wheel)) for wheel in WHEELS.values())
    assert old.has("STRONGLY_TYPED")
    assert not old.has("ComputeCapability")
    assert not new.has("ComputeCapability")  # so it tells RTX from TensorRT


@pytest.mark.parametrize(("version", "newest"), [("10.3", False), ("11", True)])
def test_the_levels_of_hardware_compatibility_are_the_bindings(version: str, newest: bool) -> None:
    levels = [level.upper() for level in get_args(Build.model_fields["hardware_compatibility"].annotation)]
    assert levels == ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
    known = Binding(download(*WHEELS[version]))
    assert [known.has(level) for level in levels] == [True, True, newest]


def test_no_precision_is_ever_set(ours: Touched) -> None:
    gone = {"FP16", "INT8", "BF16", "PREFER_PRECISION_CONSTRAINTS", "OBEY_PRECISION_CONSTRAINTS", "int8_calibrator"}
    assert not gone & (ours.names | ours.optional)


def test_every_name_is_in_rtx(ours: Touched) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'kd2edge[rtx]'")
    parts = [trt, *(getattr(trt, name) for name in dir(trt) if name[0].isupper())]
    known = {name for part in (*parts, trt.ILogger.Severity) for name in dir(part)}
    names = ours.names | touched([RTX]).names
    assert sorted(name for name in names if name not in known) == []
    assert "execute_async_v9" not in known
