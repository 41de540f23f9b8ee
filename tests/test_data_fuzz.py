"""Three thousand spoiled face files and a drawer of hostile pickles, read by a process that may do nothing but read.

The process has half a gigabyte beyond what it starts with, a minute of processor time, and a hook that sees whatever is
imported, compiled, executed or opened. Run as a module it is that process: python -m tests.test_data_fuzz FOLDER.
"""

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kd2edge.data._subgroups import read_subgroups
from kd2edge.data.insightface_bin import InsightfaceBin, read_pairs
from kd2edge.data.insightface_rec import InsightfaceRec
from kd2edge.errors import UserError
from tests.test_data_insightface import FORMS, IMAGES, LISTED, PEOPLE, SAME, faces, packed
from tests.test_data_insightface_rec import training_set

ROOT = Path(__file__).parents[1]
MUTATIONS = {"train.rec": 900, "train.idx": 600, "property": 200, "pairs.bin": 1500}
FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "marshal.", "shutil.")
NAMED = {
    "train.rec": r"Record \d[\d,]* of \S+train\.rec|The index \S+train\.idx is damaged: |train\.rec cannot be read",
    "train.idx": r"Record \d[\d,]* of \S+train\.rec|The index \S+train\.idx is damaged: ",
    "property": r"property does not say how many|property says \d[\d,]* people, of \d|Record \d[\d,]* of \S+train\.rec",
    "pairs.bin": r"pairs\.bin (is not read|holds no verification pairs): ",
}
WORDS = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0", b"\xff\xff\xff\xff\xff\xff\xff\x7f"]
OPCODES = [bytes([code]) for code in b"()]}.0123BCIJKLMNSTUVXabceghijlopqrstu\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b"]
OPCODES += [bytes([code]) for code in range(0x8C, 0x99)]
OPCODES += [b"cos\nsystem\n", b"c_codecs\nencode\n", b"cnumpy\nndarray\n", b"(S'id'\ntR", b"I99999999999\n"]


