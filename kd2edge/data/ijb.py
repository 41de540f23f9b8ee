"""IJB-B and IJB-C as insightface packs them: loose face crops with landmarks, and lists of templates and pairs.

Below `path` lie `loose_crop/` and `meta/` with `ijbc_name_5pts_score.txt`, `ijbc_face_tid_mid.txt`,
`ijbc_template_pair_label.txt` and, for 1:N, the galleries `ijbc_1N_gallery_G1.csv`, `..._G2.csv` (IJB-B: S1, S2) and
the probes `ijbc_1N_probe_mixed.csv`. Crops are aligned to the ArcFace template when read; nothing is kept on disk.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from kd2edge.data import Images, Ints, Preprocessing, Source, Templates
from kd2edge.data._aligned import FORMATS, Aligned, preprocessing
from kd2edge.data._ijb_lists import read_landmarks, read_media, read_pairs, read_subjects
from kd2edge.data._similarity import SIDE, align
from kd2edge.errors import UserError, first_line
from kd2edge.files import sha256
from kd2edge.shelves import PluginConfig

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
MOST_PIXELS = 1 << 25  # of a crop: a small file must not fill the memory


@dataclass(frozen=True)
class _Crops:
    """Reads and aligns the crop at a position; a value, so that a worker process can be given it."""

    folder: Path
    names: list[str]
    landmarks: npt.NDArray[np.float32]

    def __call__(self, position: int) -> Images:
        path = self.folder / self.names[position]
        try:
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise ValueError(f"it is of {file.width} x {file.height} pixels, which no face crop is")
                pixels = np.asarray(file.convert("RGB"))
        except FileNotFoundError:
            raise UserError(f"There is no image file {path}.", "every image of the lists lies in loose_crop/") from None
        except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the file is at fault
            raise UserError(f"{path} cannot be decoded: {first_line(error)}.", "take the file anew") from None
        try:
            return align(pixels, self.landmarks[position])
        except UserError as error:
            raise UserError(f"{path} cannot be aligned: {first_line(error)}.", error.hint) from None


class TemplateImages(Aligned):
    """The images of all templates, in the order of the lists. `labels` number their templates, not people."""

    protocol: Templates
    lists: list[Path]

    @cached_property
    def _mark(self) -> str:
        return hashlib.sha256("".join(sha256(path) for path in self.lists).encode()).hexdigest()

    def fingerprint(self) -> str:
        """By its lists: no image is opened."""
        return self._mark


class Ijb(Source):
    """The split "test" only, judged by its templates."""

    personal = True

    class Config(PluginConfig):
        """`path` is the folder with `loose_crop/` and `meta/`; `mean` and `std` are in units of pixel / 255."""

        path: Path
        edition: Literal["ijbb", "ijbc"]
        mean: float = 0.5
        std: float = Field(default=0.5, gt=0)

    def __init__(self, config: Config) -> None:
        self.config = config
        for path in (config.path / "loose_crop", *self._lists()):
            if not path.exists():
                raise UserError(f"There is no {path}.", "set data.path to the folder with loose_crop/ and meta/")

    def preprocessing(self) -> Preprocessing:
        return preprocessing((SIDE, SIDE), self.config.mean, self.config.std)

    def split(self, name: str) -> TemplateImages:
        """Raises `UserError`, naming file and line, for lists that cannot be read or that contradict each other."""
        if name != "test":
            raise UserError(f"{self.config.edition} has no split {name!r}.", "splits: test")
        faces, media, pairs = self._lists()
        names, landmarks, scores = read_landmarks(faces)
        again, members = read_media(media)
        _agree(names, again, faces, media)
        known, labels = np.unique(members[:, 0], return_inverse=True)
        listed, same = read_pairs(pairs)
        for side in (0, 1):
            _refuse_unknown(listed[:, side], known, pairs)
        galleries, probes = self._searches(known)
        crops = _Crops(self.config.path / "loose_crop", names, landmarks)
        split = TemplateImages(crops, labels.astype(np.int64), [str(one) for one in known], (SIDE, SIDE), "")
        split.lists = [faces, media, pairs, *(path for path in self._searched().values() if path.exists())]
        split.protocol = Templates(members[:, 0], members[:, 1], scores, listed, same, galleries, probes)
        return split

    def _lists(self) -> tuple[Path, Path, Path]:
        meta, edition = self.config.path / "meta", self.config.edition
        faces, media = meta / f"{edition}_name_5pts_score.txt", meta / f"{edition}_face_tid_mid.txt"
        return faces, media, meta / f"{edition}_template_pair_label.txt"

    def _searched(self) -> dict[str, Path]:
        """The files of 1:N: those of the galleries by name, and of the probes as "mixed"."""
        start = self.config.path / "meta" / f"{self.config.edition}_1N"
        files = {name: Path(f"{start}_gallery_{name}.csv") for name in GALLERIES[self.config.edition]}
        return {**files, "mixed": Path(f"{start}_probe_mixed.csv")}

    def _searches(self, known: Ints) -> tuple[dict[str, Ints], dict[str, Ints]]:
        """Galleries and probes; none where none of their files are there. Some without the others are a fault."""
        files = self._searched()
        missing = [path for path in files.values() if not path.exists()]
        if len(missing) == len(files):
            return {}, {}
        if missing:
            raise UserError(f"There is no {missing[0]}, but the others of 1:N are there.", "all, or none, of the CSVs")
        found = {name: read_subjects(path) for name, path in files.items()}
        for name, path in files.items():
            unknown = np.setdiff1d(found[name][:, 0], known)
            if len(unknown):
                raise UserError(f"Template {unknown[0]} of {path} has no images.", "the lists are of one release")
        for one, other in combinations(files, 2):
            _refuse_two_subjects(found[one], found[other], files[one], files[other])
        return {name: rows for name, rows in found.items() if name != "mixed"}, {"mixed": found["mixed"]}


def _agree(names: list[str], again: list[str], faces: Path, media: Path) -> None:
    """Raise `UserError` unless both lists name the same images in the same order, and any at all."""
    if len(names) != len(again) or not names:
        raise UserError(f"{faces} has {len(names):,} images, {media} has {len(again):,}.", "both list every image once")
    if names != again:
        number = next(i for i, (one, other) in enumerate(zip(names, again, strict=True), 1) if one != other)
        raise UserError(
            f"Line {number:,} of {faces} is about {names[number - 1]}, that of {media} about {again[number - 1]}.",
            "both lists name the same images in the same order",
        )


def _refuse_two_subjects(ours: Ints, theirs: Ints, one: Path, other: Path) -> None:
    shared, here, there = np.intersect1d(ours[:, 0], theirs[:, 0], assume_unique=True, return_indices=True)
    subjects, others = ours[here, 1], theirs[there, 1]
    for i in np.flatnonzero(subjects != others)[:1]:
        said = f"is of subject {subjects[i]} in {one}, and of {others[i]} in {other}"
        raise UserError(f"Template {shared[i]} {said}.", "the lists are of one release")


def _refuse_unknown(listed: Ints, known: Ints, pairs: Path) -> None:
    unknown = np.flatnonzero(~np.isin(listed, known))
    if len(unknown):
        number, template = unknown[0] + 1, listed[unknown[0]]
        raise UserError(f"Line {number:,} of {pairs} names template {template}, which has no images.", "take it anew")
