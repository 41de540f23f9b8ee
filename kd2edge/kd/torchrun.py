"""What torchrun tells the processes that it starts, read without torch: asked before a run directory is made."""

import os

TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """How many processes train together; 1 where torchrun did not start this one, whatever other launchers set."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in TOLD) else 1
