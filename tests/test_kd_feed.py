"""Images reach the step as they were asked for, however long they take; a faulty file is told as itself."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd2edge.data import Images, InMemory, Ints, Split, open_source
from kd2edge.errors import UserError
from kd2edge.kd import feed
from kd2edge.kd.feed import Feed
from tests import tiny

pytestmark = pytest.mark.kd
CPU = torch.device("cpu")
COUNT = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 5, 4, 3), np.uint8)
LABELS = np.arange(COUNT) * 7

index_lists = st.lists(st.lists(st.integers(0, COUNT - 1), max_size=6), max_size=9)


class Slow(Split):
    """Reads in its own time, one call at a time, and fails where it is told to."""

    def __init__(self, naps: list[int] | None = None, fault: int | None = None) -> None:
        self.labels, self.groups, self.classes = LABELS, {}, []
        self.naps, self.fault, self.calls = naps or [0], fault, 0
        self._alone = threading.Lock()

    def read(self, index: Ints) -> Images:
        assert self._alone.acquire(blocking=False), "two calls at a time"
        try:
            time.sleep(self.naps[self.calls % len(self.naps)] / 1000)
            self.calls += 1
            if self.calls - 1 == self.fault:
                raise UserError("cat.jpg cannot be decoded.", "take the file anew")
            return IMAGES[index]
        finally:
            self._alone.release()


def held(images: Images = IMAGES) -> InMemory:
    return InMemory(images, LABELS, {}, [])


def as_arrays(index: list[list[int]]) -> list[Ints]:
    return [np.array(one, np.int64) for one in index]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


def check(data: Split, wanted: list[Ints]) -> None:
    found = list(Feed(data, CPU).batches(wanted))
    assert len(found) == len(wanted)
    for (images, labels), index in zip(found, wanted, strict=True):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(images.numpy(), IMAGES[index])
        np.testing.assert_array_equal(labels.numpy(), LABELS[index])
    assert threads() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(index_lists, st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_order_and_contents_are_those_asked_for(index: list[list[int]], naps: list[int]) -> None:
    check(Slow(naps), as_arrays(index))
    check(held(), as_arrays(index))


def test_a_memory_map_and_what_must_not_be_written_to_are_read_as_well(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    fixed = IMAGES.copy()
    fixed.setflags(write=False)
    wanted = as_arrays([[3, 3, 0], [11], list(range(12))])
    assert not Feed(held(mapped), CPU).held  # which waits for a disk
    check(held(mapped), wanted)
    check(held(fixed), wanted)


def test_a_split_that_reads_by_itself_is_asked_to() -> None:
    class Inverted(InMemory):
        def read(self, index: Ints) -> Images:
            return 255 - self.images[index]

    check(Inverted(255 - IMAGES, LABELS, {}, []), as_arrays([[0, 1], [2, 3]]))


@pytest.mark.parametrize("fault", [0, 1, 5])
def test_a_readers_fault_arrives_as_itself_at_its_batch(fault: int) -> None:
    batches = Feed(Slow(fault=fault), CPU).batches(as_arrays([[n] for n in range(10)]))
    for _ in range(fault):
        next(batches)
    with pytest.raises(UserError, match=r"cat\.jpg cannot be decoded.*\n.*take the file anew"):
        next(batches)
    assert threads() == []


def test_a_corrupt_file_of_a_folder_is_named(tmp_path: Path) -> None:
    tiny.image_folder(tmp_path)
    (tmp_path / "train" / "red" / "03.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    split = open_source({"name": "imagefolder", "path": str(tmp_path), "size": 16}).split("train")
    with pytest.raises(UserError, match=r"red/03\.png"):
        list(Feed(split, CPU).batches(np.array_split(np.arange(len(split)), 5)))
    assert threads() == []


def test_leaving_early_leaves_no_thread() -> None:
    for _ in Feed(Slow([2]), CPU).batches(as_arrays([[n] for n in range(10)])):
        break
    assert threads() == []
    batches = Feed(Slow([2]), CPU).batches(as_arrays([[n] for n in range(10)]))
    next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt())
    assert threads() == []


@pytest.mark.parametrize(("room", "most"), [(1 << 28, feed.AHEAD), (3 * 60, 3), (1, 1)])
def test_reading_ahead_is_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch, room: int, most: int) -> None:
    """Of images of 60 bytes, however long the step takes: what was read waits."""
    monkeypatch.setattr(feed, "AHEAD_BYTES", room)
    data = Slow()
    batches = Feed(data, CPU).batches(as_arrays([[n % COUNT] for n in range(30)]))
    for taken in range(1, 9):
        next(batches)
        deadline = time.monotonic() + 5
        while data.calls < taken + most and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert data.calls == taken + most
    batches.close()


def test_what_fits_into_half_of_a_gpus_free_memory_is_copied_there_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK", 3 * 60 + 1)  # so that the last part is a smaller one
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * IMAGES.nbytes, 1 << 40))
    resident = feed._resident(IMAGES, CPU)
    assert resident is not None
    np.testing.assert_array_equal(resident.numpy(), IMAGES)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * IMAGES.nbytes - 2, 1 << 40))
    assert feed._resident(IMAGES, CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_gets_the_same() -> None:
    wanted = [np.random.default_rng(n).permutation(COUNT) for n in range(40)]
    for data in (held(), Slow([1, 0])):
        for (images, labels), index in zip(Feed(data, torch.device("cuda")).batches(wanted), wanted, strict=True):
            assert (images.device.type, labels.device.type) == ("cuda", "cuda")
            np.testing.assert_array_equal(images.cpu().numpy(), IMAGES[index])
            np.testing.assert_array_equal(labels.cpu().numpy(), LABELS[index])
