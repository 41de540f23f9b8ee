"""How long work tells of itself. The CLI draws it with rich; a notebook or a test may stay silent."""

from typing import Protocol


class Progress(Protocol):
    """`start` opens a bar of `total` steps, `advance` moves it and shows figures, `say` prints one sentence."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1, **figures: float | str) -> None: ...

    def say(self, sentence: str) -> None: ...


class Silent:
    """Tells nothing."""

    def start(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        pass

    def say(self, sentence: str) -> None:
        pass
