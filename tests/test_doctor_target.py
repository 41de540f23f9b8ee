"""`doctor --target`: a machine against a target's file, line by line; each finding says what mends it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from kd2edge import drawers
from kd2edge.cli import app
from kd2edge.edge import session_proof
from kd2edge.edge.check import Check, guarded, is_broken
from kd2edge.edge.here import Here, gather
from kd2edge.edge.suited import examine
from kd2edge.schema import Target
from kd2edge.verbs.doctor import doctor
from tests.jetsons import BOARDS, CPU, DEVFREQ, HWMON, tree

NANO, NX, AGX, THOR, DGPU, RTX = (
    drawers.read_target(name)
    for name in ("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "nvidia-dgpu", "nvidia-rtx")
)
GOOD = Here(
    python="3.10.12",
    numpy="1.26.4",
    numpy_1_only=True,
    tensorrt="10.3.0",
    bindings={"pycuda.driver": None, "cuda.bindings.driver": "none"},
    gpu="Orin",
    sm="8.7",
    cuda="12.6",
    driver="540.4.0",
    cuda_toolkit="12.6",
    dla_cores=0,
    board="NVIDIA Jetson Orin Nano Developer Kit",
    release="36.4.3",
    jetpack="6.2",
    power_mode="MAXN_SUPER",
    clocks_fixed=True,
    memory_mib=7619,
    free_mib=5000,
    contiguous_mib=256,
    rails=("VDD_IN",),
    may_lock=True,
    trtexec="/usr/src/tensorrt/bin/trtexec",
    disk_gib=40.0,
    private_keys=(),
    trusted_keys=("release",),
)


def found(target: Target, here: Here) -> dict[str, Check]:
    checks = examine(target, here)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_a_board_that_is_as_the_target_asks() -> None:
    checks = found(NANO, GOOD)
    assert {name for name, check in checks.items() if check.says != "ok"} == set()
    assert {check.mend for check in checks.values()} == {None}
    assert set(checks) == {
        *("python", "back end tensorrt", "TensorRT", "numpy", "GPU", "NVIDIA driver", "pycuda", "board", "JetPack"),
        *("memory", "power mode", "jetson_clocks", "clock lock", "power rails", "trtexec", "signing key", "disk"),
    }


@pytest.mark.parametrize(
    ("change", "name", "says", "in_detail", "in_mend"),
    [
        ({"python": "3.12.3"}, "python", "broken", "wanted ==3.10.*", "compiled for it"),
        ({"backend_fault": "It is asleep."}, "back end tensorrt", "missing", "It is asleep.", None),
        ({"tensorrt": None, "backend_fault": "None."}, "TensorRT", "missing", "does not import", "apt install"),
        ({"tensorrt": "11.4.0.106"}, "TensorRT", "broken", "11.4.0.106, wanted >=10.3,<11", "apt install"),
        ({"tensorrt": "10.2.0"}, "TensorRT", "broken", "24367", "apt install"),
        ({"sm": "8.6", "gpu": "RTX"}, "GPU", "broken", "RTX (SM 8.6), wanted SM 8.7", "--on ssh://"),
        ({"sm": None}, "GPU", "missing", "CUDA finds none", "--on ssh://"),
        ({"cuda": "11.4"}, "NVIDIA driver", "broken", "serves CUDA 11.4; TensorRT came with CUDA 12.6", "CUDA 12"),
        ({"cuda": None}, "NVIDIA driver", "missing", "libcuda", "nvidia-jetpack"),
        ({"board": "NVIDIA Jetson AGX Orin Developer Kit"}, "board", "broken", "wanted Orin Nano", "copy targets"),
        ({"board": None}, "board", "broken", "no board that names itself", "copy targets"),
        ({"release": None}, "JetPack", "missing", "no Jetson Linux here", None),
    ],
)
def test_what_is_needed_and_wanting_breaks_it(
    change: dict[str, object], name: str, says: str, in_detail: str, in_mend: str | None
) -> None:
    checks = found(NANO, replace(GOOD, **change))  # type: ignore[arg-type]
    check = checks[name]
    assert (check.says, check.needed) == (says, True)
    assert in_detail in check.detail
    assert in_mend in check.mend if in_mend and check.mend else check.mend is None and in_mend is None
    assert is_broken(list(checks.values()))


@pytest.mark.parametrize(
    ("change", "name", "in_detail", "in_mend"),
    [
        ({"numpy": "2.2.6"}, "numpy", "compiled for NumPy 1 alone", "pip install 'numpy<2'"),
        ({"jetpack": "6.1", "release": "36.4.0"}, "JetPack", "6.1 (Jetson Linux 36.4.0)", "flash that JetPack"),
        ({"jetpack": None, "release": "36.9.9"}, "JetPack", "not known here (Jetson Linux 36.9.9)", "flash"),
        ({"jetpack": "6.20"}, "JetPack", "6.20", "flash"),
        ({"free_mib": 900}, "memory", "900 of 7619 MiB are free, 256 MiB of it contiguous (CMA)", "isolate"),
        ({"power_mode": None}, "power mode", "nvpmodel tells none", "nvpmodel -q"),
        ({"clocks_fixed": False}, "jetson_clocks", "follow the load", "sudo jetson_clocks"),
        ({"clocks_fixed": None}, "jetson_clocks", "not told", None),
        ({"may_lock": False}, "clock lock", "only root", "sudo jetson_clocks"),
        ({"others": ("python3", "Xorg")}, "GPU in use", "2 other programs", "Xorg, python3"),
        ({"rails": ()}, "power rails", "no energy", None),
        ({"rails": (), "unseen": "no package nvidia-ml-py"}, "power rails", "nvidia-ml-py", "pip install nvidia-ml-py"),
        ({"trtexec": None}, "trtexec", "nothing checks", "apt install"),
        ({"trusted_keys": ()}, "signing key", "trusts nobody", "kd2edge keys new"),
        ({"trusted_keys": None}, "signing key", "cannot be read", "kd2edge keys list"),
        ({"disk_gib": 0.25}, "disk", "0.2 GiB", "free 0.8 GiB"),
    ],
)
def test_what_is_advice_breaks_nothing(
    change: dict[str, object], name: str, in_detail: str, in_mend: str | None
) -> None:
    checks = found(NANO, replace(GOOD, **change))  # type: ignore[arg-type]
    check = checks[name]
    assert (check.says != "ok", check.needed) == (True, False)
    assert in_detail in check.detail
    assert in_mend in (check.mend or "") if in_mend else check.mend is None
    assert not is_broken(list(checks.values()))


def test_a_newer_patch_of_a_listed_jetpack_is_listed() -> None:
    assert found(NANO, replace(GOOD, jetpack="6.2.1"))["JetPack"].says == "ok"


def test_a_driver_serves_older_cuda_and_all_of_its_own_major_version() -> None:
    for cuda in ("12.2", "13.0"):
        assert found(NANO, replace(GOOD, cuda=cuda))["NVIDIA driver"].says == "ok"
    assert found(NANO, replace(GOOD, cuda_toolkit=None))["NVIDIA driver"].says == "ok"


def test_without_pycuda_the_board_is_told_how_to_compile_it_and_cuda_python_serves() -> None:
    serves = {"pycuda.driver": "No module named 'pycuda'", "cuda.bindings.driver": None}
    check = found(NANO, replace(GOOD, bindings=serves))["pycuda"]
    assert (check.says, check.needed) == ("missing", False)
    assert "cuda-python serves meanwhile" in check.detail
    assert check.mend is not None
    assert "/usr/local/cuda/bin:$PATH" in check.mend
    neither = found(NANO, replace(GOOD, bindings=dict.fromkeys(serves, "absent")))["pycuda"]
    assert (neither.says, neither.needed) == ("missing", True)
    assert "pip install cuda-bindings" in str(neither.mend)
    assert found(RTX, replace(GOOD, bindings=serves))["pycuda"].mend == "pip install pycuda"


@pytest.mark.parametrize(
    ("cores", "asked", "says", "needed"),
    [
        (2, None, "ok", False),
        (1, None, "missing", False),
        (1, 0, "ok", True),
        (1, 1, "missing", True),
        (None, 0, "missing", True),
    ],
)
def test_a_dla_core_is_needed_where_it_is_asked_for(
    cores: int | None, asked: int | None, says: str, needed: bool
) -> None:
    target = NX.model_copy(update={"build": NX.build.model_copy(update={"dla_core": asked})})
    check = found(target, replace(GOOD, dla_cores=cores))["DLA cores"]
    assert (check.says, check.needed) == (says, needed)
    assert "DLA cores" not in found(NANO, GOOD)


def test_a_device_that_requires_signatures_needs_a_key_that_it_trusts() -> None:
    strict = NANO.model_copy(update={"require_signature": True})
    check = found(strict, replace(GOOD, trusted_keys=(), private_keys=("mine",)))["signing key"]
    assert (check.says, check.needed, check.mend) == ("missing", True, "kd2edge keys trust KEY.pub")
    assert found(strict, GOOD)["signing key"].says == "ok"


def test_a_card_of_another_capability_runs_no_rtx_engine() -> None:
    here = replace(GOOD, tensorrt="1.7.1.116", sm="9.0", gpu="H100")
    assert found(RTX, here)["GPU"].detail.startswith("H100 (SM 9.0), wanted SM 8.0 or 8.6")
    assert is_broken(examine(RTX, here))
    assert found(RTX, replace(here, sm="8.9"))["GPU"].says == "ok"
    assert found(DGPU, replace(here, tensorrt="10.2.0.19"))["TensorRT"].says == "broken"


def test_releases_that_do_not_support_jetpack_are_refused_on_thor_and_agx_orin() -> None:
    thor = replace(GOOD, python="3.12.3", sm="11.0", board="NVIDIA Jetson AGX Thor Developer Kit", jetpack="7.2.1")
    for version, says in {"10.13.3": "ok", "11.3.0": "broken", "11.4.0.106": "broken", "11.4.1": "ok"}.items():
        assert found(THOR, replace(thor, tensorrt=version))["TensorRT"].says == says
        assert found(AGX, replace(thor, tensorrt=version))["TensorRT"].says == says


@pytest.mark.parametrize("name", BOARDS)
def test_the_facts_of_a_board(tmp_path: Path, name: str) -> None:
    root = BOARDS[name](tmp_path)
    tree(root, {"usr/local/cuda/version.json": '{\n  "cuda" : {\n "name" : "CUDA SDK",\n "version" : "12.6.11"\n }\n}'})
    target = drawers.read_target(name)
    here = gather(target, root)
    assert target.board is not None
    assert target.board in str(here.board)
    assert (here.power_mode, here.clocks_fixed, here.contiguous_mib) == (
        *("120W" if name == "jetson-thor" else "MAXN_SUPER" if name == "jetson-orin-nano" else "MAXN", False, 256),
    )
    assert (here.cuda_toolkit, here.unseen, here.others) == ("12.6", None, None)
    assert here.rails
    assert found(target, here)["board"].says == "ok"


def test_clocks_that_are_fixed_and_memory_of_a_small_board(tmp_path: Path) -> None:
    root = BOARDS["jetson-orin-nano"](tmp_path)
    tree(root, {f"{CPU}/policy0/scaling_min_freq": 1_728_000, f"{DEVFREQ}/17000000.gpu/min_freq": 1_020_000_000})
    (root / HWMON / "hwmon1/in1_label").unlink()
    here = gather(NANO, root)
    assert (here.clocks_fixed, here.memory_mib, here.free_mib, here.rails) == (True, 7619, 3809, ())


def test_a_package_that_is_none_ends_no_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named tensorrt beside the program imports, and has no version."""
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    checks = examine(DGPU)
    assert [(check.name, check.says) for check in checks] == [("this machine", "broken")]
    assert "__version__" in checks[0].detail
    assert is_broken(checks)


