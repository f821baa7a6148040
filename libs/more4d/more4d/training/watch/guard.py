"""Decides of every step whether it may change the weights: no numbers, spikes, outliers, stalls, all counted."""

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from more4d.settings import Section
from more4d.training.watch.stalls import Watchdog

log = logging.getLogger(__name__)

Verdict = Literal["step", "skip"]
"""Whether the optimizer is to take a step, or the batch is to be left out."""


class TrainingStoppedError(RuntimeError):
    """Something went wrong more often than the settings allow; the message says what, and what to change."""


class GuardSettings(Section):
    """What of a step is not normal, and how often it may happen before the run stops."""

    max_nonfinite: int = Field(default=0, ge=0)
    """Steps whose loss or gradient norm is no number that are left out; one more stops the run."""
    window: int = Field(default=1000, gt=1)
    """Last steps whose losses say what is usual."""
    min_steps: int = Field(default=100, gt=1)
    """Losses in the window before any is judged."""
    spike_sigmas: float | None = Field(default=6.0, gt=0)
    """A loss above the window's mean by so many of its standard deviations is reported; None: none is."""
    max_spikes: int | None = Field(default=None, ge=0)
    """Spikes of the whole run that are put up with; None: any number."""
    max_spikes_in_a_row: int | None = Field(default=None, ge=0)
    skip_sigmas: float | None = Field(default=None, gt=0)
    """A batch whose loss is above the mean by so many standard deviations is not learned from (VAE training: 6)."""
    max_skips_in_a_row: int | None = Field(default=20, ge=0)
    """Batches in a row that are left out: more, and the losses have not jumped but moved."""
    stall_seconds: float | None = Field(default=1800.0, gt=0)
    """Without a finished step for so long it is reported where the run stands; None: not watched."""
    max_stalls: int | None = Field(default=2, ge=1)
    """Reports in a row at which the process is ended; None: never."""

    @model_validator(mode="after")
    def _can_judge(self) -> Self:
        if self.min_steps > self.window:
            raise ValueError(f"min_steps={self.min_steps} are never reached with window={self.window}")
        return self


class GuardState(BaseModel):
    """What a resumed run has to know: the losses of the window, oldest first, and what was counted."""

    model_config = ConfigDict(extra="forbid")

    window: list[float] = []
    nonfinite: int = 0
    spikes: int = 0
    spikes_in_a_row: int = 0
    skipped: int = 0
    skips_in_a_row: int = 0


