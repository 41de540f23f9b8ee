"""Suite: one YAML of `benchmarks/suites/`."""

from typing import Literal

from pydantic import Field, model_validator

from kd2edge.schema.corruption import Corruptions
from kd2edge.schema.scenario import Scenarios, Sweep
from kd2edge.schema.section import Plugin, Section


class Latency(Section):
    """The latency protocol: single stream, a fresh process, warm-up by time and by stability of the median.

    `energy` asks for joules too, where the machine tells them, after a second of idling before each process.
    """

    batch: int = Field(1, ge=1)
    warmup_ms: float = Field(200.0, ge=0)
    seconds: float = Field(10.0, gt=0)
    min_samples: int = Field(662, ge=1)
    energy: bool = False


class Rule(Section):
    """One condition a model must meet to ship.

    Exactly one bound: `at_least` or `at_most` on the number itself, or, against another row (`versus`), `drop_at_most`
    and `rise_at_most` in the metric's own unit, or `ratio_at_most`. `advice` rules never hold: they recommend.
    """

    metric: str
    of: str
    why: str
    versus: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    drop_at_most: float | None = None
    rise_at_most: float | None = None
    ratio_at_most: float | None = None
    advice: bool = False

    @model_validator(mode="after")
    def _one_bound(self) -> "Rule":
        absolute = [self.at_least, self.at_most]
        relative = [self.drop_at_most, self.rise_at_most, self.ratio_at_most]
        given = [bound for bound in absolute + relative if bound is not None]
        if len(given) != 1:
            raise ValueError(f"a rule has exactly one bound, this one has {len(given)}")
        if (self.versus is None) != all(bound is None for bound in relative):
            raise ValueError("`versus` goes with drop_at_most, rise_at_most or ratio_at_most, and they with it")
        return self


class Suite(Section):
    """One YAML of `benchmarks/suites/`: what to measure, and the rules a model must meet to ship.

    `split: val` is for choosing between recipes; what ships is judged on "test". A suite with a `data` section brings
    its own test set, which `--data PATH` completes; without one the images are those of the model or its run.
    """

    about: str
    split: Literal["test", "val"] = "test"
    data: Plugin | None = None
    latency: Latency = Latency()
    scenarios: Scenarios = ()
    sweep: Sweep | None = None
    corruptions: Corruptions | None = None  # none: damaged images are not measured
    regressions: bool = True  # whether the report shows images that compression broke; of faces better not
    quick: bool = False  # set by --quick
    signed: bool = False  # every artefact that a rule names must be signed
    confidence: float = Field(0.95, gt=0.5, lt=1)  # of what the gate says, all models that may ship together
    rules: tuple[Rule, ...]
