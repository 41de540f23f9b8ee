"""SIGKILL at random moments of a training with every speed feature on, each resumed: python benchmarks/kills.py.

One run is left in peace; it says how long the whole takes and what it comes to. Each further run is killed at a moment
drawn by seed over that time (imports, compilation, stage borders and exports included) and resumed by `kd2edge distill
--resume`. All that matters must then be the unbroken run's, bit for bit: weights, ONNX, probes, and the logs but for
their seconds. The training is one of the package's Omniglot; a checkpoint is written every second instead of every ten
minutes, so that most kills find one in the middle of an epoch.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge.edge.devices import fingerprint, versions
from kd2edge.files import write_atomic
from kd2edge.run import Run

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "kills.json"
RECIPE = "omniglot_writers"
SETTINGS = {
    "data.size": "16",
    "method": "{name: sh_kd, teacher: tuned, tune_epochs: 1, distil: {name: kd, gamma: 0.5, alpha: 4, tau: 4}}",
    "teacher.remember": "true",
    "teacher.train.compile": "'on'",  # in quotes, since YAML's own `on` is true
    "train.epochs": "2",
    "train.accumulate": "2",
    "train.clip": "5",
    "train.ema": "0.99",
    "train.precision": "bf16",
    "train.compile": "'on'",
    "validation": "{split: val, every: 1}",
    "track": "[tensorboard]",
    "compare": "[]",
}
SAVE_SECONDS = 1.0
TIMED = ("seconds",)  # keys of a log's line that no two runs share
COMPARED = ("*.safetensors", "*.onnx", "*.probe.npz", "train/**/*.safetensors", "log/*.jsonl")
LEG = """
import sys
from kd2edge.kd import train
train.Trainer.__init__.__kwdefaults__["save_seconds"] = float(sys.argv.pop(1))
from kd2edge.cli import main
main()
"""


@dataclass(frozen=True)
class Plan:
    """What is trained: a recipe's name or path with settings, by so many threads, saved every so many seconds."""

    recipe: str = RECIPE
    settings: Mapping[str, str] = field(default_factory=lambda: dict(SETTINGS))
    threads: int = 1
    save_seconds: float = SAVE_SECONDS
    cache: Path | None = None

    def start(self, run: Path, resume: bool) -> "subprocess.Popen[bytes]":
        """`kd2edge distill` in a process group of its own, its output beside the run."""
        options = [f"--set={key}={value}" for key, value in self.settings.items()]
        words = ["distill", self.recipe, "--run", str(run), *options, *(["--resume"] if resume else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": str(ROOT)}
        if self.cache is not None:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.cache)
        run.parent.mkdir(parents=True, exist_ok=True)
        with (run.parent / "output.txt").open("ab") as output:
            command = [sys.executable, "-c", LEG, str(self.save_seconds), *words]
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)

    def finish(self, run: Path, resume: bool) -> float:
        """Run to the end; seconds. Raises SystemExit with what was said last, where it fails."""
        began = time.perf_counter()
        process = self.start(run, resume)
        if process.wait():
            last = (run.parent / "output.txt").read_text(errors="replace").strip().splitlines()[-5:]
            raise SystemExit(f"{run} ended with {process.returncode}: {' / '.join(last)}")
        return time.perf_counter() - began


def killed(plan: Plan, run: Path, moments: Sequence[float], once_it_saves: bool = False) -> list[str]:
    """Kill a run once or more, each time so many seconds after it was started, and resumed; where each kill found it.

    With `once_it_saves` the seconds count from the first checkpoint that each process writes. A process that ends by
    itself before its moment is no kill: "it had ended".
    """
    found = []
    for number, moment in enumerate(moments):
        before = _saved(run)
        process = plan.start(run, resume=number > 0)
        while once_it_saves and process.poll() is None and _saved(run) == before:
            time.sleep(0.01)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found.append(where(run))
        else:
            found.append("it had ended")
    return found


def _saved(run: Path) -> int:
    """When a checkpoint was written last, in ns; 0 where there is none."""
    found = list((run / "train").glob("*/*.safetensors"))
    with contextlib.suppress(FileNotFoundError):  # replaced just now
        return max((path.stat().st_mtime_ns for path in found), default=0)
    return time.time_ns()


