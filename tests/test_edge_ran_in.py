"""What an engine's layers run in reaches its row, and a rule can rest on it; nothing is believed that is no count."""

from pathlib import Path
from typing import Any

import pytest

from kd2edge.artifact import Artifact, describe
from kd2edge.edge.decoded import Decoded
from kd2edge.edge.fake import FakeBackend
from kd2edge.edge.gate import judge
from kd2edge.edge.kept import kept_for_now
from kd2edge.edge.ran_in import ran_in
from kd2edge.edge.trial import Trial
from kd2edge.report.model import Number, Report, Row
from kd2edge.schema import Rule, Suite, Target

PREPROCESSING = {"size": (4, 4), "channels": 1, "color": "L", "mean": (0.0,), "std": (1.0,), "decoder": "none"}
TARGET = Target(about="a test", backend="kd2edge.edge.fake", flavour="tensorrt", precisions=("int8",))


def counts(missing: tuple[str, ...] = (), unknown: tuple[str, ...] = (), expected: int = 4) -> dict[str, Any]:
    told = {"int8_expected": expected, "int8_missing": [*missing], "int8_unknown": [*unknown]}
    return {"layers": 9, "int8": 5, "fp32": 4, "reformats": 2, "fused_adds": 1, **told}


def engine(path: Path, **details: Any) -> Artifact:
    path.write_bytes(b"engine")
    return describe(path, kind="engine", role="int8", verb="export", precision="int8", details=details)


@pytest.mark.parametrize(
    ("layers", "value"),
    [
        (counts(), 100),
        (counts(missing=("conv1",)), 75),
        (counts(missing=("conv1",), unknown=("conv2",)), 50),
        (counts(unknown=("a", "b", "c", "d")), 0),
    ],
)
def test_the_share_is_of_what_is_proved(layers: dict[str, Any], value: float, tmp_path: Path) -> None:
    numbers, conditions = ran_in(engine(tmp_path / "e", layers=layers).path)
    assert numbers == {"int8_ran": Number(value=value, unit="%", n=4, better="higher")}
    assert conditions == {"layers": layers}


def test_what_could_not_be_looked_at_is_null_with_the_reason(tmp_path: Path) -> None:
    made = engine(tmp_path / "e", layers=None, layers_unknown="no GPU here")
    numbers, conditions = ran_in(made.path)
    assert (numbers["int8_ran"].value, numbers["int8_ran"].note) == (None, "no GPU here")
    assert conditions == {"layers": {"unknown": "no GPU here"}}


@pytest.mark.parametrize(
    "layers", [7, "all of them", {}, counts(expected=-1), counts() | {"int8_missing": "none"}, counts(expected=True)]
)
def test_no_counts_are_no_proof(layers: Any, tmp_path: Path) -> None:
    numbers, conditions = ran_in(engine(tmp_path / "e", layers=layers).path)
    assert numbers["int8_ran"].value is None
    assert conditions == {}


def test_a_float_engine_and_an_onnx_file_have_no_share(tmp_path: Path) -> None:
    assert ran_in(engine(tmp_path / "e", layers=counts(expected=0)).path)[0] == {}
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    assert ran_in(tmp_path / "net.onnx") == ({}, {})


class Builder(FakeBackend):
    """Tells of the layers of what it builds, as the TensorRT back ends do where engines run."""

    def build(self, onnx: Path, target: Target, out: Path) -> Path:
        super().build(onnx, target, out)
        describe(out, kind="engine", role="int8", verb="export", details={"layers": counts(missing=("conv1",))})
        return out


def test_an_engine_that_bench_builds_tells_too(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    made = describe(
        tmp_path / "net.onnx", kind="onnx", role="int8", verb="given", precision="int8", preprocessing=PREPROCESSING
    )
    with kept_for_now() as kept:
        trial = Trial("int8", made, TARGET, kept, Decoded(tmp_path / "images.npy", "0" * 64, 1))
        trial.prepare(Builder())
        assert trial.faults == []
        row = trial.row({}, {})
    assert row.numbers["int8_ran"].value == 75
    assert row.conditions["layers"]["int8_missing"] == ["conv1"]


@pytest.mark.parametrize(("value", "verdict"), [(100.0, "ship"), (75.0, "hold"), (None, "hold")])
def test_a_rule_on_it_needs_no_interval(value: float | None, verdict: str) -> None:
    rule = Rule(metric="int8_ran", of="int8", why="INT8 is what is paid for", at_least=100)
    number = Number(value=value, unit="%", n=4, better="higher")
    row = Row(
        role="int8", file="e", sha256="0" * 64, precision="int8", provider="TensorRT", numbers={"int8_ran": number}
    )
    suite = Suite(about="a test", rules=(rule,))
    report = Report(
        created="2026-01-01T00:00:00Z",
        command="kd2edge bench",
        target="a",
        device={},
        versions={},
        suite_name="a",
        suite=suite,
        rows=(row,),
    )
    assert judge(report).findings[0].says == verdict
