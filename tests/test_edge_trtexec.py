"""trtexec as a second opinion. None was run: a script stands in for it, with output in the form of NVIDIA's samples.

The banner and the summary are lines as users of 10.3 (JetPack 6.2), 8.6 and 11.1 showed them, with other numbers.
"""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from kd2edge.artifact import describe
from kd2edge.edge import second_opinion, trtexec
from kd2edge.edge.decoded import Decoded
from kd2edge.edge.kept import Kept
from kd2edge.edge.trial import Trial
from kd2edge.errors import UserError
from kd2edge.schema import Preprocessing, Target

SUMMARY = """[11/20/2026-06:27:25] [I] === Performance summary ===
[11/20/2026-06:27:25] [I] Throughput: 1287.11 qps
[11/20/2026-06:27:25] [I] Latency: min = 0.7 ms, max = 0.9 ms, mean = 0.8 ms, median = 0.8 ms, percentile(99%) = 0.9 ms
[11/20/2026-06:27:25] [I] Enqueue Time: min = 0.002 ms, max = 0.03 ms, mean = 0.007 ms, median = 0.006 ms
[11/20/2026-06:27:25] [I] GPU Compute Time: min = 0.701 ms, max = 0.9 ms, mean = 0.78 ms, median = {median} ms, \
percentile(90%) = 0.81 ms, percentile(95%) = 0.85 ms, percentile(99%) = 0.89 ms
[11/20/2026-06:27:25] [I] Total GPU Compute Time: 2.99956 s
[11/20/2026-06:27:25] [W] * GPU compute time is unstable, with coefficient of variance = 7.58229%.
[11/20/2026-06:27:25] [W]   If not already in use, locking GPU clock frequency may improve the stability.
&&&& PASSED TensorRT.trtexec
"""
THEIRS = [0.70, 0.75, 0.80, 0.85, 0.90]


def row(compute: float) -> dict[str, float]:
    """One query as `--exportTimes` writes it, which begins somewhere in the run."""
    return {
        **{"startEnqMs": 9.1, "endEnqMs": 9.11, "startH2dMs": 9.1, "endH2dMs": 9.2, "startComputeMs": 10.25},
        **{"endComputeMs": 10.25 + compute, "startD2hMs": 12.0, "endD2hMs": 12.1, "latencyMs": compute + 0.2},
    }


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a trtexec of version v100300 that writes down what it was asked, and answers as it is told."""
    folder = tmp_path / "a place"
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(
        f"""#!/bin/sh
