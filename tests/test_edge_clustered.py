"""Intervals over clusters: what draws that are alike, lost or too few can still tell."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from kd2edge import stats
from kd2edge.edge.clustered import LOST, Clustered, clustered
from tests.test_edge_comparisons import Ints, of_labels


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_of_a_few_people_is_not_certain(share: float) -> None:
    few = Clustered(lambda weights: np.full(len(weights), share), 20, "identities")
    found, how = few.interval(0.95)
    assert found == pytest.approx(stats.share_interval(share, 20))
    assert how == "2,000 resamples of 20 identities, all of them alike"


def test_draws_that_are_lost_may_all_lie_beyond_one_end() -> None:
    """Those of the highest values: an interval of the rest would end too early."""
    value = np.random.default_rng(0).standard_normal(60)

    def cut(below: float) -> Clustered:
        def mean(weights: Ints) -> npt.NDArray[np.float64]:
            drawn = np.asarray(weights @ value / 60, np.float64)
            return np.where(drawn < below, drawn, np.nan)

        return Clustered(mean, 60, "subjects")

    draws = stats.bootstrap(cut(np.inf).statistic, 60).draws
    assert cut(float(np.quantile(draws, 0.96))).interval(0.95)[0] is None
    assert cut(float(np.quantile(draws, 0.999))).interval(0.95)[0] is not None


def test_too_few_clusters_have_no_interval_and_say_why() -> None:
    def share(weights: Ints) -> npt.NDArray[np.float64]:
        return np.asarray(weights @ np.arange(weights.shape[1]) / weights.sum(axis=1), np.float64)

    def lost(weights: Ints) -> npt.NDArray[np.float64]:
        return np.where(weights[:, 0] > 0, 0.5, np.nan)

    cases = {
        "1 of subjects shows no spread": Clustered(share, 1, "subjects"),
        "too few draws of 2,000 resamples of 4 subjects lie beyond": Clustered(share, 4, "subjects"),
        "have the pairs it takes": Clustered(lost, 30, "identities"),
    }
    for reason, spread in cases.items():
        interval, how = spread.interval(0.95)
        assert interval is None
        assert re.match(f"no interval.*{reason}", how), how
    assert LOST * 0.025 < 0.3  # a third of draws miss any one of thirty
    assert clustered("oneshot_20way", np.ones((4, 2), np.float32), of_labels(np.arange(4) // 2), {}) is None
