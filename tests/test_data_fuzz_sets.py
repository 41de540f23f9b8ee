"""Five thousand spoiled files of the literature's data sets, read by a process that may do nothing but read.

The process has half a gigabyte beyond what it starts with, a minute of processor time, and a hook that sees whatever is
imported, executed or opened. Run as a module it is that process: python -m tests.test_data_fuzz_sets FOLDER.
"""

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from kd2edge.data import open_source
from kd2edge.data.imagenet import TARS
from kd2edge.errors import UserError
from tests import shards, test_data_cifar10, test_data_cifar_forms, test_data_imagenet, test_data_photo_sets
from tests.test_data_fuzz import FORBIDDEN, mutated

ROOT = Path(__file__).parents[1]
LOOKING = ("os.scandir", "os.listdir")
KEEPING = ("os.mkdir", "os.rename", "os.chmod", "os.remove")  # what an index beside its tar takes
ARRAYS = Path("npz/test.npz")
SHARD, KEPT = Path("wds/train/0.tar"), Path("wds/train/.0.tar.index")
TRAINED, VALIDATED = Path("imagenet", TARS["train"]), Path("imagenet", TARS["val"])

# Which files are spoiled and how often; the data set that they are of; the split that reads them.
SETS: dict[Path, tuple[int, str, str, dict[str, Any]]] = {
    Path("pickles/test"): (600, "cifar100", "test", {}),
    Path("binary/test.bin"): (150, "cifar100", "test", {}),
    ARRAYS: (600, "cifar100", "test", {}),
    Path("sheets/test_batch.png"): (150, "cifar10", "test", {}),
    Path("sheets/test_lables.json"): (150, "cifar10", "test", {}),
    SHARD: (900, "webdataset", "train", {}),
    KEPT: (300, "webdataset", "train", {}),
    TRAINED: (400, "imagenet", "train", {}),
    VALIDATED: (200, "imagenet", "test", {"val_labels": "val.txt"}),
    Path("imagenet/val.txt"): (200, "imagenet", "test", {"val_labels": "val.txt"}),
    Path("tiny/wnids.txt"): (100, "tiny_imagenet", "train", {}),
    Path("tiny/val/val_annotations.txt"): (150, "tiny_imagenet", "test", {}),
    Path("food/train_labels.csv"): (200, "foodx251", "train", {}),
    Path("food/class_list.txt"): (100, "foodx251", "train", {}),
    Path("cars/devkit/cars_train_annos.mat"): (500, "stanford_cars", "train", {}),
    Path("cars/devkit/cars_meta.mat"): (300, "stanford_cars", "train", {}),
}
HARMLESS = (KEPT,)  # a spoiled index is made anew


def populate(root: Path) -> dict[Path, list[bytes]]:
    """Every set in its true form, and the contents that are spoiled, in the forms of each writer."""
    images, fine = test_data_cifar_forms.HUNDRED["test"][0][:3], test_data_cifar_forms.HUNDRED["test"][1][:3]
    test_data_cifar_forms.HUNDRED.update({name: (images, fine) for name in ("train", "test")})
    test_data_cifar_forms.write_pickles(root / "pickles")
    test_data_cifar_forms.write_binary(root / "binary")
    test_data_cifar_forms.write_npz(root / "npz")
    test_data_cifar10.write_png(root / "sheets")
    test_data_photo_sets.write_tiny(root / "tiny")
    test_data_photo_sets.write_food(root / "food")
    test_data_photo_sets.write_cars(root / "cars")
    test_data_imagenet.write_list(test_data_imagenet.write_tars(root / "imagenet"))
    (root / "wds" / "train").mkdir(parents=True)
    (root / SHARD).write_bytes(shards.tar_of(shards.samples(range(4))))
    read(KEPT, root)
    contents = {path: [(root / path).read_bytes()] for path in SETS}
    columns = test_data_cifar_forms.columns_of(fine)
    contents[Path("pickles/test")] = [write(images, columns) for write in test_data_cifar_forms.PICKLERS.values()]
    np.savez_compressed(root / ARRAYS, images=images, labels=fine)
    contents[ARRAYS].append((root / ARRAYS).read_bytes())
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    contents[SHARD] += [shards.tar_of(shards.samples(range(4)), form, mtime=1.5) for form in forms]
    contents[SHARD] += [shards.tar_of([(f"{'é' * 80}{n}", c) for n, c in shards.samples(range(2))], f) for f in forms]
    for name in ("cars_train_annos", "cars_meta"):
        path = root / "cars" / "devkit" / f"{name}.mat"
        found = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("_")}
        scipy.io.savemat(path, found, do_compression=False)
        contents[path.relative_to(root)].append(path.read_bytes())
    return contents