cd '{folder}'
echo "&&&& RUNNING TensorRT.trtexec [TensorRT $(cat version)] [b17] # trtexec $*"
for word in "$@"; do echo "$word"; done > asked
taken=$(cat input)
for word in "$@"; do case "$word" in
    --exportTimes=*) cp times "${{word#--exportTimes=}}";;
    --shapes=images:*) [ "$taken" = 8x3x112x112 ] && echo "[E] fixed shapes" && exit 1
        [ -e stubborn ] || taken=${{word#--shapes=images:}};;
esac; done
echo "[11/20/2026-06:27:24] [I] Created input binding for images with dimensions $taken"
echo "[11/20/2026-06:27:24] [I] Created output binding for embedding with dimensions 8x128"
cat summary
exit $(cat status)
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "version").write_text("v100300")
    (folder / "input").write_text("1x3x112x112")  # of a dynamic batch
    (folder / "times").write_text(json.dumps([row(ms) for ms in THEIRS]))
    (folder / "summary").write_text(SUMMARY.format(median=0.8))
    (folder / "status").write_text("0")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


SHAPE = (8, 3, 112, 112)


def asked(installed: Path) -> list[str]:
    return (installed / "asked").read_text().splitlines()


def test_its_median_is_held_against_ours(installed: Path) -> None:
    ours = np.array([0.80, 0.82, 0.84])
    told = trtexec.crosscheck(installed / "an engine", SHAPE, list(ours))
    assert told is not None
    assert (told["version"], told["n"]) == ("10.3.0", 5)
    assert told["p50_ms"] == pytest.approx(0.8)
    assert (told["ours_p50_ms"], told["within_5_percent"]) == (0.82, True)
    assert told["ratio"] == pytest.approx(0.82 / 0.8)
    assert told["warnings"] == ["GPU compute time is unstable, with coefficient of variance = 7.58229%."]
    assert json.loads(json.dumps(told)) == told
    assert not any(str(installed) in switch for switch in told["switches"])  # a report holds no path of the machine
    assert asked(installed)[0] == f"--loadEngine={installed / 'an engine'}"
    far = trtexec.crosscheck(installed / "e", SHAPE, [0.845])
    assert far is not None
    assert (far["within_5_percent"], far["ratio"]) == (False, pytest.approx(0.845 / 0.8))


@pytest.mark.parametrize(
    ("version", "graph", "has", "has_not"),
    [
        ("v100300", True, {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"}, {"--noCudaGraph"}),
        ("v101600", False, {"--useSpinWait", "--noDataTransfers"}, {"--useCudaGraph", "--noCudaGraph"}),
        ("v110100", True, set(), {"--noCudaGraph", "--useCudaGraph", "--noSpinWait", "--includeDataTransfers"}),
        ("v11.1.0.106", False, {"--noCudaGraph"}, {"--useCudaGraph", "--includeDataTransfers"}),
    ],
)
def test_every_switch_is_pinned_for_the_version_of_the_banner(
    installed: Path, version: str, graph: bool, has: set[str], has_not: set[str]
) -> None:
    (installed / "version").write_text(version)
    told = trtexec.crosscheck(installed / "engine", SHAPE, [0.8], graph)
    assert told is not None
    assert "fault" not in told
    words = set(asked(installed))
    assert has <= words
    assert not has_not & words
    assert {"--warmUp=500", "--duration=3", "--iterations=100", "--infStreams=1"} <= words
    assert "--shapes=images:8x3x112x112" in words
    assert set(told["switches"]) == {word for word in words if "Engine=" not in word and "Times=" not in word}


def test_an_engine_of_fixed_shapes_is_told_none_and_must_have_ours(installed: Path) -> None:
    (installed / "input").write_text("8x3x112x112")
    told = trtexec.crosscheck(installed / "engine", SHAPE, [0.8])
    assert told is not None
    assert told["ratio"] == pytest.approx(1.0)
    assert not any(word.startswith("--shapes") for word in asked(installed))
    other = trtexec.crosscheck(installed / "engine", (4, 3, 112, 112), [0.8])
    assert other is not None
    assert "fixed shapes" in other["fault"]


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("version", "v8602", "of TensorRT 8.6.2, whose defaults are not known here"),
        ("version", "unknown", "nothing of its version"),
        ("status", "1", "ended with status 1: [E] it broke"),
        ("version", "v10..3", "nothing of its version"),
        ("times", "[]", "timed nothing"),
        ("times", json.dumps([row(0.0)] * 3), "timed nothing"),
        ("times", "{", "is not as it was"),
        ("times", '[{"computeMs": 1}]', "is not as it was"),
        ("input", "", "told of 0 inputs"),
        ("stubborn", "", "did not time batches of 8x3x112x112"),
        ("summary", "", "does not agree with the times"),
        ("summary", SUMMARY.format(median=1.6), "does not agree with the times"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_no_ratio(installed: Path, file: str, content: str, fault: str) -> None:
    (installed / file).write_text(content)
    if file == "status":
        (installed / "summary").write_text("[E] it broke\n[E] and more\n")
    told = trtexec.crosscheck(installed / "engine", SHAPE, [0.8])
    assert told is not None
    assert set(told) == {"fault"}
    assert fault in told["fault"]


def test_one_that_does_not_end_is_a_fault(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = installed / "trtexec"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(trtexec, "TIMEOUT_S", 0.2)
    told = trtexec.crosscheck(installed / "engine", SHAPE, [0.8])
    assert told is not None
    assert "did not run" in told["fault"]


def test_where_there_is_none_there_is_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "PLACES", (str(tmp_path / "trtexec"),))
    assert trtexec.crosscheck(tmp_path / "engine", SHAPE, [0.8]) is None


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # trtexec --help", (10, 3, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] # trtexec", (10, 16, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3]", (11, 2, 1)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b48]", (11, 1, 0)),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8602]", (8, 6, 2)),
    ],
)
def test_the_banner(said: str, version: tuple[int, int, int]) -> None:
    assert trtexec.version(f"noise\n{said}\n") == version
    with pytest.raises(UserError, match="version"):
        trtexec.version("trtexec: not found")


def trial_of(tmp_path: Path, graph: bool, backend: str = "tensorrt") -> Trial:
    """A row with two rounds of stages, whose computing takes 0.9 ms plainly and 0.82 ms as a graph."""
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"an engine")
    preprocessing = Preprocessing(
        size=(112, 96), channels=3, color="RGB", mean=(0.5,) * 3, std=(0.25,) * 3, decoder="pillow 1/box"
    )
    artifact = describe(engine, kind="engine", role="int8", verb="export", preprocessing=preprocessing)
    target = Target(about="a GPU", backend=backend, flavour="tensorrt", precisions=("fp32",))
    trial = Trial("int8", artifact, target, Kept(tmp_path / "kept"), Decoded(tmp_path / "images.npy", "0" * 64, 1))
    plain = np.array([[50_000, 900_000, 9_000, 20_000, 0]] * 5, np.int64)
    captured = np.array([[50_000, 820_000, 9_000, 20_000, 1]] * 5, np.int64)
    trial.stages = [plain, captured] if graph else [plain, plain]
    return trial


@pytest.mark.parametrize(("graph", "ours"), [(True, 0.82), (False, 0.9)])
def test_a_row_is_told_what_it_says_of_the_same_engine(
    installed: Path, tmp_path: Path, graph: bool, ours: float
) -> None:
    trial = trial_of(tmp_path, graph)
    second_opinion.ask(trial, 8)
    told = trial.conditions["trtexec"]
    assert (told["ours_p50_ms"], told["ratio"]) == (pytest.approx(ours), pytest.approx(ours / 0.8))
    assert "--shapes=images:8x3x112x96" in asked(installed)
    assert ("--useCudaGraph" in told["switches"]) is graph
    assert not trial.faults


def test_a_row_that_it_fails_on_is_not_at_fault(installed: Path, tmp_path: Path) -> None:
    (installed / "status").write_text("1")
    trial = trial_of(tmp_path, True)
    second_opinion.ask(trial, 1)
    assert set(trial.conditions["trtexec"]) == {"fault"}
    assert not trial.faults


def test_an_engine_that_was_replaced_or_is_not_signed_is_not_given_to_it(installed: Path, tmp_path: Path) -> None:
    unsigned, replaced = trial_of(tmp_path, True), trial_of(tmp_path, True)
    unsigned.target = unsigned.target.model_copy(update={"require_signature": True})
    second_opinion.ask(unsigned, 8)
    replaced.jobs.model.write_bytes(b"engine of another")
    second_opinion.ask(replaced, 8)
    for trial in (unsigned, replaced):
        assert set(trial.conditions["trtexec"]) == {"fault"}
    assert not (installed / "asked").exists()


def test_other_back_ends_and_rows_without_stages_are_not_asked(installed: Path, tmp_path: Path) -> None:
    for trial in (trial_of(tmp_path, True, "tensorrt_rtx"), trial_of(tmp_path, True)):
        if trial.target.backend == "tensorrt":
            trial.stages = []
        second_opinion.ask(trial, 1)
        assert "trtexec" not in trial.conditions
    assert not (installed / "asked").exists()
