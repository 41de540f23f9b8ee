"""Work on another machine: over ssh, or by a kit that somebody carries there and back. What returns is verified here.

An engine is code of the machine that built it, so that nothing of what comes back is loaded or run on this one: hashes,
names and numbers are read.
"""

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd2edge import drawers
from kd2edge.edge import exchange, start
from kd2edge.edge.kit import MOST, RESULT, RESULTS, Kit, Result, file_of, read_result
from kd2edge.errors import UserError
from kd2edge.files import read_bounded
from kd2edge.progress import Progress
from kd2edge.run import open_run
from kd2edge.verbs import remote_kit
from kd2edge.verbs.models import is_run
from kd2edge.verbs.quantize import DEFAULT_TARGET
from kd2edge.verbs.remote_address import Address, parse
from kd2edge.verbs.remote_kit import Parcel, cache
from kd2edge.verbs.remote_ssh import Talk, hello, parsed, printable, raise_fault
from kd2edge.verbs.remote_transfer import fetch, fetch_small, persist, push
from kd2edge.verbs.remote_wheels import Place, place_at, places_of

BEAT = 10.0  # seconds between two signs of life; the far side waits six of them
Pack = Callable[[Sequence[Place], Path], Parcel]


class KitWritten(Exception):
    """A kit lies in a folder now; `command` runs it on the far side. It ends a verb that was asked for no more."""

    def __init__(self, folder: Path, command: str) -> None:
        super().__init__(str(folder))
        self.folder, self.command = folder, command


@dataclass(frozen=True)
class Elsewhere:
    """Exactly one of: a machine to work `on`, a `kit` to be written, a folder in which results were `brought` back.

    `again` is the command that goes on after an interruption.
    """

    progress: Progress
    again: str
    on: Address | None = None
    kit: Path | None = None
    brought: Path | None = None


@dataclass(frozen=True)
class Done:
    """What came of a kit. `folder` holds the result's files, every one verified; `far` is the kit's folder there."""

    kit: Kit
    result: Result
    folder: Path
    far: str | None = None


def elsewhere(
    source: Path,
    target: str | None,
    on: str | None,
    kit: Path | None,
    brought: Path | None,
    progress: Progress,
    again: str,
) -> Elsewhere | None:
    """Where the work is to be done, as options say it; without any, where the target says. None is here.

    Raises `UserError` for options that exclude each other, and for an address that is none.
    """
    given = [name for name, value in (("--on", on), ("--kit", kit), ("--from", brought)) if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other.", f"leave {given[-1]} out")
    if not given:
        name = target or (open_run(source).recipe.target if is_run(source) else DEFAULT_TARGET)
        on = drawers.read_target(name).on
        if on is None:
            return None
    return Elsewhere(progress, again, parse(on) if on is not None else None, kit, brought)


@contextmanager
def done(elsewhere: Elsewhere, kit: Kit, pack: Pack) -> Iterator[Done]:
    """Have a kit worked on, `pack` completing it for the places it may go to; its results last as long as the block.

    Raises `UserError` for whatever goes wrong there, on the way, or with what comes back, and `KitWritten`.
    """
    if elsewhere.brought is not None:
        found = _brought(elsewhere.brought)
        if found.kit.target_name == kit.target_name and found.kit.target != kit.target:
            raise UserError(f"The target {kit.target_name} has changed since the kit was made.", "make a new kit")
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="kd2edge-kit-") as room:
        if elsewhere.kit is not None:
            elsewhere.progress.say("Packing a kit; its packages are fetched for each kind of device, once.")
            parcel = pack(places_of(kit.target), Path(room))
            remote_kit.remember(parcel)
            command = remote_kit.write(parcel, elsewhere.kit)
            raise KitWritten(elsewhere.kit, command)
        assert elsewhere.on is not None
        place = place_at(hello(elsewhere.on), elsewhere.on.shown)
        elsewhere.progress.say(f"Packing a kit for {elsewhere.on.shown}; its packages are fetched once.")
        parcel = pack([place], Path(room))
        found = _over_ssh(elsewhere, elsewhere.on, parcel)
        yield found
        shutil.rmtree(found.folder, ignore_errors=True)  # what is worth keeping was copied


