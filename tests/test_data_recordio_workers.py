"""One `.rec` and several processes: each opens it by itself, together they give every record once, in seeded order."""

import multiprocessing
import os
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd2edge.data import Ints, _aligned, open_source
from kd2edge.errors import UserError
from tests.test_data_insightface import SIDE, jpeg, pixels
from tests.test_data_insightface_rec import framed, header

IMAGES, WORKERS, SEED = 60, 4, 11
WAIT = 60  # seconds for a worker that died or hangs
PICTURES = [jpeg(seed) for seed in range(IMAGES)]
PEOPLE = np.random.default_rng(SEED + 1).permutation(IMAGES)


def many(folder: Path) -> dict[str, Any]:
    """Sixty images of as many people, no two alike, the people in another order."""
    content, index = b"", ""
    for number in range(1, IMAGES + 1):
        index += f"{number}\t{len(content)}\n"
        content += framed(header([float(PEOPLE[number - 1])], number) + PICTURES[number - 1])
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text(f"{IMAGES},{SIDE},{SIDE}")
    return {"name": "insightface_rec", "path": str(folder)}


def share(worker: int) -> Ints:
    """Every fourth position of one shuffled order, from the worker's own on."""
    return np.random.default_rng(SEED).permutation(IMAGES)[worker::WORKERS].astype(np.int64)


def work(options: dict[str, Any], worker: int, results: Any) -> None:
    split = open_source(options).split("train")
    index = share(worker)
    sums = [int(total) for total in split.read(index).sum(axis=(1, 2, 3))]
    results.put((worker, split.labels[index].tolist(), sums, os.getpid()))


def test_four_workers_give_every_record_once_in_a_seeded_order(tmp_path: Path) -> None:
    options = many(tmp_path)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    args = [(options, worker, results) for worker in range(WORKERS)]
    workers = [context.Process(target=work, args=one, daemon=True) for one in args]
    for process in workers:
        process.start()
    found = sorted(results.get(timeout=WAIT) for _ in workers)
    for process in workers:
        process.join(WAIT)
    assert len({pid for *_, pid in found} | {os.getpid()}) == WORKERS + 1
    assert sorted(label for _, labels, *_ in found for label in labels) == list(range(IMAGES))
    for worker, labels, sums, _ in found:
        assert labels == PEOPLE[share(worker)].tolist()
        assert sums == [int(pixels(PICTURES[place]).sum()) for place in share(worker)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_waits_for_no_thread_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aligned, "THREADS", 2)
    split = open_source(many(tmp_path)).split("train")
    expected = split.read(np.arange(IMAGES))
    assert threading.active_count() > 1, "the parent has threads that a fork does not copy"
    out, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forking with threads
        child = os.fork()
    if child == 0:
        os.write(end, b"1" if np.array_equal(split.read(np.arange(IMAGES)), expected) else b"0")
        os._exit(0)
    os.close(end)
    ready = threading.Timer(60, os.kill, (child, 9))
    ready.start()
    with os.fdopen(out, "rb") as file:
        answer = file.read()
    ready.cancel()
    os.waitpid(child, 0)
    assert answer == b"1", "the child hung, or read something else"


def test_a_fault_reaches_the_parent_of_a_worker_as_it_is(tmp_path: Path) -> None:
    options = many(tmp_path)
    (tmp_path / "train.rec").write_bytes(bytes(1 << 16))
    with pytest.raises(UserError, match="Record 1 of") as caught:
        open_source(options).split("train")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (UserError, str(caught.value))
