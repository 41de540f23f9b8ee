"""A small release in insightface's layout: read, aligned, refused by file and line, and damaged in every way."""

import pickle
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kd2edge.data import _ijb_lists as lists
from kd2edge.data import open_source
from kd2edge.data._similarity import TEMPLATE, align
from kd2edge.data.ijb import TemplateImages
from kd2edge.errors import UserError
from kd2edge.metrics import judge_templates

MEMBERS = ["1.jpg 4 70", "2.jpg 4 70", "3.jpg 4 71", "4.jpg 9 72", "5.jpg 12 73", "6.jpg 15 74"]
PAIRS = ["4 12 1", "4 15 0", "9 12 0"]
GALLERIES = {"G1": ["4,31,img/1.png,9", "4,31,img/2.png,9", "4,31,img/3.png,9"], "G2": ["9,40,img/4.png,9"]}
PROBES = ["12,31,frames/5.png,9", "15,40,frames/6.png,9"]
HEADER = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"
FILES = {
    "name_5pts_score": "\n".join(
        f"{i}.jpg " + " ".join(f"{v:.3f}" for v in (TEMPLATE * 1.5 + i).ravel()) + f" 0.{90 + i}" for i in range(1, 7)
    ),
    "face_tid_mid": "\n".join(MEMBERS),
    "template_pair_label": "\n".join(PAIRS),
    "1N_gallery_G1": "\n".join([HEADER, *GALLERIES["G1"]]),
    "1N_gallery_G2": "\n".join([HEADER, *GALLERIES["G2"]]),
    "1N_probe_mixed": "\n".join([HEADER, *PROBES]),
}


def listed(folder: Path, name: str) -> Path:
    return folder / "meta" / f"ijbc_{name}.{'csv' if name.startswith('1N') else 'txt'}"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make(tmp_path)


