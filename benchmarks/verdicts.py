"""How often the verdicts are right: simulated models whose true difference is known, judged as a gate would judge.

    python benchmarks/verdicts.py [--runs 4000] [--out FILE]

Every case draws so many experiments from one truth and counts what `kd2edge.stats` says of each at 95 %. `wrong` names
the verdicts that would be false, `allowed` how often each of them may fall by the law of the method: 0.025 beyond a
bound. Where that cannot be kept, `stated` is what is to be expected of all of them together, and `why` the reason.
`claimed` is the verdict that is to fall with the chance `power`, for which the number of samples was chosen. Intervals
are Wilson's at 95 %. Truths are drawn from seeds, by no clock: who repeats it counts the same.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from kd2edge import stats
from kd2edge.stats import Says

RESULT = Path(__file__).parent / "results" / "verdicts.json"
IMAGES, MARGIN, DISCORDANT = 2000, 0.01, 0.04
CONFIDENCE, Z = 0.95, 1.959964
SHIP: tuple[Says, ...] = ("ship",)
HOLD: tuple[Says, ...] = ("hold",)
BOTH: tuple[Says, ...] = ("ship", "hold")

Judged = Callable[[np.random.Generator], Says]


@dataclass(frozen=True)
class Case:
    """A truth, what says ship or hold about it, and which of the verdicts would be false how often at most."""

    name: str
    truth: str
    judge: Judged
    wrong: tuple[Says, ...]
    stated: float | None = None
    why: str | None = None
    claimed: Says | None = None


def lost_and_won(random: np.random.Generator, n: int, drop: float, discordant: float = DISCORDANT) -> tuple[int, int]:
    lost, won, _ = random.multinomial(n, [(discordant + drop) / 2, (discordant - drop) / 2, 1 - discordant])
    return int(lost), int(won)


def accuracy(drop: float, n: int = IMAGES, discordant: float = DISCORDANT, margin: float = MARGIN) -> Judged:
    """Independent images, right or wrong, by Tango's interval."""

    def judge(random: np.random.Generator) -> Says:
        lost, won = lost_and_won(random, n, drop, discordant)
        return stats.decide(stats.drop_interval(lost, won, n), margin, "at_most")

    return judge


def looked_twice(confidence: float) -> Judged:
    """On the margin; where the first look is undecided, as many images more as it asks for, at most nine times."""

    def judge(random: np.random.Generator) -> Says:
        lost, won = lost_and_won(random, IMAGES, MARGIN)
        says = stats.decide(stats.drop_interval(lost, won, IMAGES, confidence), MARGIN, "at_most")
        if says != "undecided":
            return says
        n = min(stats.drop_samples(lost, won, IMAGES, MARGIN) or 10 * IMAGES, 10 * IMAGES)
        more = lost_and_won(random, max(1, n - IMAGES), MARGIN)
        total = IMAGES + max(1, n - IMAGES)
        return stats.decide(stats.drop_interval(lost + more[0], won + more[1], total, confidence), MARGIN, "at_most")

    return judge


def several(drops: tuple[float, ...], confidence: float, ships: Callable[[list[Says]], bool]) -> Judged:
    """Independent rules or models at once: "ship" where `ships` says so of their verdicts, "hold" where one holds."""

    def judge(random: np.random.Generator) -> Says:
        counts = [lost_and_won(random, IMAGES, drop) for drop in drops]
        said = [stats.decide(stats.drop_interval(*c, IMAGES, confidence), MARGIN, "at_most") for c in counts]
        return "ship" if ships(said) else "hold" if "hold" in said else "undecided"

    return judge


def every(said: list[Says]) -> bool:
    return set(said) == {"ship"}


def some(said: list[Says]) -> bool:
    return "ship" in said


def clustered(drop: float, subjects: int, spread: float, by_images: bool = False) -> Judged:
    """Subjects with 25 images each, who are lost and won at rates of their own: beta laws of concentration `spread`."""
    pairs, won = 25, 0.03

    def judge(random: np.random.Generator) -> Says:
        rates = [random.beta(spread * p, spread * (1 - p), subjects) for p in (won + drop, won)]
        either = random.multinomial(pairs, np.stack([*rates, np.maximum(0, 1 - sum(rates))], axis=1))
        if by_images:
            counts = either.sum(axis=0)
            return stats.decide(stats.drop_interval(counts[0], counts[1], pairs * subjects), MARGIN, "at_most")
        lost = (either[:, 0] - either[:, 1]) / pairs
        drawn = stats.bootstrap(lambda weights: weights @ lost / subjects, subjects)
        return stats.decide(drawn.interval(CONFIDENCE), MARGIN, "at_most")

    return judge


