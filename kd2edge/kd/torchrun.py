"""What torchrun tells the processes that it starts, read without torch: asked before a run directory is made."""

import os
from pathlib import Path

TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """How many processes train together; 1 where torchrun did not start this one, whatever other launchers set."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in TOLD) else 1


def number() -> int:
    """Which of them this process is; 0 is the first, which alone writes and answers."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def restarted(recipe: Path) -> bool:
    """Whether torchrun started this process after one had died that left a run, whose recipe that is, to go on with."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and recipe.is_file()
