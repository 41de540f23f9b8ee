"""What CUDA refuses, as a sentence with its mend. The codes are those of `CUresult` in CUDA's driver API."""

from kd2edge.errors import UserError

OUT_OF_MEMORY, NO_DEVICE, LAUNCH_FAILED, CAPTURE_UNSUPPORTED = 2, 100, 719, 900
TOO_OLD = (34, 35, 803, 804)  # a stub, a driver older than what asks it, or one half installed
# After one of these a context answers nothing else; 46 is a device that another process has for itself.
LOST = (46, 214, 220, 221, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, LAUNCH_FAILED)
CAPTURE = range(CAPTURE_UNSUPPORTED, 909)
ROOM = "take a smaller batch: max in the target, or close what else uses the GPU"
PLAIN = "set cuda_graph: false in the target"


class OutOfMemory(UserError):
    """There was no room on the device, or none to pin on the host."""


class DeviceLost(UserError):
    """The device failed: the context is of no use any more."""


class NotCaptured(UserError):
    """What was asked for cannot be part of a graph."""


def fault(code: int, call: str, says: str) -> UserError:
    """The error for a `CUresult` that is not 0: the name of the call, and what CUDA says about the code."""
    told = f"{says.strip().rstrip('.') or 'it says nothing more'} (CUDA error {code} in {call})"
    if code == OUT_OF_MEMORY:
        return OutOfMemory(f"The GPU is out of memory: {told}.", ROOM)
    if code in LOST:
        return DeviceLost(
            f"The GPU failed: {told}.",
            "run it again; if it comes back, nvidia-smi -q and the Xid lines of dmesg tell of the GPU and its driver",
        )
    if code == NO_DEVICE:
        return UserError(
            f"CUDA finds no NVIDIA GPU: {told}.", "nvidia-smi -L lists the GPUs; CUDA_VISIBLE_DEVICES can hide them"
        )
    if code in TOO_OLD:
        return UserError(
            f"The NVIDIA driver does not serve: {told}.", "install a newer driver until nvidia-smi answers"
        )
    if code in CAPTURE:
        return NotCaptured(f"This cannot be captured as a CUDA graph: {told}.", PLAIN)
    return UserError(f"CUDA refuses: {told}.", "run it again; nvidia-smi shows the GPU, its driver and who uses it")


def out_of_memory(asked: int, memory: tuple[int, int] | None) -> OutOfMemory:
    """The error for `asked` bytes on the device, where (free, total) bytes are as given, or for memory to be pinned."""
    wanted = f"{asked / 2**20:,.1f} MiB"
    if memory is None:
        return OutOfMemory(f"The system has no {wanted} of memory to pin.", ROOM)
    free, total = (f"{size / 2**20:,.0f}" for size in memory)
    return OutOfMemory(f"The GPU is out of memory: asked for {wanted}, {free} of {total} MiB are free.", ROOM)
