"""Many rules, many models: how often something is wrongly claimed, all claims together.

One model against several rules ships only if every rule says ship. Its null hypothesis, "some rule is broken", is
rejected only where each rule's own is: an intersection-union test, whose level is that of one rule, however many there
are and however they depend (Berger, Technometrics 24(4), 1982). P(a bad model ships) <= (1 - c) / 2 at intervals of
confidence c, and needs no correction.

A correction is needed where one claim of several being wrong does harm: of several models any may ship, so that P(some
bad model ships) grows with their number; a reader takes "rule 3 is met" out of a table; and one hold holds, so that a
model that is just good enough by m rules is held by chance up to m times as often. To hold wrongly costs a repetition
and ships nothing, which is why the first two are what must be kept, and the last is at choice.

`holm` keeps the familywise error of claims that come as p-values, by stepping down (Holm, Scandinavian Journal of
Statistics 6(2), 1979): never weaker than Bonferroni, but it has no simple intervals. `simultaneous` is Bonferroni's:
intervals of which none misses, with the confidence asked for, however they depend. A gate prints its intervals, and
what it says must be seen in them: it should use `simultaneous` over the models that might ship, or over models and
rules where it claims single rules, and `holm` only where there are no intervals.
"""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given: all claims with one of at most a are made at familywise error a.

    With one-sided p-values of "the bound is broken", P(a broken bound is claimed to be met) <= a. Raises `ValueError`
    for a p-value outside [0, 1] or NaN.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("a p-value lies between 0 and 1")
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def simultaneous(confidence: float, claims: int) -> float:
    """The confidence of each of so many intervals by which all of them hold with `confidence` together (Bonferroni).

    Raises `ValueError` for a confidence outside (0, 1) or no claims.
    """
    if not (0 < confidence < 1 and claims >= 1):
        raise ValueError(f"no intervals of confidence {confidence} for {claims} claims together")
    return 1 - (1 - confidence) / claims