def where(run: Path) -> str:
    """What a kill interrupted, from what it left."""
    if not (run / "ledger.jsonl").exists():
        return "before the run was begun"
    roles = sorted(path.stem for path in run.glob("*.onnx"))
    begun = sorted((run / "train").glob("*/*.partial.safetensors"), key=lambda path: path.stat().st_mtime)
    done = sorted(path.stem for path in (run / "train").glob("*/*.safetensors") if ".partial" not in path.name)
    made = f"{len(done)} stages done, {len(roles)} nets exported"
    if begun:
        stage = begun[-1].name.removesuffix(".partial.safetensors")
        return f"in stage {stage}, {_epochs(run, begun[-1].parent.name, stage)} epochs logged; {made}"
    return f"between two checkpoints; {made}"


def _epochs(run: Path, role: str, stage: str) -> int:
    return sum(line["stage"] == stage for line in _lines(run / "log" / f"{role}.jsonl"))


def _lines(log: Path) -> list[dict[str, Any]]:
    """A log's whole lines; a kill may have torn the last."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def digests(run: Path) -> dict[str, str]:
    """sha256 of all that matters of a finished run, by its path in there; of a log without what it says of time."""
    found = {}
    for path in sorted({path for pattern in COMPARED for path in run.glob(pattern)}):
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            lines = [{key: value for key, value in line.items() if key not in TIMED} for line in _lines(path)]
            content = json.dumps(lines).encode()
        found[str(path.relative_to(run))] = hashlib.sha256(content).hexdigest()
    entered = sorted({f"{event['role']} {event['sha256']}" for event in Run(run).events() if "sha256" in event})
    return {**found, "what the ledger holds": hashlib.sha256("\n".join(entered).encode()).hexdigest()}


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The files that are not the same, or are in one of the two alone."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def one_killed(plan: Plan, unbroken: Mapping[str, str], folder: Path, given: tuple[int, float]) -> dict[str, Any]:
    """A run of its own, killed at a moment, resumed, and compared."""
    number, moment = given
    run = folder / f"kill-{number}" / "run"
    (found,) = killed(plan, run, [moment])
    seconds = plan.finish(run, resume=True)
    apart = differing(unbroken, digests(run))
    told = {"at_s": round(moment, 2), "found": found, "resumed_s": round(seconds, 1), "differing": apart}
    print(f"{number + 1}: killed at {moment:.1f} s, {found}: {apart or 'as unbroken'}", flush=True)
    shutil.rmtree(run.parent)
    return told


def report(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    load = os.getloadavg()[0]
    plan = Plan(threads=given.threads, cache=folder / "inductor")
    plan.finish(folder / "first" / "run", resume=False)  # compiles into the empty cache
    seconds = plan.finish(folder / "unbroken" / "run", resume=False)
    unbroken = digests(folder / "unbroken" / "run")
    again = differing(unbroken, digests(folder / "first" / "run"))
    print(f"unbroken: {seconds:.1f} s, {len(unbroken)} files compared; another one differs in {again}", flush=True)
    moments = np.random.default_rng(given.seed).uniform(0, seconds, given.moments).tolist()
    with ThreadPoolExecutor(given.at_once) as pool:
        kills = list(pool.map(partial(one_killed, plan, unbroken, folder), enumerate(moments)))
    options = f"--moments {given.moments} --seed {given.seed} --at-once {given.at_once} --threads {given.threads}"
    landed = [kill for kill in kills if kill["found"] != "it had ended"]
    return {
        "command": f"python benchmarks/kills.py {options}",
        "recipe": {"name": plan.recipe, "settings": plan.settings},
        "conditions": {
            "threads": given.threads,
            "runs_at_once": given.at_once,
            "save_seconds": plan.save_seconds,
            "load": round(load, 2),
            "unbroken_s": round(seconds, 1),
            "compared": sorted(unbroken),
        },
        "device": fingerprint(),
        "versions": versions(),
        "another_unbroken_run_differs_in": again,
        "kills": kills,
        "met": {"kills": len(landed), "bit_identical": sum(not kill["differing"] for kill in landed)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--work", type=Path, help="folder to work in; by default a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        made = report(given, Path(folder))
    print(json.dumps(made["met"]))
    write_atomic(given.out, (json.dumps(made, indent=1) + "\n").encode())
    if made["met"]["bit_identical"] < made["met"]["kills"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