def test_onnx_cpu_suits_any_machine_that_runs_a_session() -> None:
    checks = {check.name: check for check in doctor("onnx-cpu")}
    assert checks["onnxruntime"].says == "ok"
    assert "CPUExecutionProvider computes" in checks["onnxruntime"].detail
    assert not is_broken(list(checks.values()))


def test_the_smallest_model_is_what_it_is_said_to_be() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(session_proof.MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Abs"]


def test_the_command_exits_with_two_where_something_needed_is_wanting() -> None:
    suits = CliRunner().invoke(app, ["doctor", "--target", "onnx-cpu", "--json"])
    assert suits.exit_code == 0, suits.output
    told = json.loads(suits.stdout.splitlines()[-1])
    assert {"name", "says", "detail", "mend", "needed"} == set(told[0])
    unlike = CliRunner().invoke(app, ["doctor", "--target", "jetson-thor"])
    assert unlike.exit_code == 2
    assert "board" in unlike.output
    none = CliRunner().invoke(app, ["doctor", "--target", "jetson-thro"])
    assert none.exit_code == 2
    assert "jetson-thor" in none.output


def test_a_part_that_fails_in_its_own_way_is_a_finding() -> None:
    def part() -> Iterator[Check]:
        raise OSError("a disk  that went")

    assert [(check.says, check.detail) for check in guarded("disk", part)] == [("broken", "OSError: a disk that went")]


def test_a_board_examines_itself_with_the_edge_wing_alone() -> None:
    """Without typer, rich and the verbs; one line of JSON, as another program would read it."""
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'onnx', 'torch', 'kd2edge.verbs', 'kd2edge.cli', 'kd2edge.graph'):\n"
        "    sys.modules[name] = None\n"
        "import json\n"
        "from kd2edge.drawers import read_target\n"
        "from kd2edge.edge.suited import examine\n"
        "for name in ('onnx-cpu', 'jetson-orin-nano'):\n"
        "    print(json.dumps([check.model_dump() for check in examine(read_target(name))]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cpu, board = (json.loads(line) for line in done.stdout.splitlines())
    assert {"back end onnxruntime", "onnxruntime", "signing key", "disk"} <= {check["name"] for check in cpu}
    assert {"GPU", "board", "JetPack"} <= {check["name"] for check in board}
