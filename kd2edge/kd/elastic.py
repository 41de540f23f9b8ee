"""Processes that torchrun starts together, and starts again after one of them has died.

Its agents keep one store for all of a job's starts (pytorch issue 135712), where a process may find the address of one
that is dead. So those that live agree on a name first, and under it the store is as new.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from kd2edge.errors import UserError, first_line

WAIT = 0.01  # seconds
PATIENCE = 1800.0  # seconds for all to come: torch's own for a collective call


class Store(Protocol):
    """What is asked here of torch's `Store`; `get` waits until there is a value."""

    def add(self, key: str, amount: int, /) -> int: ...

    def check(self, keys: list[str], /) -> bool: ...

    def get(self, key: str, /) -> bytes: ...

    def set(self, key: str, value: str, /) -> None: ...


def begin(backend: str) -> None:
    """`init_process_group` by what torchrun told in the environment."""
    store, number, count = next(iter(rendezvous("env://")))
    name = gathered(store, count) if number == 0 else introduced(store, number)
    fresh = dist.PrefixStore(name, store)  # type: ignore[attr-defined, unused-ignore]
    dist.init_process_group(backend, store=fresh, rank=number, world_size=count)


def gathered(store: Store, count: int) -> str:
    """Rank 0's part: a new name, told to whoever has asked, the dead too, until all the living have come.

    Raises `UserError` where some do not come at all.
    """
    name, since = uuid.uuid4().hex, time.monotonic()
    while (came := store.add(f"{name}/came", 0)) < count - 1:
        if time.monotonic() - since > PATIENCE:
            raise UserError(f"Of {count} processes that shall train together {came + 1} came.", "look at the others")
        for number in range(1, count):
            if store.check([f"asked/{number}"]):
                store.set(f"answered/{store.get(f'asked/{number}').decode()}", name)
        time.sleep(WAIT)
    return name


def introduced(store: Store, number: int) -> str:
    """Another's: ask in a way that only an answer to this very process can meet, and come."""
    question = uuid.uuid4().hex
    store.set(f"asked/{number}", question)
    name = store.get(f"answered/{question}").decode()
    store.add(f"{name}/came", 1)
    return name


@contextmanager
def lost() -> Iterator[None]:
    """Tell as a `UserError` that a process which trains with this one is gone; where it was, it has said why."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"A process that trains with this one is gone ({first_line(error)}).",
            "with --max-restarts, torchrun starts all again, and they go on from the last checkpoint",
        ) from error
