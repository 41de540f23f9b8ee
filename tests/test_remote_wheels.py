"""The wheelhouse of a board: for its Python, its machine and its glibc, of what its TensorRT can live with."""

from pathlib import Path

import pytest
from packaging.tags import cpython_tags
from packaging.utils import parse_wheel_filename

from kd2edge.drawers import names, read_target
from kd2edge.errors import UserError
from kd2edge.verbs.remote_wheels import JETPACK_6, JETPACK_7, Place, _platforms, needed, place_at, places_of, wheels
from tests.far import KEPT, ORT


def test_the_platforms_of_a_place_are_those_that_pip_would_take() -> None:
    """Against the tags of the packaging library, which go back to the first glibc of aarch64, 2.17."""
    made = _platforms(JETPACK_6)
    assert made[0] == "manylinux_2_35_aarch64"
    assert made[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert len(made) == 35 - 17 + 2
    assert {"manylinux2014_x86_64", "manylinux1_x86_64"} <= set(_platforms(Place("x86_64", 11, 36)))


def test_a_far_side_without_glibc_is_a_sentence() -> None:
    assert place_at({"machine": "aarch64", "python": [3, 10], "libc": [2, 35]}, "orin") == JETPACK_6
    with pytest.raises(UserError, match="no glibc"):
        place_at({"machine": "aarch64", "python": [3, 10], "libc": None}, "alpine")


def test_a_kit_serves_both_jetpacks_and_where_it_may_be_a_pc_that_too() -> None:
    assert places_of(read_target("jetson-orin-nano")) == (JETPACK_6, JETPACK_7)
    houses = {place.house for place in places_of(read_target("onnx-cpu"))}
    assert {"cp310-aarch64", "cp312-aarch64", "cp310-x86_64", "cp312-x86_64"} <= houses


@pytest.mark.parametrize("target", names("targets"))
def test_no_board_is_brought_torch_tensorrt_or_what_must_be_compiled(target: str) -> None:
    packages = needed(read_target(target))
    assert not [name for name in packages if name.startswith(("torch", "tensorrt", "pycuda"))]
    assert ("onnxruntime" in packages) == (read_target(target).backend == "onnxruntime")


@pytest.mark.network
@pytest.mark.parametrize(
    ("target", "place"),
    [("jetson-orin-nano", JETPACK_6), ("onnx-cpu", JETPACK_7)],
    ids=lambda value: getattr(value, "house", value),
)
def test_the_wheels_of_a_board_are_there_and_fit_it(target: str, place: Place, tmp_path: Path) -> None:
    (tmp_path / "wheels").symlink_to(KEPT)
    KEPT.mkdir(exist_ok=True)
    try:
        found = wheels(read_target(target), place, tmp_path)
    except UserError as fault:
        if "does not answer" in fault.message:
            pytest.skip(fault.message)
        raise
    tags = {*cpython_tags((3, place.minor), platforms=_platforms(place))}
    versions = {}
    for path in found:
        name, version, _, fitting = parse_wheel_filename(path.name)
        versions[str(name)] = version
        assert fitting & tags or any(tag.platform == "any" and tag.abi == "none" for tag in fitting), path.name
    assert {"numpy", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "packaging"} <= set(versions)
    if target == "jetson-orin-nano":
        assert versions["numpy"].major == 1
        assert versions["cuda-bindings"].major == 12


def test_where_the_registry_does_not_answer_it_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INDEX_URL", "http://127.0.0.1:1/simple"), ("RETRIES", "1"), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(UserError, match="registry does not answer"):
        wheels(ORT, JETPACK_6, tmp_path)
    assert list((tmp_path / "wheels").iterdir()) == []
