"""What a target asks of the builder is really set and read back, or refused in one sentence before anything is built.

The module is a stand-in (see imitated_trt): options, refusals and files are judged here, never an engine.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from kd2edge.artifact import open_artifact
from kd2edge.edge import trt_versions
from kd2edge.edge.session import open_backend
from kd2edge.edge.trt_cache import cache_path
from kd2edge.errors import UserError
from kd2edge.graph.cast import to_fp16
from kd2edge.graph.quantize import quantize_model
from kd2edge.schema import BatchRange, Build, Target
from tests import graphs
from tests.imitated_trt import DAMAGED, FOREIGN, imitation

ONE = BatchRange(min=1, opt=1, max=1)


def target(**fields: Any) -> Target:
    plain = {"about": "a device", "backend": "tensorrt", "flavour": "tensorrt", "precisions": ("fp32",)}
    return Target.model_validate(plain | fields)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, net = tmp_path_factory.mktemp("nets"), graphs.residual_net()
    made = {
        "fp32": net,
        "fp16": to_fp16(net, [graphs.images(4)]),
        "int8": quantize_model(net, [graphs.images(4)], "tensorrt", "minmax").model,
    }
    for name, model in made.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    return {name: folder / f"{name}.onnx" for name in made}


class Site:
    """Builds with the stand-in; `say` is what the manifest tells of the build."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def build(self, net: Path, goal: Target, version: str = "10.3.0", dla_cores: int = 0) -> dict[str, Any]:
        self.trt = imitation(version, dla_cores)
        self.monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        self.engine = open_backend("tensorrt").build(net, goal, self.folder / "net.engine")
        build: dict[str, Any] = open_artifact(self.engine).manifest.details["build"]
        return build


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_the_manifest_tells_what_was_set(site: Site, nets: dict[str, Path]) -> None:
    options = Build(optimization_level=5, version_compatible=True, hardware_compatibility="ampere_plus")
    build = site.build(nets["fp32"], target(workspace_mib=64, build=options, batch=BatchRange(min=2, opt=4, max=8)))
    (config,) = site.trt.configs
    assert config.builder_optimization_level == 5
    assert config.pools == {"workspace": 64 << 20}
    assert config.profiling_verbosity == "detailed"
    assert config.profiles == [{"images": ([2, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16])}]
    assert {name: value for name, value in build.items() if name != "timing_cache"} == {
        "workspace_mib": 64,
        "optimization_level": 5,
        "version_compatible": True,
        "hardware_compatibility": "ampere_plus",
        "dla_core": None,
        "gpu_fallback": None,
        "tf32": True,
        "profile": {"images": [[2, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16]]},
        "compute_capabilities": None,
    }
    manifest = open_artifact(site.engine).manifest
    assert (manifest.kind, manifest.role, manifest.precision) == ("engine", "fp32", "fp32")
    assert manifest.parents == (hashlib.sha256(nets["fp32"].read_bytes()).hexdigest(),)
    assert manifest.versions["tensorrt"] == "10.3.0"
    assert manifest.details["built_on"]["tensorrt"] == "10.3.0"
    assert manifest.details["target"]["workspace_mib"] == 64


def test_one_batch_three_times_is_a_static_profile(site: Site, nets: dict[str, Path]) -> None:
    build = site.build(nets["fp32"], target(batch=BatchRange(min=16, opt=16, max=16)))
    assert build["profile"] == {"images": [[16, 3, 16, 16]] * 3}


def test_left_alone_the_builder_keeps_its_defaults(site: Site, nets: dict[str, Path]) -> None:
    build = site.build(nets["fp32"], target())
    assert (build["optimization_level"], build["hardware_compatibility"], build["dla_core"]) == (3, "none", None)
    assert site.trt.configs[0].flags == {site.trt.BuilderFlag.TF32}


def test_the_file_tells_the_precision(site: Site, nets: dict[str, Path]) -> None:
    for name, path in nets.items():
        site.build(path, target())
        assert open_artifact(site.engine).manifest.precision == name


def test_a_second_build_begins_with_the_first_ones_timings(site: Site, nets: dict[str, Path]) -> None:
    first = site.build(nets["fp32"], target())["timing_cache"]
    cache = cache_path(site.engine)
    assert first["file"] == cache.name == "net.engine.timing_cache"
    assert first["begun_with"] is None
    assert first["sha256"] == hashlib.sha256(cache.read_bytes()).hexdigest()
    second = site.build(nets["fp32"], target())["timing_cache"]
    assert second["begun_with"] == first["sha256"]


def test_a_cache_that_no_manifest_names_is_not_read(site: Site, nets: dict[str, Path]) -> None:
    cache_path(site.folder / "net.engine").write_bytes(b"from somewhere")
    assert site.build(nets["fp32"], target())["timing_cache"]["begun_with"] is None
    cache_path(site.engine).write_bytes(b"altered")
    assert site.build(nets["fp32"], target())["timing_cache"]["begun_with"] is None
    assert site.trt.configs[0].cache.content == b""


