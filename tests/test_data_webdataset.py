"""WebDataset shards: samples, patterns, the index, and every way in which a shard can be wrong."""

import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd2edge.data import open_source
from kd2edge.data._packed import Packed
from kd2edge.data._shards import expanded
from kd2edge.errors import Faults, UserError
from tests.shards import SIDE, drawn, encoded, samples, tar_of, write_shards


def split(path: Path, name: str = "train", **options: Any) -> Packed:
    found = open_source({"name": "webdataset", "path": str(path), "size": SIDE, **options}).split(name)
    assert isinstance(found, Packed)
    return found


def one(folder: Path, content: bytes) -> Path:
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "0.tar").write_bytes(content)
    return folder


@pytest.mark.parametrize("field", ["", "label"])
def test_samples_come_in_the_shards_order(field: str, tmp_path: Path) -> None:
    folder = write_shards(tmp_path, field=field)
    train = split(folder, label=f"json.{field}" if field else "cls")
    assert train.labels.tolist() == [number % 5 for number in range(18)]
    assert (train.labels.dtype.name, train.classes) == ("int64", ["0", "1", "2", "3", "4"])
    index = np.array([17, 0, 6, 6, 5])
    np.testing.assert_array_equal(train.read(index), [drawn(number) for number in index])
    assert train.read(np.array([], np.int64)).shape == (0, SIDE, SIDE, 3)
    assert len(split(folder, "test", label=f"json.{field}" if field else "cls")) == 6


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 17), max_size=40))
def test_any_positions_in_any_order(tmp_path_factory: pytest.TempPathFactory, index: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    train = split(folder if folder.exists() else write_shards(folder))
    found = train.read(np.array(index, np.int64))
    np.testing.assert_array_equal(found, np.array([drawn(n) for n in index], np.uint8).reshape(-1, SIDE, SIDE, 3))


def test_threads_and_other_processes_read_alike(tmp_path: Path) -> None:
    train = split(write_shards(tmp_path))
    index = np.random.default_rng(0).integers(0, 18, 200)
    expected = train.read(index)
    with ThreadPoolExecutor(4) as pool:
        assert all((found == expected).all() for found in pool.map(train.read, [index] * 8))
    again = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(again.read(index), expected)
    assert again.fingerprint() == train.fingerprint()


def test_patterns_name_the_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set")
    (folder / "train").rename(folder / "all")
    assert split(folder, train="all/{000..002}.tar").labels.tolist() == [n % 5 for n in range(18)]
    assert split(folder, train="all/{002,000}.tar").read(np.array([0]))[0].tolist() == drawn(12).tolist()
    assert len(split(folder, "val", val="all/*.tar")) == 18
    assert len(split(tmp_path, "test", test=str(folder / "all" / "001.tar"))) == 6
    for pattern, words in (
        ("all/{000..009}.tar", r"no shard .*003\.tar"),
        ("all/{000..99999999}.tar", "no pattern of shards"),
        ("all/{0..999}{0..999}{0..9}.tar", "no pattern of shards"),
        ("all/{000.tar", "no pattern of shards"),
        ("all/{001,001}.tar", "a shard twice"),
        ("none/*.tar", "names no shards"),
        ("https://host/{00..10}.tar", "is an address"),
        ("pipe:cat x.tar", "is an address"),
    ):
        with pytest.raises(UserError, match=words):
            split(folder, train=pattern)
    with pytest.raises(UserError, match=r"no shards of a split 'val'(.|\n)*splits: test"):
        split(folder, "val")
    with pytest.raises(UserError, match="There are no shards in"):
        split(tmp_path / "nowhere")


def test_hidden_files_are_no_shards_such_as_the_index_of_one(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, count=1)
    for _ in range(2):
        assert len(split(folder, train="train/*")) == 6
    assert (folder / "train" / ".000.tar.index").is_file()
    (folder / "train" / "._000.tar").write_bytes(b"what macOS leaves")
    (folder / "train" / "001.tar").mkdir()
    assert len(split(folder)) == 6
    for pattern in ("train/**.tar", "**"):
        with pytest.raises(UserError, match="no pattern of shards"):
            split(folder, train=pattern)


def test_braces_are_those_of_a_shell() -> None:
    assert list(expanded("a")) == ["a"]
    assert list(expanded("{x,y}-{08..11}.tar")) == [f"{a}-{n}.tar" for a in "xy" for n in ("08", "09", "10", "11")]


def test_a_shard_is_indexed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, count=1)
    shard, kept = folder / "train" / "000.tar", folder / "train" / ".000.tar.index"
    first = split(folder)
    made = kept.read_bytes(), kept.stat().st_ino
    assert split(folder).fingerprint() == first.fingerprint()
    assert (kept.read_bytes(), kept.stat().st_ino) == made, "it is read, not made anew"
    stat = shard.stat()
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = split(folder)
    assert (len(changed), kept.stat().st_ino != made[1]) == (6, True)
    assert changed.fingerprint() != first.fingerprint()
    with pytest.raises(UserError, match=r"000\.tar was changed since it was indexed"):
        first.read(np.array([0]))
    shard.write_bytes(tar_of(samples(range(40, 48))))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (len(split(folder)), split(folder).labels[0]) == (8, 0), "another size at the same time"
    np.testing.assert_array_equal(split(folder).read(np.array([7]))[0], drawn(47))


