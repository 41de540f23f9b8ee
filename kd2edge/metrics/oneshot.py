"""20-way one-shot classification within an alphabet, after Lake et al., Science 350 (2015), section "One-shot
classification": 20 characters of one alphabet, one drawing each by one writer, to be found again in another's hand.

The episodes are our own seeded draw of that protocol, not the 20 runs that the authors published: compare with
published accuracies accordingly.
"""

from dataclasses import dataclass

import numpy as np

from kd2edge.errors import UserError
from kd2edge.metrics._cosine import Floats, Ints, unit


@dataclass(frozen=True)
class OneShot:
    """Share of trials won, their number, and the same accuracy by alphabet (its int64 id)."""

    accuracy: float
    trials: int
    by_alphabet: dict[int, float]


def one_shot(
    embeddings: Floats, labels: Ints, alphabets: Ints, writers: Ints, runs: int = 20, ways: int = 20, seed: int = 0
) -> OneShot:
    """Nearest neighbour by cosine in `runs` episodes of `ways` trials for each alphabet.

    `embeddings` is float32 [N, D]; `labels` (characters), `alphabets` and `writers` are int64 [N]. Raises `UserError`
    as `episodes` does, and for NaN, infinite or zero embeddings.
    """
    vectors = unit(embeddings, labels)
    won: dict[int, float] = {}
    for alphabet, support, query in episodes(labels, alphabets, writers, runs, ways, seed):
        cosines = vectors[query] @ vectors[support].transpose(0, 2, 1)
        won[alphabet] = float(np.mean(np.argmax(cosines, axis=2) == np.arange(ways)))
    return OneShot(accuracy=float(np.mean(list(won.values()))), trials=len(won) * runs * ways, by_alphabet=won)


def episodes(
    labels: Ints, alphabets: Ints, writers: Ints, runs: int = 20, ways: int = 20, seed: int = 0
) -> list[tuple[int, Ints, Ints]]:
    """(alphabet, support, query) for each alphabet of at least `ways` characters; rows, int64 [runs, ways] each.

    Column j of both is the same character, by one writer in the support and by another in the query. An alphabet's
    episodes depend on its characters and writers and on the seed, not on other alphabets nor on the order of rows.
    Raises `UserError` if no alphabet has `ways` characters and two writers, or a drawing of an episode is missing.
    """
    drawing = {key: row for row, key in enumerate(zip(labels.tolist(), writers.tolist(), strict=True))}
    found = []
    for alphabet in np.unique(alphabets).tolist():
        characters = np.unique(labels[alphabets == alphabet])
        hands = np.unique(writers[alphabets == alphabet])
        random = np.random.RandomState((seed, alphabet))  # numpy froze its stream; that of Generator may change
        if len(characters) >= ways and len(hands) >= 2:
            draws = [(random.permutation(characters)[:ways], random.permutation(hands)[:2]) for _ in range(runs)]
            found.append((alphabet, *(_rows(drawing, draws, side) for side in (0, 1))))
    if not found:
        raise UserError(f"No alphabet has {ways} characters by two writers.", f"lower `ways` = {ways}")
    return found


def _rows(drawing: dict[tuple[int, int], int], draws: list[tuple[Ints, Ints]], side: int) -> Ints:
    """The rows of each draw's characters by the first (support) or second (query) of its two writers."""
    wanted = [[(int(character), int(hands[side])) for character in characters] for characters, hands in draws]
    missing = [key for keys in wanted for key in keys if key not in drawing]
    if missing:
        raise UserError(f"{len(missing)} drawings are missing, the first of character {missing[0][0]}.")
    return np.array([[drawing[key] for key in keys] for keys in wanted], np.int64)