def mutated(random: np.random.Generator, content: bytes) -> bytes:
    """One to three flips, cuts, copies, blown-up lengths or opcodes, anywhere."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        at, size = int(random.integers(0, len(data) + 1)), int(random.integers(1, 24))
        kind = int(random.integers(0, 7))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            other = int(random.integers(0, len(data) + 1))
            data[at:at] = data[other : other + 8 * size]
        elif kind == 3:
            word = WORDS[int(random.integers(0, len(WORDS)))]
            data[at : at + len(word)] = word
        elif kind == 4:
            data[at:at] = OPCODES[int(random.integers(0, len(OPCODES)))]
        elif kind == 5:
            del data[at : at + size]
        else:
            data[at : at + size] = random.bytes(size)
    return bytes(data)


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def hostile(canary: Path) -> list[bytes]:
    """Pickles that touch the canary, run code, or take a terabyte when they are unpickled."""
    touch = f"open({str(canary)!r}, 'w')"
    calls = [
        Call(os.system, f"touch {canary}"),
        Call(eval, touch),
        Call(exec, touch),
        Call(open, str(canary), "w"),
        Call(getattr, os, "system"),
        Call(subprocess.Popen, ["touch", str(canary)]),
        Call(np.load, str(canary)),
        Call(np.save, str(canary), [1]),
        Call(np.ndarray, (1 << 40,)),
        Call(bytes, 1 << 40),
        Call(bytearray, 1 << 40),
        Call(bytes.fromhex, "00"),
        Call(print, "text", sys.stderr.fileno()),
    ]
    found = [pickle.dumps(([call], [True]), number) for call in calls[:4] + calls[5:] for number in range(6)]
    codecs = [f"c_codecs\nencode\n(V{text}\nV{codec}\ntR." for text, codec in (("aa", "zlib"), ("aa", "utf-8"))]
    found += [code.encode() for code in [*codecs, "c_codecs\nencode\n(Va\nVlatin1\nVignore\ntR.", "cos\nsystem\n."]]
    found += [
        b"\x8e" + bytes([255] * 7) + b"\x7f",
        b"\x96\0\0\0\0\0\1\0\0a.",
        b"T\xff\xff\xff\xff",
        b"(" * 100_000 + b".",
    ]
    found += [b"]q\0" + b"h\0a" * 50_000 + b"h\0\x86.", b"]" + b"\x85" * 200_000 + b".", b"Vaaaa\nq\0" * 1000 + b"."]
    found.append(sharing(10_000))
    return found


def sharing(times: int) -> bytes:
    """So many images which all recall the same 64 KiB: half a megabyte on the disk, 640 when each is copied."""
    kind = b"cnumpy\ndtype\nX\2\0\0\0u1\x85Rq\1"
    raw = b"B" + (1 << 16).to_bytes(4, "little") + bytes(1 << 16) + b"q\2"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1J\0\0\1\0\x85h\1\x89h\2tb"
    return kind + raw + b"](" + array * times + b"e](" + b"\x88" * (times // 2) + b"e\x86."


def recalled(times: int) -> bytes:
    """So many images which are all one mebibyte, recalled: hashed or compared each time, they take minutes."""
    image = b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"q\1"
    return image + b"0](" + b"h\1" * times + b"e](" + b"\x88" * (times // 2) + b"e\x86."


def read(name: str, folder: Path) -> None:
    if name == "pairs.bin":
        found = read_pairs(folder / name)
        assert len(found.images) == 2 * len(found.same)
        judged = InsightfaceBin(InsightfaceBin.Config(path=folder / name)).split("test")
        assert 1 <= len(judged) <= len(found.images)
        return
    split = InsightfaceRec(InsightfaceRec.Config(path=folder)).split("train")
    images = split.read(np.arange(len(split)))
    assert len(images) == len(split.labels)


def attack(folder: Path) -> dict[str, Any]:
    """Read everything that is spoiled or hostile; what was refused and read, by file."""
    Image.init()  # imports every plug-in of Pillow, before importing is watched
    training_set(folder)
    seen: list[str] = []
    random = np.random.default_rng(5)
    originals = {name: [(folder / name).read_bytes()] for name in MUTATIONS if name != "pairs.bin"}
    originals["pairs.bin"] = [make([b"abc", b"\xff\xd8\n'", b"abc", b""], [True, False]) for make in FORMS_OF_BYTES]
    for name, contents in originals.items():
        for content in contents:
            (folder / name).write_bytes(content)
            read(name, folder)  # the honest ones are read, and import what reading needs
    canary = folder / "canary"
    attacks = hostile(canary)
    watch(folder, seen)
    counts: dict[str, list[bool]] = {}
    for name, contents in originals.items():
        spoiled = [mutated(random, contents[number % len(contents)]) for number in range(MUTATIONS[name])]
        counts[name] = [outcome(name, folder, content, seen) for content in spoiled]
        (folder / name).write_bytes(contents[0])
    refused = [outcome("pairs.bin", folder, content, seen) for content in attacks]
    outcome("pairs.bin", folder, recalled(250_000), seen)
    summary = {name: [len(found), sum(found)] for name, found in counts.items()}
    return {**summary, "hostile": [len(refused), sum(refused)], "canary": canary.exists()}


def outcome(name: str, folder: Path, content: bytes, seen: list[str]) -> bool:
    """Whether it was refused, by a sentence that says where. What was seen is told; what else is raised ends all."""
    (folder / name).write_bytes(content)
    told = fault(name, folder)
    if seen:
        print(f"{name} {content!r}: {seen.pop()}", file=sys.stderr)
    assert not told or (re.search(NAMED[name], told) and "\n" not in told and len(told) < 400), told
    return bool(told)


def fault(name: str, folder: Path) -> str:
    try:
        read(name, folder)
    except UserError as error:
        return error.message
    return ""


def watch(folder: Path, seen: list[str]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        outside = event == "open" and not str(arguments[0]).startswith(str(folder))
        if event.startswith(FORBIDDEN) or outside:
            seen.append(f"{event} {arguments!r:.80}")

    sys.addaudithook(hook)


FORMS_OF_BYTES: list[Callable[[list[bytes], list[bool]], bytes]] = [
    make for form, make in FORMS.items() if form != "decoded"
]


def test_spoiled_and_hostile_files_are_refused_in_a_sentence_and_run_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.test_data_fuzz", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {name: found[name][0] for name in MUTATIONS} == MUTATIONS
    assert sum(found[name][0] for name in MUTATIONS) >= 3000
    assert all(found[name][1] > found[name][0] // 3 for name in MUTATIONS), found
    assert found["hostile"][1] == found["hostile"][0] > 70
    assert (done.stderr, found["canary"]) == ("", False)


def test_one_long_line_takes_its_own_room_only(tmp_path: Path) -> None:
    """An array of strings would take two million characters for each entry."""
    long = "x" * 2_000_000
    options = packed(tmp_path, FORMS["python 2"](IMAGES, SAME), [PEOPLE[i].replace("Cy", long) for i in LISTED])
    tracemalloc.start()
    assert faces(options).classes == ["Ada", "Bo", long]
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.reset_peak()
    (tmp_path / "groups.csv").write_text("race\n" + "A\n" * 500 + "B" * 100_000 + "\n")
    assert read_subgroups(tmp_path / "groups.csv", 501)[1]["race"] == ["A", "B" * 100_000]
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()


if __name__ == "__main__":
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 20
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (512 << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    print(json.dumps(attack(Path(sys.argv[1]))))