def test_labels_of_another_field_are_another_index(tmp_path: Path) -> None:
    both = [(f"a.{suffix}", content) for suffix, content in (("png", encoded(1)), ("cls", b"3"), ("json", b'{"x": 1}'))]
    folder = one(tmp_path, tar_of(both))
    assert [split(folder, label=label).labels.tolist() for label in ("cls", "json.x", "cls")] == [[3], [1], [3]]


def test_classes_are_those_of_training_unless_told(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, classes=3)
    (folder / "test" / "000.tar").write_bytes(tar_of(samples(range(2), classes=3)))
    assert split(folder, "test").classes == ["0", "1", "2"]
    assert split(folder, "test", classes=10).classes[-1] == "9"
    (folder / "names.txt").write_text("cat\ndog\nowl\n")
    assert split(folder, "test", classes="names.txt").classes == ["cat", "dog", "owl"]
    (folder / "names.txt").write_text("cat\ncat\n")
    for options, words in (
        ({"classes": 2}, r"'0002\.png' in .*000\.tar is of class 2, and there are 2"),
        ({"classes": 10**9}, "1,000,000,000 classes are said, of 18 images"),
        ({"classes": "names.txt"}, "each once"),
        ({"classes": "gone.txt"}, r"gone\.txt cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            split(folder, **options)
    (folder / "test" / "000.tar").write_bytes(tar_of([("a.png", encoded(1)), ("a.cls", b"3")]))
    with pytest.raises(UserError, match=r"'a\.png' in .* is of class 3, and there are 3"):
        split(folder, "test")


def test_what_is_no_sample_is_passed_over(tmp_path: Path) -> None:
    extra = [("README", b"x"), (".hidden.png", b"x"), ("./a/b.c/1.PNG", encoded(1)), ("./a/b.c/1.cls", b" 2\n")]
    extra += [
        ("./a/b.c/1.seg.png", b"no image"),
        ("2.jpeg", encoded(2, form="JPEG")),
        ("2.cls", b"0"),
        ("2.txt", b"hi"),
    ]
    found = split(one(tmp_path, tar_of(extra)))
    assert found.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(found.read(np.array([0]))[0], drawn(1))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_and_long_names(form: int, tmp_path: Path) -> None:
    deep = "/".join(["folder" * 8] * 4)  # beyond the hundred characters of a plain header
    files = [(f"{deep}/{'n' * 40}.png", encoded(3)), (f"{deep}/{'n' * 40}.cls", b"1")]
    if form != tarfile.USTAR_FORMAT:
        files += [(f"{'é' * 90}.png", encoded(4)), (f"{'é' * 90}.cls", b"0")]
    found = split(one(tmp_path, tar_of(files, form, mtime=1.5)))
    np.testing.assert_array_equal(found.read(np.arange(len(found))), [drawn(3), drawn(4)][: len(found)])
    assert len(found) == len(files) // 2


def link(kind: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    return out.getvalue()


def sparse() -> bytes:
    """As GNU tar writes a file with holes, in format 1.0."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("GNUSparseFile.0/a.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.png"}
        file.addfile(info)
    return out.getvalue()


A, LABEL = ("a.png", encoded(1)), ("a.cls", b"1")
WHOLE = tar_of([A, LABEL, ("b.png", encoded(2)), ("b.cls", b"2")])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar_of([A, ("b.png", b""), ("b.cls", b"1")]), r"'a' of .*0\.tar has no \.cls"),
        (tar_of([LABEL]), "'a' of .* has 0 images that can be read"),
        (tar_of([A, ("a.jpg", b"x"), LABEL]), "'a' of .* has 2 images"),
        (tar_of([A, LABEL, ("b.png", encoded(2)), ("b.cls", b"0"), A, LABEL]), "'a' of .* comes twice"),
        (tar_of([A, LABEL, LABEL]), r"0\.tar holds 'a\.cls' twice"),
        (tar_of([A, ("a.cls", b"-1")]), "'a' of .* is labelled '-1'"),
        (tar_of([A, ("a.cls", b"cat")]), "labelled 'cat', which is no whole number"),
        (tar_of([A, ("a.cls", b"1" * 20)]), "no whole number"),
        (tar_of([A, ("a.cls", b"1.0")]), "no whole number"),
        (tar_of([A, ("a.cls", "²".encode())]), "does not say its label"),
        (tar_of([A, ("a.cls", b" " * 40)]), r"has no \.cls"),
        (tar_of([("/etc/a.png", b"x")]), "'/etc/a.png', which leads out"),
        (tar_of([("x/../../a.png", b"x")]), r"'x/\.\./\.\./a\.png', which leads out"),
        (link(tarfile.SYMTYPE), "holds a link, 'link.png'"),
        (link(tarfile.LNKTYPE), "holds a link, 'link.png'"),
        (link(tarfile.FIFOTYPE), "holds a pipe"),
        (link(tarfile.CHRTYPE), "holds a device"),
        (link(b"S"), "a sparse file|is cut"),
        (sparse(), "an extension that is not understood"),
        (WHOLE[:1024], "is cut: it ends after 'a.png' without the mark of its end"),
        (WHOLE[:600], "is cut: 'a.png' claims"),
        (WHOLE[:100], "is cut: it ends after its beginning"),
        (b"", "is cut: it ends after its beginning"),
        (WHOLE + WHOLE, "goes on after its end"),
        (WHOLE.replace(b"0000644", b"0000744", 1), "what follows its beginning is no header"),
        (b"\x1f\x8b" + bytes(600), r"no header of a tar(.|\n)*it is compressed"),
        (tar_of([]), "hold no samples"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence_that_names_shard_and_sample(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        split(one(tmp_path, content))
    assert "\n" not in caught.value.message
    assert "train" in caught.value.message
    assert not (tmp_path / "train" / ".0.tar.index").exists() or "no samples" in words


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[]", "'x'"), (b'{"x": true}', "labelled ''"), (b'{"x": 1.5}', "labelled ''"), (b"{", "'x'"), (b"5", "'x'")],
)
def test_a_json_that_says_no_label(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        split(one(tmp_path, tar_of([A, ("a.json", content)])), label="json.x")
    deep = tar_of([A, ("a.json", b"[" * 100_000)])
    with pytest.raises(UserError, match="does not say its label as 'x'"):
        split(one(tmp_path, deep), label="json.x")


def test_an_image_that_is_none_is_named_when_it_is_read(tmp_path: Path) -> None:
    found = split(one(tmp_path, tar_of([A, LABEL, ("b.png", b"GIF89a"), ("b.cls", b"0")])))
    assert found.read(np.array([0])).shape == (1, SIDE, SIDE, 3)
    with pytest.raises(UserError, match=r"'b\.png' in .*0\.tar cannot be decoded"):
        found.read(np.array([1]))


@pytest.mark.parametrize("options", [{"label": "txt"}, {"label": "json."}, {"color": "CMYK"}, {"sizes": 3}])
def test_faulty_keys_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Faults):
        split(write_shards(tmp_path), **options)
