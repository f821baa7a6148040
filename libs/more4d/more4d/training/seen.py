"""A digest of which sample was learned from at which place of which step: proof that none was skipped or came twice."""

import hashlib
from collections.abc import Iterable

from more4d.training.distributed.world import World

_MODULUS = 2**64


class Seen:
    """A sum of hashes, so that neither the order of the ranks nor their number changes it."""

    def __init__(self) -> None:
        self._total = 0
        self.samples = 0

    def add(self, step: int, places: Iterable[int], ids: Iterable[str]) -> None:
        """These samples were learned from on this rank."""
        for place, sample in zip(places, ids, strict=True):
            digest = hashlib.sha256(f"{step} {place} {sample}".encode()).digest()
            self._total = (self._total + int.from_bytes(digest[:8])) % _MODULUS
            self.samples += 1

    def state(self, world: World) -> dict[str, str | int]:
        """The digest and the count over all ranks, as JSON has it."""
        found = world.gather([str(self._total), str(self.samples)])
        total = sum(int(part) for part, _ in found) % _MODULUS
        return {"digest": f"{total:016x}", "samples": sum(int(count) for _, count in found)}

    def restore(self, state: dict[str, str | int], world: World) -> None:
        """Go on from a saved digest; one rank carries it."""
        if world.main:
            self._total, self.samples = int(str(state["digest"]), 16), int(state["samples"])
