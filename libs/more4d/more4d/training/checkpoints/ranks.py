"""What checkpoints need of a group of processes: who this one is, and small things told to all."""

from typing import Any, Protocol


class Ranks(Protocol):
    """A group of processes, each of which calls the same methods in the same order from its main thread.

    All of them see one file system: what one writes the others can read.
    """

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many processes there are."""
        ...

    def barrier(self) -> None:
        """Return once every process has come here."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, by rank, told to all. Values are small and such as JSON can write."""
        ...


class OneRank:
    """The group of one process."""

    rank = 0
    count = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def gather(self, value: Any) -> list[Any]:
        """[value]."""
        return [value]
