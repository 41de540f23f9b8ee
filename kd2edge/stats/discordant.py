"""McNemar's test, exact: did one model lose more of the images than it won, or is that how coins fall?

Of the images on which exactly one of two models is right, each falls to either with equal chance if they are equally
good; the rest say nothing. The exact test doubles a binomial tail and is timid; the mid-p one counts half of what was
observed itself, keeps to its level in all but a few settings and then by hardly more, and is what to report
(Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013). Neither bounds how much is lost: see
`proportions`.
"""

from dataclasses import dataclass

from kd2edge.stats._binomial import cdf, pmf


@dataclass(frozen=True)
class McNemar:
    """p-values of "equally good": against any difference, two-sided, and against "the model is worse"."""

    exact: float
    mid_p: float
    worse: float
    worse_mid_p: float


def mcnemar(lost: int, won: int) -> McNemar:
    """The tests on how many images the model alone gets wrong (`lost`) and alone gets right (`won`).

    Exchange the two for the alternative "the model is better". Raises `ValueError` for a negative count.
    """
    if min(lost, won) < 0:
        raise ValueError(f"{lost} and {won} are no counts of images")
    discordant, fewer = lost + won, min(lost, won)
    lower, itself = cdf(fewer, discordant, 0.5), pmf(fewer, discordant, 0.5)
    worse = cdf(won, discordant, 0.5)  # P(X >= lost), by symmetry
    return McNemar(min(1.0, 2 * lower), min(1.0, 2 * lower - itself), worse, worse - itself / 2)