def _over_ssh(elsewhere: Elsewhere, address: Address, parcel: Parcel) -> Done:
    progress, far = elsewhere.progress, f"{address.room}/kits/{parcel.sha256}"

    def again(work: Callable[[], Any]) -> Any:
        return persist(work, address, progress, elsewhere.again)

    sent = again(lambda: push(address, far, parcel.files, progress))
    progress.say(f"{address.shown} has the kit ({sent / 2**20:.1f} MiB sent); it works.")
    digest = again(lambda: _work(address, far, parcel, progress))
    text = again(lambda: fetch_small(address, f"{far}/{RESULTS}", RESULT, MOST))
    if hashlib.sha256(text).hexdigest() != digest:
        raise UserError(f"{RESULT} of {address.shown} is not the one that its work ended with: the sha256 differs.")
    result = _of_kit(read_result(text), parcel.kit, parcel.sha256)
    folder = cache() / "results" / parcel.sha256
    again(lambda: fetch(address, f"{far}/{RESULTS}", result.files, folder, progress))
    again(lambda: _forget(address, parcel.sha256))
    return Done(parcel.kit, result, folder, far)


def _forget(address: Address, digest: str) -> None:
    """The same command, given again, is to work anew."""
    with Talk(address, exchange, {"do": "forget", "folder": f"{address.room}/work/{digest}"}) as talk:
        talk.answer()


def _work(address: Address, far: str, parcel: Parcel, progress: Progress) -> str:
    """Start the work, tell how it goes, and return the sha256 of its result.json."""
    request = {"kit": far, "sha256": parcel.sha256, "room": address.room}
    done = -1  # percent, of a bench that has not begun
    with Talk(address, start, request) as talk, _alive(talk):
        while True:
            line = talk.line()
            if not line:
                talk.fail()
            match parsed(line):  # {} for what a library of the board's prints
                case {"fault": _} as told:
                    raise_fault(told, address)
                case {"result": str(digest)}:
                    if done >= 0:
                        progress.advance(100 - done, now="done")
                    return digest
                case {"step": what, "share": float() | int() as share} if 0 <= share <= 1:
                    if done < 0:
                        progress.start(f"bench on {address.host}", 100)
                        done = 0
                    steps = max(0, int(100 * share) - done)
                    done += steps
                    progress.advance(steps, now=printable(what, 60))
                case {"say": sentence}:
                    progress.say(f"{address.shown}: {printable(sentence)}")


@contextmanager
def _alive(talk: Talk) -> Iterator[None]:
    """Give a sign of life now and then: without one the far side ends, so that a lost one does not work on for ever."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError, ValueError):
                talk.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _brought(folder: Path) -> Done:
    """Results in a folder, or in a kit's `results`. Raises `UserError` unless they are whole, of a kit made here."""
    folder = folder / RESULTS if (folder / RESULTS / RESULT).is_file() else folder
    try:
        result = read_result(read_bounded(folder / RESULT, MOST))
    except FileNotFoundError:
        raise UserError(f"There are no results in {folder}.", "it is the folder `results` of the kit") from None
    kit = remote_kit.remembered(result.kit)
    for name, file in result.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or file_of(path) != file:
            raise UserError(f"{path} is not what it has to be: it was changed, damaged or left behind.")
    return Done(kit, _of_kit(result, kit, result.kit), folder)


def _of_kit(result: Result, kit: Kit, digest: str) -> Result:
    """The result, if it is one of this kit. Raises `UserError` where it is not."""
    parents = {model.role: model.sha256 for model in kit.models}
    named = [name for made in result.made for name in (made.engine, made.outputs) if name is not None]
    named += [result.report] if result.report is not None else []
    if (result.kit, result.kd2edge, result.target_name) != (digest, kit.kd2edge, kit.target_name):
        raise UserError("What came back is of another kit than the one that was sent.")
    if kit.data is None and {made.role: made.parent for made in result.made} != parents:
        raise UserError("What came back was not made of the models that were sent.")
    wanted = (result.report is None, bool(result.made)) == (kit.data is None, kit.data is None)
    if not wanted or len(result.made) > len(parents) or not set(named) <= set(result.files):
        raise UserError("What came back is not what was asked for.")
    return result