@pytest.mark.parametrize("cache", [FOREIGN, DAMAGED])
def test_a_cache_that_tensorrt_will_not_use_is_left(
    cache: bytes, site: Site, nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.build(nets["fp32"], target())
    monkeypatch.setattr("kd2edge.edge.trt_cache._recorded", lambda engine: cache)
    assert site.build(nets["fp32"], target())["timing_cache"]["begun_with"] is None


def test_a_profile_that_is_not_taken_is_no_engine(
    site: Site, nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.imitated_trt.Config.add_optimization_profile", lambda config, profile: -1)
    with pytest.raises(UserError, match="TensorRT refuses the graph"):
        site.build(nets["fp32"], target())


def test_without_a_timing_cache_there_is_none(site: Site, nets: dict[str, Path]) -> None:
    assert site.build(nets["fp32"], target(build=Build(timing_cache=False)))["timing_cache"] is None
    assert site.trt.configs[0].cache is None
    assert not cache_path(site.engine).exists()


def test_a_dla_core_is_set_for_half_precision(site: Site, nets: dict[str, Path]) -> None:
    goal = target(dla_cores=2, batch=ONE, build=Build(dla_core=1))
    build = site.build(nets["fp16"], goal, dla_cores=2)
    assert (build["dla_core"], build["gpu_fallback"]) == (1, True)
    (config,) = site.trt.configs
    assert config.default_device_type == site.trt.DeviceType.DLA
    assert config.DLA_core == 1
    goal = target(dla_cores=2, batch=ONE, build=Build(dla_core=1, gpu_fallback=False))
    assert site.build(nets["int8"], goal, dla_cores=2)["gpu_fallback"] is False


BOARD = {"board": "NVIDIA Jetson Orin Nano", "jetpack": ("6.2",), "tensorrt": ">=10.3,<10.4"}
REFUSED = [
    ("fp16", {"dla_cores": 0, "build": {"dla_core": 0}}, "10.3.0", "dla_core is 0, but this target has none"),
    ("fp16", {"dla_cores": 2, "build": {"dla_core": 2}}, "10.3.0", "dla_core is 2, but this target has only 2"),
    ("fp32", {"dla_cores": 2, "build": {"dla_core": 0}}, "10.3.0", "FP16 and INT8, not in FP32"),
    ("fp16", {"dla_cores": 2, "build": {"dla_core": 0}}, "10.3.0", "one batch size, the target has 1 to 32"),
    ("fp16", {"dla_cores": 2, "batch": ONE, "build": {"dla_core": 0}}, "11.2.0", "11.2.0 sees 0 DLA cores here"),
    ("fp32", {**BOARD, "build": {"hardware_compatibility": "ampere_plus"}}, "10.3.0", "not for a Jetson"),
    (
        "fp32",
        {"build": {"hardware_compatibility": "same_compute_capability"}},
        "10.3.0",
        "TensorRT 10.3.0 has no hardware compatibility 'same_compute_capability'",
    ),
    ("fp32", BOARD, "11.4.0.106", r"This is TensorRT 11.4.0.106; the target has >=10.3,<10.4 \(JetPack 6.2\)"),
    ("fp32", BOARD, "unknown", "This is TensorRT unknown; the target has"),
    ("fp32", {"compute_capabilities": ("8.6",)}, "10.3.0", "compute_capabilities say nothing to it"),
]


@pytest.mark.parametrize(("precision", "fields", "version", "sentence"), REFUSED)
def test_what_a_version_or_a_target_lacks_is_refused(
    precision: str, fields: dict[str, Any], version: str, sentence: str, site: Site, nets: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        site.build(nets[precision], target(**fields), version) if version != "unknown" else refused_version(fields)
    assert caught.value.hint is not None
    assert not list(site.folder.iterdir())


def refused_version(fields: dict[str, Any]) -> None:
    trt = imitation("10.3.0")
    trt.__version__ = "unknown"
    trt_versions.refuse(trt, "TensorRT", target(**fields), "fp32")


def test_the_newer_level_is_set_where_it_is_known(site: Site, nets: dict[str, Path]) -> None:
    options = Build(hardware_compatibility="same_compute_capability")
    build = site.build(nets["fp32"], target(build=options, tensorrt=">=11,<12"), "11.4.0.106")
    assert build["hardware_compatibility"] == "same_compute_capability"


def test_jetpacks_own_build_number_fits_its_line(site: Site, nets: dict[str, Path]) -> None:
    assert site.build(nets["fp32"], target(**BOARD), "10.3.0.30")["optimization_level"] == 3


def test_an_option_that_is_not_taken_is_no_silent_default(
    site: Site, nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.imitated_trt.Config.get_flag", lambda config, flag: False)
    with pytest.raises(UserError, match="TensorRT did not take version_compatible True: it says False"):
        site.build(nets["fp32"], target(build=Build(version_compatible=True)))


def test_a_gpu_of_another_kind_is_refused(site: Site, nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = {
        "backend": "tensorrt",
        "tensorrt": "10.3.0",
        "gpu": "NVIDIA L4",
        "sm": "8.9",
        "driver": None,
        "cuda": "12.6",
    }
    monkeypatch.setattr("kd2edge.edge.trt_build.built_on", lambda *facts: here)
    with pytest.raises(UserError, match=r"NVIDIA L4 \(SM 8\.9\), and the target has SM 8\.7") as caught:
        site.build(nets["fp32"], target(sm="8.7"))
    assert "--on ssh://" in (caught.value.hint or "")
    site.build(nets["fp32"], target(sm="8.9"))


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_a_runtime_may_run_host_code_only_for_a_version_compatible_engine(version: str) -> None:
    class Runtime:
        def __init__(self, logger: object) -> None:
            self.engine_host_code_allowed, self.DLA_core = False, -1

    trt = imitation(version)
    trt.Runtime = Runtime
    plain = trt_versions.runtime(trt, None, target())
    assert (plain.engine_host_code_allowed, plain.DLA_core) == (False, -1)
    asked = trt_versions.runtime(trt, None, target(build=Build(version_compatible=True, dla_core=1)))
    assert (asked.engine_host_code_allowed, asked.DLA_core) == (True, 1)
