"""What a suite's rules ask of the evidence: how sure its intervals must be, and TARs at which FARs have one."""

from kd2edge import stats
from kd2edge.edge.operating import OPERATING_FAR, far_of, power
from kd2edge.schema import Suite

CANDIDATES = ("int8", "fp16", "fp32")


def level(suite: Suite) -> float:
    """The confidence of every interval of a report, by which the suite's holds for all that might ship together.

    A candidate is one of int8, fp16 and fp32 that a rule decides about. See `stats.simultaneous`.
    """
    judged = {rule.of for rule in suite.rules if not rule.advice} & set(CANDIDATES)
    return stats.simultaneous(suite.confidence, max(1, len(judged)))


def fars(suite: Suite) -> tuple[float, ...]:
    """The FARs at which a rule names the TAR over all pairs, ascending; those that no number is named by are left out.

    A TAR at 2e-3 would be taken for that at 1e-3.
    """
    named = {far for rule in suite.rules if (far := far_of(rule.metric)) and rule.metric == f"tar@{power(far)}"}
    times = {OPERATING_FAR for rule in suite.rules if rule.metric == "tar_over_far"}
    return tuple(sorted(named | times))