def make(folder: Path) -> Path:
    for name in ("loose_crop", "meta"):
        (folder / name).mkdir()
    for name, text in FILES.items():
        listed(folder, name).write_text(text + "\n")
    for seed in range(1, 7):
        coarse = np.random.default_rng(seed).integers(0, 256, (11, 9, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((180, 200)).save(folder / "loose_crop" / f"{seed}.jpg", quality=95)
    return folder


def read(folder: Path, **options: Any) -> TemplateImages:
    split = open_source({"name": "ijb", "path": str(folder), "edition": "ijbc", **options}).split("test")
    assert isinstance(split, TemplateImages)
    return split


def test_the_lists_become_templates(release: Path) -> None:
    split = read(release)
    protocol = split.protocol
    assert protocol.template.tolist() == [4, 4, 4, 9, 12, 15]
    assert protocol.media.tolist() == [70, 70, 71, 72, 73, 74]
    np.testing.assert_allclose(protocol.faceness, [0.91, 0.92, 0.93, 0.94, 0.95, 0.96])
    assert protocol.pairs.tolist() == [[4, 12], [4, 15], [9, 12]]
    assert protocol.same.tolist() == [True, False, False]
    assert {name: rows.tolist() for name, rows in protocol.galleries.items()} == {"G1": [[4, 31]], "G2": [[9, 40]]}
    assert protocol.probes["mixed"].tolist() == [[12, 31], [15, 40]]
    assert protocol.flip
    assert split.classes == ["4", "9", "12", "15"]
    assert split.labels.tolist() == [0, 0, 0, 1, 2, 3]


def test_crops_are_aligned_when_read(release: Path) -> None:
    split = read(release)
    found = split.read(np.array([4, 0, 4]))
    for image, number in zip(found, (5, 1, 5), strict=True):
        pixels = np.asarray(Image.open(release / "loose_crop" / f"{number}.jpg").convert("RGB"))
        np.testing.assert_array_equal(image, align(pixels, (TEMPLATE * 1.5 + number).round(3).astype(np.float32)))
    assert split.read(np.array([], np.int64)).shape == (0, 112, 112, 3)
    p = open_source({"name": "ijb", "path": str(release), "edition": "ijbc"}).preprocessing()
    assert (p.size, p.color, p.mean, p.std) == ((112, 112), "RGB", (0.5,) * 3, (0.5,) * 3)


def test_a_worker_can_be_given_the_split(release: Path) -> None:
    split = read(release)
    again = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(again.read(np.array([2])), split.read(np.array([2])))


def test_the_fingerprint_is_that_of_the_lists(release: Path) -> None:
    before = read(release).fingerprint()
    assert read(release).fingerprint() == before
    listed(release, "template_pair_label").write_text("4 12 1\n4 9 0\n")
    assert read(release).fingerprint() != before


def test_ijbb_names_its_galleries_otherwise(release: Path) -> None:
    for path in sorted((release / "meta").iterdir()):
        path.rename(path.with_name(path.name.replace("ijbc", "ijbb").replace("_G", "_S")))
    assert set(read(release, edition="ijbb").protocol.galleries) == {"S1", "S2"}


def test_without_the_lists_of_identification_there_is_none(release: Path) -> None:
    for name in ("1N_gallery_G1", "1N_gallery_G2"):
        listed(release, name).unlink()
    with pytest.raises(UserError, match="gallery_G1"):
        read(release)
    listed(release, "1N_probe_mixed").unlink()
    assert (read(release).protocol.galleries, read(release).protocol.probes) == ({}, {})


@pytest.mark.parametrize(
    ("name", "line", "text", "words"),
    [
        ("name_5pts_score", 2, "2.jpg 1 2 3", "Line 2 of .*has 3 numbers behind its name, not 11"),
        ("name_5pts_score", 3, "3.jpg 1 2 3 4 5 6 7 8 9 x 1", "Line 3 of .*something else than numbers"),
        ("name_5pts_score", 3, "3.jpg 1 2 3 4 5 6 7 8 9 nan 1", "Line 3 of .*not finite"),
        ("name_5pts_score", 5, "5.jpg 1 2 3 4 5 6 7 8 9 1e39 1", "Line 5 of .*not finite"),
        ("name_5pts_score", 4, "../4.jpg 1 2 3 4 5 6 7 8 9 1 1", "Line 4 of .*no file name"),
        ("name_5pts_score", 4, "7.jpg 1 2 3 4 5 6 7 8 9 1 1", "Line 4 of .* about 7.jpg.* about 4.jpg"),
        ("face_tid_mid", 2, "2.jpg 4", "Line 2 of .*has 1 numbers, not 2"),
        ("face_tid_mid", 2, "2.jpg 4 7.5", "Line 2 of .*'7.5' where a whole number"),
        ("face_tid_mid", 2, "2.jpg 4 -1", "Line 2 of .*'-1' where a whole number"),
        ("face_tid_mid", 2, "", "Line 2 of .*no file name"),
        ("template_pair_label", 3, "9 12", "Line 3 of .*has 2 numbers, not 3"),
        ("template_pair_label", 3, "9 12 2", "Line 3 of .*says 2 where 0 or 1"),
        ("template_pair_label", 2, "9 1234567890123456789 0", "Line 2 of .*whole number"),
        ("template_pair_label", 2, "9 13 0", "Line 2 of .*template 13, which has no images"),
        ("template_pair_label", 2, "", "Line 2 of .*has 0 numbers"),
        ("1N_gallery_G1", 3, "4,32,img/2.png,9", "Line 3 of .*template 4 a second subject"),
        ("1N_gallery_G2", 2, "5,32,img/2.png,9", "Template 5 of .*gallery_G2.csv has no images"),
        ("1N_probe_mixed", 2, "12", "Line 2 of .*has 1 numbers, not 2"),
        ("1N_probe_mixed", 3, "4,99,frames/6.png,9", "Template 4 is of subject 31 in .*G1.csv, and of 99 in .*mixed"),
        ("1N_gallery_G2", 2, "4,99,img/4.png,9", "Template 4 is of subject 31 in .*G1.csv, and of 99 in .*G2.csv"),
    ],
)
def test_a_fault_names_file_and_line(release: Path, name: str, line: int, text: str, words: str) -> None:
    lines = FILES[name].split("\n")
    lines[line - 1] = text
    listed(release, name).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=words):
        read(release)


def test_what_is_not_there_or_no_image_is_named(release: Path) -> None:
    split = read(release)
    (release / "loose_crop" / "2.jpg").write_bytes(b"no image")
    (release / "loose_crop" / "3.jpg").unlink()
    for position, words in ((1, "2.jpg cannot be decoded"), (2, "no image file .*3.jpg")):
        with pytest.raises(UserError, match=words):
            split.read(np.array([position]))
    with pytest.raises(UserError, match="no split 'train'"):
        open_source({"name": "ijb", "path": str(release), "edition": "ijbc"}).split("train")
    with pytest.raises(UserError, match="There is no"):
        read(release / "meta")


def test_landmarks_of_no_face_name_their_image(release: Path) -> None:
    text = FILES["name_5pts_score"].split("\n")
    text[3] = "4.jpg" + " 8" * 10 + " 1"
    listed(release, "name_5pts_score").write_text("\n".join(text))
    with pytest.raises(UserError, match=r"4.jpg cannot be aligned: Its landmarks coincide"):
        read(release).read(np.array([3]))


@given(
    st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 99), st.integers(0, 1)), max_size=40),
    st.sampled_from([" ", "\t", "  "]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([7, 50, 1 << 22]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_are_read_however_they_are_blocked(
    tmp_path: Path, rows: list[tuple[int, int, int]], between: str, end: str, ended: bool, block: int
) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes((end.join(between.join(map(str, row)) for row in rows) + end * (ended and bool(rows))).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "BLOCK", block)
        pairs, same = lists.read_pairs(path)
    assert pairs.tolist() == [list(row[:2]) for row in rows]
    assert same.tolist() == [bool(row[2]) for row in rows]


def test_a_list_is_read_in_memory_of_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.txt"
    monkeypatch.setattr(lists, "BLOCK", 1 << 16)
    rows = np.random.default_rng(0).integers(1, 23_125, (100_000, 2))
    path.write_text("".join(f"{one} {other} 0\n" for one, other in rows.tolist()))
    tracemalloc.start()
    pairs, _ = lists.read_pairs(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(pairs, rows)
    assert peak < 3 * rows.nbytes + 1e6


def test_a_line_without_end_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    with path.open("wb") as file:
        file.write(b"1 2 0\n")
        file.truncate(1 << 31)  # sparse: two gibibytes of zeros that lie nowhere
    tracemalloc.start()
    with pytest.raises(UserError, match=r"Line 2 of .*longer than"):
        lists.read_pairs(path)
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A bit flipped, a part cut, doubled, replaced by noise or by what parsers stumble over, or the end lost."""
    at, length = draw.randrange(len(content)), draw.randrange(1, 12)
    head, part, tail = content[:at], content[at : at + length], content[at + length :]
    nasty = [b"\x00", b"\n\n", b"\r", b"1e999", b"-", b"nan", b"9" * 40, b"\xff\xfe", b" ", b",", b"_1", b"/../"]
    return [
        head + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :],
        head + tail,
        head + part * draw.randrange(2, 400) + tail,
        head + draw.randbytes(length) + tail,
        head + draw.choice(nasty) + tail,
        head,
    ][draw.randrange(6)]


@pytest.mark.parametrize("name", FILES)
def test_no_damage_does_more_than_be_refused(name: str, tmp_path: Path) -> None:
    """150 mutations of each of six lists: a split of the right form, or one sentence that names the file."""
    path, content, draw = listed(make(tmp_path), name), (FILES[name] + "\n").encode(), random.Random(name)
    refused = [sentence for _ in range(150) if (sentence := faults_of(path, mutated(content, draw)))]
    assert len(refused) > 10
    assert [sentence for sentence in refused if "ijbc_" not in sentence or "\n" in sentence] == []


def faults_of(path: Path, content: bytes) -> str | None:
    """What is said of a release with that list; nothing where it is read."""
    path.write_bytes(content)
    try:
        split = read(path.parents[1])
    except UserError as error:
        return error.message
    assert len(split) == len(split.protocol.faceness) == len(split.protocol.media) <= 6
    assert split.protocol.pairs.shape == (len(split.protocol.same), 2)
    return None


def test_what_is_read_can_be_judged(release: Path) -> None:
    """Thumbnails of the aligned crops stand for embeddings."""
    split = read(release)
    thumbnails = split.read(np.arange(6))[:, ::16, ::16].reshape(6, -1).astype(np.float32)
    found = judge_templates(thumbnails, split.protocol, (0.5,))
    assert (found.roc.genuine, found.roc.impostor, found.resampled) == (1, 2, "subjects")
    assert [(one.mated, one.unmated) for one in found.galleries.values()] == [(1, 1), (1, 1)]
