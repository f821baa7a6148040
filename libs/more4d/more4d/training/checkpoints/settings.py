"""Which checkpoints stay, and whether training waits while one is written."""

from pydantic import Field

from more4d.settings import Section


class CheckpointSettings(Section):
    """The newest ones always stay; the best and those of round steps may stay besides."""

    keep_last: int = Field(default=2, ge=1)
    """How many of the newest stay: with one alone there is none to fall back to when it is damaged."""
    keep_best: bool = True
    """Whether the one with the lowest score stays too."""
    keep_every: int = Field(default=0, ge=0)
    """Checkpoints of steps that are multiples of this stay for ever; 0 for none."""
    asynchronous: bool = False
    """Copy the state to CPU memory and write it while training goes on: a second copy of this rank's share is held."""