def latency(ratio: float, q: float = 50, own: float = 0.5, n: int = 600) -> Judged:
    """Turns on a machine that drifts (both models alike), each with autocorrelated noise and one spike in fifty."""

    def judge(random: np.random.Generator) -> Says:
        shared = wandering(random, n, 0.95, 0.05)
        ms = [np.exp(shared + wandering(random, n, own, 0.1)) * spikes(random, n) for _ in range(2)]
        taken = stats.in_stretches(ratio * ms[0]), stats.in_stretches(ms[1])
        return stats.decide(stats.percentile_ratio(*taken, q).interval(CONFIDENCE), 1.0, "at_most")

    return judge


def wandering(random: np.random.Generator, n: int, kept: float, deviation: float) -> np.ndarray[Any, Any]:
    """A stationary first-order autoregression, float64 [n], of which each keeps a share of the one before."""
    noise, out = random.normal(0, deviation * sqrt(1 - kept**2), n), np.empty(n)
    last = random.normal(0, deviation)
    for place, step in enumerate(noise.tolist()):
        last = kept * last + step
        out[place] = last
    return out


def spikes(random: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    return np.where(random.random(n) < 0.02, 1 + random.exponential(2, n), 1.0)


def powered(drop: float) -> int:
    """Images by `drop_samples` at the true rates, on a million of them."""
    many = 1_000_000
    lost, won = round(many * (DISCORDANT + drop) / 2), round(many * (DISCORDANT - drop) / 2)
    return stats.drop_samples(lost, won, many, MARGIN) or 0


def cases() -> Iterator[Case]:
    pairs = f"{IMAGES} images, {DISCORDANT:.0%} told apart, drop of at most 1 point allowed, true drop"
    yield Case("accuracy, far worse", f"{pairs} 3 points", accuracy(0.03), SHIP)
    yield Case("accuracy, on the margin", f"{pairs} 1 point", accuracy(MARGIN), BOTH)
    yield Case("accuracy, equal", f"{pairs} 0", accuracy(0.0), HOLD)
    yield Case("accuracy, better", f"{pairs} -1 point", accuracy(-0.01), HOLD)
    enough = powered(0.0), powered(0.02)
    told = "images, as many as `drop_samples` asks for; true drop"
    yield Case("accuracy, equal, n chosen", f"{enough[0]} {told} 0", accuracy(0.0, enough[0]), HOLD, claimed="ship")
    yield Case(
        "accuracy, worse, n chosen", f"{enough[1]} {told} 2 points", accuracy(0.02, enough[1]), SHIP, claimed="hold"
    )
    few = "3000 images, 0.3 % told apart, all of them lost, truly as many as allowed"
    skew = "the upper tail of so few losses is longer than a normal one"
    sparse = accuracy(0.003, 3000, 0.003, 0.003)
    yield Case("accuracy, on the margin, only losses", few, sparse, SHIP)
    yield Case("accuracy, on the margin, only losses, held", few, sparse, HOLD, 0.045, skew)
    twice = "on the margin; where undecided, images are added and all judged again, at"
    known = "two looks are two chances"
    yield Case("looked twice", f"{twice} 0.95", looked_twice(CONFIDENCE), BOTH, 0.1, known)
    halves = stats.simultaneous(CONFIDENCE, 2)
    yield Case("looked twice, corrected", f"{twice} {halves:g}", looked_twice(halves), BOTH)


def together() -> Iterator[Case]:
    """Several rules and several models, with a correction and without."""
    rules, broken = (-0.02,) * 4, (MARGIN,)
    ships = "ships if all ship, no correction"
    yield Case("five rules, one on its margin", ships, several((*rules, *broken), CONFIDENCE, every), SHIP)
    why, held = "one hold holds: five chances", "holds if one holds, no correction"
    yield Case("five rules, all on their margins", held, several(5 * broken, CONFIDENCE, every), HOLD, 0.125, why)
    fifth = stats.simultaneous(CONFIDENCE, 5)
    yield Case("five rules, corrected", f"the same at {fifth:g}", several(5 * broken, fifth, every), HOLD)
    why, ships = "three chances to ship", "wrong if any ships"
    yield Case("three models, on the margin", ships, several(3 * broken, CONFIDENCE, some), SHIP, 0.075, why)
    third = stats.simultaneous(CONFIDENCE, 3)
    yield Case("three models, corrected", f"the same at {third:.4g}", several(3 * broken, third, some), SHIP)


def dependent() -> Iterator[Case]:
    """Clusters and autocorrelated latencies."""
    people = "100 subjects of 25 pairs at rates of their own (beta, 30), 3 % won, 1 point allowed, true drop"
    yield Case("subjects, far worse", f"{people} 5 points", clustered(0.05, 100, 30), SHIP)
    yield Case("subjects, on the margin", f"{people} 1 point", clustered(MARGIN, 100, 30), BOTH)
    yield Case("subjects, equal", f"{people} 0", clustered(0.0, 100, 30), HOLD)
    yield Case("subjects, better", f"{people} -2 points", clustered(-0.02, 100, 30), HOLD)
    mistaken, why = clustered(MARGIN, 100, 30, by_images=True), "pairs of one subject are not independent"
    yield Case("subjects, taken for images", f"{people} 1 point, by Tango's interval", mistaken, BOTH, 0.15, why)
    uneven, why = "20 subjects, rates as uneven as beta, 10; true drop on the margin", "few show who is hit hardest"
    yield Case("subjects, few and uneven", uneven, clustered(MARGIN, 20, 10), SHIP, 0.05, why)
    turns = "600 turns, drift, noise kept by half from call to call, spikes; at most as slow allowed, true ratio"
    yield Case("latency p50, faster", f"{turns} 0.9", latency(0.9), HOLD)
    yield Case("latency p50, as fast", f"{turns} 1", latency(1.0), BOTH)
    yield Case("latency p50, slower", f"{turns} 1.1", latency(1.1), SHIP)
    yield Case("latency p90, as fast", f"{turns} 1", latency(1.0, 90), BOTH)
    long, why = "the same, but noise is kept by 0.9", "it outlasts a good part of a stretch of 30 turns"
    yield Case("latency p50, long memory", long, latency(1.0, own=0.9), BOTH, 0.09, why)


def wilson(count: int, runs: int) -> list[float]:
    centre = (count + Z**2 / 2) / (runs + Z**2)
    half = Z * sqrt(count * (runs - count) / runs + Z**2 / 4) / (runs + Z**2)
    return [round(max(0.0, centre - half), 5), round(min(1.0, centre + half), 5)]


def row(case: Case, runs: int, seed: int) -> dict[str, Any]:
    started, random = time.process_time(), np.random.default_rng(seed)
    said = Counter(case.judge(random) for _ in range(runs))
    wrong = sum(said[verdict] for verdict in case.wrong)
    told: dict[str, Any] = {"case": case.name, "truth": case.truth, "runs": runs}
    told |= {verdict: said[verdict] for verdict in ("ship", "hold", "undecided")}
    told |= {"wrong": list(case.wrong), "wrong_rate": round(wrong / runs, 5), "wrong_interval": wilson(wrong, runs)}
    if case.stated is None:
        told["allowed"] = round((1 - CONFIDENCE) / 2, 6)
    else:
        told |= {"stated": case.stated, "why": case.why}
    if case.claimed:
        told |= {"claimed": case.claimed, "claimed_rate": said[case.claimed] / runs, "power": stats.POWER}
    print(f"{case.name}: {dict(said)} {time.process_time() - started:.1f} s", flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    started = time.process_time()
    rows = [row(case, chosen.runs, seed) for seed, case in enumerate([*cases(), *together(), *dependent()])]
    result = {
        "command": shlex.join(["python", "benchmarks/verdicts.py", *sys.argv[1:]]),
        "conditions": {
            "confidence": CONFIDENCE,
            "resamples": stats.RESAMPLES,
            "seeds": "0, 1, ... by case",
            "numpy": np.__version__,
            "python": platform.python_version(),
            "cpu_seconds": round(time.process_time() - started),
        },
        "rows": rows,
    }
    chosen.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
