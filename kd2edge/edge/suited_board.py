"""Whether this machine can do what a target asks: the board, how it is set up, what else it does, keys and disk."""

from collections.abc import Iterator

from kd2edge.edge.check import Check
from kd2edge.edge.here import Here
from kd2edge.schema import Target

SMALL_MIB = 8 * 1024  # boards on which the processor and the GPU share so little that it runs out
HEADROOM_MIB = 1024
FREE_GIB = 1.0


def board(target: Target, here: Here) -> Iterator[Check]:
    if target.board is None:
        return
    fits = here.board is not None and target.board in here.board
    mend = None if fits else "name the target of this board, or copy the nearest: kd2edge copy targets NAME"
    detail = f"{here.board or 'no board that names itself'}, wanted {target.board}"
    yield Check(name="board", says="ok" if fits else "broken", detail=detail, mend=mend, needed=True)


def jetpack(target: Target, here: Here) -> Iterator[Check]:
    if not target.jetpack:
        return
    wanted = ", ".join(target.jetpack)
    if here.release is None:
        yield Check(name="JetPack", says="missing", detail=f"no Jetson Linux here, wanted {wanted}", needed=True)
        return
    found = here.jetpack or "a JetPack not known here"
    fits = here.jetpack is not None and any(_covers(one, here.jetpack) for one in target.jetpack)
    detail = f"{found} (Jetson Linux {here.release}), the target is known with {wanted}"
    mend = None if fits else "flash that JetPack, or add this one to the target once its engines are proved"
    yield Check(name="JetPack", says="ok" if fits else "missing", detail=detail, mend=mend)


def dla(target: Target, here: Here) -> Iterator[Check]:
    """An Orin NX of 8 GB has one core less than the file says: needed is only the core that is asked for."""
    asked = target.build.dla_core
    if not target.dla_cores and asked is None:
        return
    found = "not told" if here.dla_cores is None else str(here.dla_cores)
    enough = here.dla_cores is not None and here.dla_cores > (-1 if asked is None else asked)
    whole = enough and here.dla_cores is not None and here.dla_cores >= target.dla_cores
    detail = f"{found} of {target.dla_cores}" + ("" if asked is None else f", core {asked} is asked for")
    mend = None if whole or asked is None else "leave build.dla_core out: the GPU runs every layer"
    needed = asked is not None
    says = "ok" if (enough if needed else whole) else "missing"
    yield Check(name="DLA cores", says=says, detail=detail, mend=mend, needed=needed)


def memory(target: Target, here: Here) -> Iterator[Check]:
    if target.board is None or here.memory_mib is None or here.free_mib is None or here.memory_mib > SMALL_MIB:
        return
    wanted = HEADROOM_MIB + (target.workspace_mib or 0)
    fits = here.free_mib >= wanted
    contiguous = "" if here.contiguous_mib is None else f", {here.contiguous_mib} MiB of it contiguous (CMA)"
    detail = f"{here.free_mib} of {here.memory_mib} MiB are free{contiguous}, wanted {wanted}"
    mend = None if fits else "sudo systemctl isolate multi-user.target  # ends the desktop; and close other programs"
    yield Check(name="memory", says="ok" if fits else "missing", detail=detail, mend=mend)


def power_mode(target: Target, here: Here) -> Iterator[Check]:
    """No mode is wrong, and none comparable with another: the report has it in its fingerprint."""
    if target.board is None:
        return
    told = here.power_mode is not None
    detail = f"{here.power_mode}; reports of other modes are of another speed" if told else "nvpmodel tells none"
    yield Check(
        name="power mode", says="ok" if told else "missing", detail=detail, mend=None if told else "sudo nvpmodel -q"
    )


def clocks(target: Target, here: Here) -> Iterator[Check]:
    if target.board is None:
        return
    if here.clocks_fixed is None:
        yield Check(name="jetson_clocks", says="missing", detail="the clocks' ranges are not told here")
        return
    detail = "clocks are fixed" if here.clocks_fixed else "clocks follow the load: timings will not repeat"
    mend = None if here.clocks_fixed else "sudo jetson_clocks"
    yield Check(name="jetson_clocks", says="ok" if here.clocks_fixed else "missing", detail=detail, mend=mend)


def permission(target: Target, here: Here) -> Iterator[Check]:
    if not target.gpu or here.sm is None:
        return
    command = "sudo jetson_clocks" if target.board else "sudo nvidia-smi -lgc MHZ,MHZ"
    detail = "this user may fix the GPU's clock" if here.may_lock else "only root may fix the GPU's clock here"
    says = "ok" if here.may_lock else "missing"
    yield Check(name="clock lock", says=says, detail=detail, mend=None if here.may_lock else command)


def others(target: Target, here: Here) -> Iterator[Check]:
    if not target.gpu or here.others is None:
        return
    mend = f"end them before bench: {', '.join(sorted(set(here.others)))}" if here.others else None
    detail = f"{len(here.others)} other programs compute on it" if here.others else "nobody else computes on it"
    yield Check(name="GPU in use", says="missing" if here.others else "ok", detail=detail, mend=mend)


def rails(target: Target, here: Here) -> Iterator[Check]:
    if not target.gpu:
        return
    if here.rails:
        yield Check(name="power rails", says="ok", detail=" + ".join(here.rails))
        return
    why = here.unseen or "none that add up to the whole may be read: there will be no energy"
    mend = "pip install nvidia-ml-py" if here.unseen and "nvidia-ml-py" in here.unseen else None
    yield Check(name="power rails", says="missing", detail=why, mend=mend)


def second_opinion(target: Target, here: Here) -> Iterator[Check]:
    if target.backend != "tensorrt":
        return
    detail = "bench checks its GPU times against it" if here.trtexec else "without it nothing checks the GPU times"
    mend = None if here.trtexec else "sudo apt install libnvinfer-bin"
    yield Check(name="trtexec", says="ok" if here.trtexec else "missing", detail=detail, mend=mend)


def signing(target: Target, here: Here) -> Iterator[Check]:
    """A device that requires signatures needs a key it trusts; who signs for it needs a private one, elsewhere."""
    needed = target.require_signature
    if here.trusted_keys is None:
        detail = "the folder of keys cannot be read"
        yield Check(name="signing key", says="broken", detail=detail, mend="kd2edge keys list", needed=needed)
        return
    own = f"signs as {', '.join(here.private_keys)}" if here.private_keys else "no private key: nothing is signed here"
    trusts = f"trusts {', '.join(here.trusted_keys)}" if here.trusted_keys else "trusts nobody"
    good = bool(here.trusted_keys) if needed else bool(here.trusted_keys or here.private_keys)
    mend = None if good else ("kd2edge keys trust KEY.pub" if needed else "kd2edge keys new NAME")
    says = "ok" if good else "missing"
    yield Check(name="signing key", says=says, detail=f"{own}; {trusts}", mend=mend, needed=needed)


def disk(target: Target, here: Here) -> Iterator[Check]:
    fits = here.disk_gib >= FREE_GIB
    mend = None if fits else f"free {FREE_GIB - here.disk_gib:.1f} GiB, or work on another disk"
    yield Check(name="disk", says="ok" if fits else "missing", detail=f"{here.disk_gib:.1f} GiB free here", mend=mend)


def _covers(listed: str, found: str) -> bool:
    """6.2 stands for 6.2.1 too, and not for 6.20."""
    return found == listed or found.startswith(f"{listed}.")


PARTS = (
    *(board, jetpack, dla, memory, power_mode, clocks),
    *(permission, others, rails, second_opinion, signing, disk),
)
