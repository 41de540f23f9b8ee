"""`--quick`: any suite in a fraction of its time, and what that leaves unsaid."""

from kd2edge.schema.scenario import Scenario
from kd2edge.schema.suite import Suite

LATENCY_SECONDS = 1.5
SCENARIO_SECONDS = 2.0
SWEEP_SECONDS = 0.5
WARMUP_MS = 100.0
DAMAGED_IMAGES = 256

UNSAID = (
    "Measured with --quick: too briefly to meet throttling or the rare slow call. No claim about speed may rest on it, "
    "no rule on speed ships by it, and it is no baseline."
)


def quickened(suite: Suite) -> Suite:
    """The suite with 1.5 s of latency, 2 s for a scenario and half a second for a cell of its sweep, or what it had.

    A slow model may take up to six times as long, as ever, to have the samples that a percentile needs.
    """
    warmup = min(suite.latency.warmup_ms, WARMUP_MS)
    latency = {"seconds": min(suite.latency.seconds, LATENCY_SECONDS), "warmup_ms": warmup}
    changes = {
        "quick": True,
        "latency": suite.latency.model_copy(update=latency),
        "scenarios": tuple(_brief(scenario) for scenario in suite.scenarios),
    }
    if suite.sweep is not None:
        changes["sweep"] = suite.sweep.model_copy(update={"seconds": min(suite.sweep.seconds, SWEEP_SECONDS)})
    if suite.corruptions is not None:
        images = min(suite.corruptions.images, DAMAGED_IMAGES)
        changes["corruptions"] = suite.corruptions.model_copy(update={"images": images})
    return suite.model_copy(update=changes)


def _brief(scenario: Scenario) -> Scenario:
    """A search of the server's rate shares the seconds among its tries."""
    tries = scenario.tries if scenario.kind == "server" and scenario.rate is None else 1
    brief = {"seconds": min(scenario.seconds, SCENARIO_SECONDS / tries)}
    return scenario.model_copy(update={**brief, "warmup_ms": min(scenario.warmup_ms, WARMUP_MS)})