def read(path: Path, root: Path) -> None:
    _, name, split, options = SETS[path]
    sized = {} if name.startswith("cifar") else {"size": shards.SIDE, "resize": shards.SIDE}
    found = open_source({"name": name, "path": str(root / path.parts[0]), **sized, **options}).split(split)
    assert len(found.read(np.arange(len(found)))) == len(found.labels) > 0
    assert 0 <= found.labels.min() <= found.labels.max() < len(found.classes)
    assert len(found.fingerprint()) == 64


def attack(root: Path) -> dict[str, Any]:
    """Read every spoiled file; how many there were and how many were refused, by file."""
    os.fsync = lambda fd: None  # thousands of indices are kept, and no disk has to hold them
    Image.init()  # imports every plug-in of Pillow, before importing is watched
    contents = populate(root)
    for path, forms in contents.items():
        for content in forms[::-1]:
            (root / path).write_bytes(content)
            read(path, root)  # the honest ones are read, and import what reading needs
    seen: list[str] = []
    watch(root, seen)
    random = np.random.default_rng(11)
    counts: dict[str, list[int]] = {}
    for path, (count, *_) in SETS.items():
        forms = contents[path]
        told = [outcome(path, root, mutated(random, forms[n % len(forms)]), seen) for n in range(count)]
        (root / path).write_bytes(forms[0])
        counts[str(path)] = [count, sum(told)]
    return counts


def outcome(path: Path, root: Path, content: bytes, seen: list[str]) -> bool:
    """Whether it was refused, by a sentence that names a file of the set. What else is raised ends all."""
    (root / path).unlink()  # to cut a file and write it again costs a file system more
    (root / path).write_bytes(content)
    told = ""
    try:
        read(path, root)
    except UserError as error:
        told = error.message
    if seen:
        print(f"{path} {content[:400]!r}: {seen.pop()}", file=sys.stderr)
    assert not told or (str(root / path.parts[0]) in told and "\n" not in told and len(told) < 600), (path, told)
    return bool(told)


def watch(root: Path, seen: list[str]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        first = arguments[0] if arguments else ""
        inside = isinstance(first, int) or str(first).startswith(str(root))  # by its number a file is open already
        allowed = event in LOOKING or (inside and event in ("open", *KEEPING))
        literal = event == "compile" and arguments[1] == "<unknown>"  # an array's header is parsed, never executed
        if event.startswith((*FORBIDDEN, "open")) and not allowed and not literal:
            seen.append(f"{event} {arguments!r:.80}")

    sys.addaudithook(hook)


def test_spoiled_sets_are_refused_in_a_sentence_and_run_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.test_data_fuzz_sets", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {path: count for path, (count, _) in found.items()} == {str(path): SETS[path][0] for path in SETS}
    assert sum(count for count, _ in found.values()) >= 5000
    mostly = {path: refused / count for path, (count, refused) in found.items() if Path(path) not in HARMLESS}
    assert min(mostly.values()) > 0.1, mostly
    assert found[str(KEPT)][1] == 0


class Runs:
    """Pickles as a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_nothing_in_a_batch_is_ever_run(tmp_path: Path) -> None:
    """Not under a name of its own, not among the labels, not as the array."""
    images, fine = test_data_cifar_forms.HUNDRED["test"]
    folder = test_data_cifar_forms.write_pickles(tmp_path / "x")
    good = pickle.loads(test_data_cifar_forms.python3(2)(images, test_data_cifar_forms.columns_of(fine)))
    for spoiled in ({**good, "more": Runs()}, {**good, "data": Runs()}, {**good, "fine_labels": [Runs()]}):
        (folder / "test").write_bytes(pickle.dumps(spoiled, 2))
        told = ""
        try:
            open_source({"name": "cifar100", "path": str(folder)}).split("test")
        except UserError as error:
            told = error.message
        assert re.search(r"wants to import '(posix|nt)\.system'", told)
    assert not Path("ran").exists()


if __name__ == "__main__":
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 20
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (512 << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    print(json.dumps(attack(Path(sys.argv[1]))))