class Guard:
    """Judges each step by the loss and the gradient norm that all ranks share, so that all decide alike.

    Everything follows from what came before, none of it from clocks: a resumed run, given `state()` of the stopped one,
    decides as the uninterrupted one. `learning_rate` is for the advice alone.
    """

    def __init__(self, settings: GuardSettings, *, learning_rate: float | None = None) -> None:
        self.settings, self._learning_rate = settings, learning_rate
        self._found, self._window = GuardState(), deque[float](maxlen=settings.window)
        self._watchdog = (
            Watchdog(settings.stall_seconds, settings.max_stalls) if settings.stall_seconds is not None else None
        )

    def check(self, step: int, loss: float, norm: float, ids: Sequence[str]) -> Verdict:
        """What is to be done with step `step`, whose global batch are the samples `ids`; also tells that it got so far.

        Raises FloatingPointError where the loss or norm is no number once too often, TrainingStoppedError for more
        spikes or outliers than the settings allow. Nothing has changed any weight by then.
        """
        self.beat()
        bad = next((pair for pair in (("loss", loss), ("gradient norm", norm)) if not math.isfinite(pair[1])), None)
        if bad:
            return self._nonfinite(step, *bad, ids)
        mean, deviation = self._usual()
        settings, above = self.settings, loss - mean
        spike = settings.spike_sigmas is not None and above > settings.spike_sigmas * deviation
        skip = settings.skip_sigmas is not None and above > settings.skip_sigmas * deviation
        self._count(spike=spike, skip=skip)
        if spike or skip:
            sigmas = settings.skip_sigmas if skip else settings.spike_sigmas
            assert sigmas is not None
            self._report(step, loss, mean + sigmas * deviation, ids, skipped=skip)
        if not skip:
            self._window.append(loss)
        return "skip" if skip else "step"

    def beat(self) -> None:
        """The run goes on: for the watch over stalls, where something else than a step was finished."""
        if self._watchdog is not None:
            self._watchdog.beat()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, a run that hangs is reported, and its process ended with status 75 after `max_stalls` reports."""
        with self._watchdog or nullcontext():
            yield

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within, nothing counts as a stall: validation, say, takes as long as it takes."""
        with self._watchdog.pause() if self._watchdog is not None else nullcontext():
            yield

    def counts(self) -> dict[str, float]:
        """nonfinite, spikes and skipped of the whole run, and stalls of this process."""
        found = self._found
        stalls = 0 if self._watchdog is None else self._watchdog.reports
        return {"nonfinite": found.nonfinite, "spikes": found.spikes, "skipped": found.skipped, "stalls": stalls}

    def state(self) -> dict[str, Any]:
        """For a checkpoint; JSON keeps every bit of it."""
        return self._found.model_copy(update={"window": list(self._window)}).model_dump()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the guard whose `state` this is stood; a shorter window keeps the latest losses."""
        self._found = GuardState.model_validate(state)
        self._window = deque(self._found.window, maxlen=self.settings.window)

    def _usual(self) -> tuple[float, float]:
        """Mean and standard deviation of the window; no loss is above them while there are too few."""
        if len(self._window) < self.settings.min_steps:
            return math.inf, 0.0
        # Rounded once, not once a term: the same whatever the order.
        mean = math.fsum(self._window) / len(self._window)
        deviation = math.sqrt(math.fsum((loss - mean) ** 2 for loss in self._window) / len(self._window))
        # Losses that are all the same have none, and a mean that is off by its last bit.
        return mean, max(deviation, 1e-9 * abs(mean))

    def _count(self, *, spike: bool, skip: bool) -> None:
        found = self._found
        found.spikes += spike
        found.spikes_in_a_row = found.spikes_in_a_row + 1 if spike else 0
        found.skipped += skip
        found.skips_in_a_row = found.skips_in_a_row + 1 if skip else 0

    def _nonfinite(self, step: int, name: str, value: float, ids: Sequence[str]) -> Verdict:
        self._found.nonfinite += 1
        rate = "the learning rate" if self._learning_rate is None else f"learning_rate={self._learning_rate:g}"
        message = f"{name} is {value} at step {step}; look for bad samples among {named(ids)} or lower {rate}"
        if self._found.nonfinite > self.settings.max_nonfinite:
            raise FloatingPointError(message)
        self._found.skipped += 1
        log.warning("%s; left out as number %d of %d", message, self._found.nonfinite, self.settings.max_nonfinite)
        return "skip"

    def _report(self, step: int, loss: float, limit: float, ids: Sequence[str], *, skipped: bool) -> None:
        done = "the batch is left out" if skipped else "reported only"
        message = f"loss {loss:g} of step {step} is above {limit:g}; {done}; samples {named(ids)}"
        log.warning(message)
        found, settings = self._found, self.settings
        for name, count, most in (
            ("max_skips_in_a_row", found.skips_in_a_row, settings.max_skips_in_a_row),
            ("max_spikes_in_a_row", found.spikes_in_a_row, settings.max_spikes_in_a_row),
            ("max_spikes", found.spikes, settings.max_spikes),
        ):
            if most is not None and count > most:
                raise TrainingStoppedError(
                    f"{message}. That is one more than {name}={most}: look at these samples, lower the learning rate, or "
                    f"raise {name}"
                )


def named(ids: Sequence[str], most: int = 64) -> str:
    """The names in one line, the first `most` of them."""
    rest = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + rest
