"""Who bears the errors: TAR and FAR of each group of listed pairs at one threshold for all, and what compression did.

"Compressed Models Decompress Race Biases" (2308.11840) is why groups are told apart: one may lose what the whole keeps.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd2edge.data import PairList
from kd2edge.metrics import accepted_by_group
from kd2edge.metrics.listed import Doubles
from kd2edge.report.model import Number

Shares = Mapping[str, Mapping[str, Mapping[str, Any]]]


def shares(alike: Doubles, pairs: PairList, threshold: float) -> Shares:
    """By column and value: `tar` and `far` in % of [P] cosines, None of no pairs, and how many pairs there are."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, group in pairs.subgroups.items():
        names = pairs.subgroup_names[column]
        for name, one in zip(names, accepted_by_group(threshold, alike, pairs.same, group, len(names)), strict=True):
            rates = {"tar": _percent(one.tar), "far": _percent(one.far)}
            found.setdefault(column, {})[name] = {**rates, "genuine": one.genuine, "impostor": one.impostor}
    return found


def worst(found: Shares) -> dict[str, Number]:
    """The least TAR and the highest FAR of any group, for rules to bound."""
    tars, fars = (list(_of(found, name, count)) for name, count in (("tar", "genuine"), ("far", "impostor")))
    numbers = {}
    if tars:
        numbers["subgroup_tar"] = _number(min(tars), "%", "higher", f"least of {len(tars)} groups")
    if fars:
        numbers["subgroup_far"] = _number(max(fars), "%", "lower", f"highest of {len(fars)} groups")
    return numbers


def changes(after: Shares, before: Shares) -> tuple[dict[str, Number], Shares]:
    """The largest loss of TAR of any group, in points, and by column and value how `tar` and `far` changed.

    Both are shares at one threshold, FP32's: a threshold found anew would hide what is lost at the deployed one.
    """
    found = {
        column: {value: _change(one, before[column][value]) for value, one in values.items()}
        for column, values in after.items()
    }
    lost = [(0 - change, group, n) for change, group, n in _of(found, "tar", "genuine")]
    if not lost:
        return {}, found
    return {"subgroup_tar_drop": _number(max(lost), "points", "lower", f"largest of {len(lost)} groups")}, found


def _change(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A group of no such pairs has no share, before and after."""
    shares = {name: None if after[name] is None else after[name] - before[name] for name in ("tar", "far")}
    return {**shares, "genuine": after["genuine"], "impostor": after["impostor"]}


def _of(found: Shares, name: str, count: str) -> Iterator[tuple[float, str, int]]:
    """(share, "column value", number of pairs) of each group that has such pairs."""
    for column, values in found.items():
        for value, one in values.items():
            if one[name] is not None:
                yield one[name], f"{column} {value}", one[count]


def _number(found: tuple[float, str, int], unit: str, better: str, which: str) -> Number:
    value, group, n = found
    fields = {"value": value, "unit": unit, "n": n, "better": better, "note": f"{which}: {group}"}
    return Number.model_validate(fields)


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else 100 * share
