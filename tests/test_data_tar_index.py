"""The index kept beside a tar: damaged, made up or unwritable, it leads to no wrong label, no crash and no waiting."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from kd2edge.data import _tar_index
from kd2edge.data.imagenet import TARS
from kd2edge.errors import UserError
from tests.shards import drawn, write_shards
from tests.test_data_imagenet import VALIDATION, opened, write_list, write_tars
from tests.test_data_webdataset import split


@pytest.mark.parametrize("keep", [0, 7, 9, 300, -1])
def test_a_damaged_index_is_made_anew(keep: int, tmp_path: Path) -> None:
    folder = write_shards(tmp_path, count=1)
    expected, kept = split(folder).fingerprint(), folder / "train" / ".000.tar.index"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:keep])
    assert split(folder).fingerprint() == expected
    assert kept.read_bytes() == whole
    kept.write_bytes(whole.replace(b'"offsets"', b'"sezisXX"'))
    assert split(folder).fingerprint() == expected
    kept.write_bytes(whole[:-100] + b"\xff" * 100)  # offsets, sizes and labels beyond any file
    np.testing.assert_array_equal(split(folder).read(np.array([5]))[0], drawn(5))
    header = int.from_bytes(whole[:8], "little")
    labels = json.loads(whole[8 : 8 + header])["labels"]["data_offsets"][0] + 8 + header
    kept.write_bytes(whole[:labels] + b"\x03" + whole[labels + 1 :])
    assert split(folder).labels.tolist() == [0, 1, 2, 3, 4, 0], "a label with a bit more is none"
    for kind in (b"BF16", b"F8_E4M3"):
        kept.write_bytes(
            whole[:8] + whole[8 : 8 + header].replace(b'"I64"', b'"%s"' % kind)[:header] + whole[8 + header :]
        )
        assert split(folder).fingerprint() == expected
    kept.unlink()
    os.mkfifo(kept)
    assert split(folder).fingerprint() == expected


def test_where_nothing_can_be_written_the_index_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = write_shards(tmp_path)
    monkeypatch.setattr("kd2edge.files.tempfile.mkstemp", full)
    assert len(split(folder)) == 18
    assert list(folder.rglob(".*")) == []


def test_an_index_that_somebody_made_up_is_refused(tmp_path: Path) -> None:
    """It agrees with the tar and with itself: labels of no class, and fewer images than names."""
    root = write_tars(tmp_path / "x")
    ints = np.array([0, 0, 1 << 40], np.int64)
    forged = {"train": _tar_index.Index(ints * 0, ints * 0 + 10, ints, [])}
    forged["val"] = _tar_index.Index(*(ints[:2],) * 3, VALIDATION)
    for part, index in forged.items():
        with (root / TARS[part]).open("rb") as file:
            key = _tar_index._key(file, f"imagenet {part}")
        _tar_index._keep(root / f".{TARS[part]}.index", key, index)
    with pytest.raises(UserError, match=r"has labels without a class(.|\n)*hidden \.index"):
        opened(root, holdout=True).split("train")
    (root / f".{TARS['train']}.index").unlink()
    test = opened(root, val_labels=write_list(root)).split("test")
    assert (len(test), len(test.places.sizes), test.labels.tolist()) == (2, 2, [2, 2])
