"""The one training loop: on accelerate, spread over ranks as a strategy says, resumable at any step to the last bit.

Everything random in step k is drawn from generators seeded by (seed, k, place in the global batch), and every loss is a
mean over samples: neither a stop nor the number of ranks or parts changes what is learned.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from more4d.models.conversion import CheckpointError
from more4d.training.average import Average
from more4d.training.batches import Batches, Part
from more4d.training.checkpoints import CheckpointStore, require_same_model
from more4d.training.distributed.choose import build_strategy
from more4d.training.distributed.strategy import tensors_of
from more4d.training.distributed.world import World, join_world
from more4d.training.draws import Draws
from more4d.training.generators import generator_pieces, load_generators, seeded
from more4d.training.history import History
from more4d.training.objective import Objective
from more4d.training.optimizers import learning_rates, set_learning_rates
from more4d.training.requirements import require_possible
from more4d.training.result import TrainResult
from more4d.training.resuming import identity, require_same_run
from more4d.training.schedule import average_decay, clip_limit, learning_rate_factor
from more4d.training.seen import Seen
from more4d.training.settings import TrainSettings
from more4d.training.stopping import StopSignals, TrainingStopped
from more4d.training.watch.guard import Guard
from more4d.training.watch.meters import Meter
from more4d.training.watch.trackers import Trackers, progress_line, require_trackers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a training leaves what it makes, and what it may lean on."""

    work: Path
    """Its checkpoints; the same training finds them again."""
    logs: Path | None = None
    """Where trackers write; nothing is tracked without."""
    root: Path = Path()
    """The workspace, which settings' paths are taken from."""


def train(
    objective: Objective, settings: TrainSettings, *, seed: int, work: Path, place: Place | None = None
) -> TrainResult:
    """The result of `settings.steps` steps, continued from `work` where it holds a state.

    Every rank calls it. Raises FloatingPointError when a loss or gradient is not finite, before any weight is changed by
    it; TrainingStopped after SIGTERM or SIGUSR1, the state saved; ValueError for settings that cannot be.
    """
    world = join_world(settings.device)
    require_possible(objective, settings, world)
    require_trackers(settings.trackers)
    with seeded(seed, world):
        return Training(objective, settings, seed, world, place or Place(work)).run()


class Training:
    """A training under way on this rank."""

    def __init__(self, objective: Objective, settings: TrainSettings, seed: int, world: World, place: Place) -> None:
        self.objective, self.settings, self.seed, self.world, self.place = objective, settings, seed, world, place
        # Before the strategy cuts them.
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(objective.module)}
        self.strategy = build_strategy(objective, settings, world, place.root)
        self.average = Average(self.strategy) if settings.ema_decay else None
        self.peaks = learning_rates(self.strategy.optimizers)
        self.ids = list(objective.ids)
        self.store = CheckpointStore(place.work, settings.checkpoints, world)
        self.guard = Guard(settings.guard, learning_rate=settings.learning_rate)
        self.history, self.seen = History(settings.log_every), Seen()
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        counts = objective.tokens, objective.flops, settings.batch_size
        self.meter = Meter(*counts, world.device, ranks=world.ranks, dtype=dtype)

    def run(self) -> TrainResult:
        """Resume, train to the end, and read the result from the last checkpoint."""
        step = self._resume()
        self.objective.module.train()
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            stack.enter_context(self.guard.watching())
            batches = stack.enter_context(Batches(self.objective, self.settings, self.world, seed=self.seed, step=step))
            trackers = stack.enter_context(self._trackers(step))
            for done in self._steps(step, batches, trackers):
                self._after(done, trackers, stopped=signals.received)
        last = self.store.latest()
        assert last is not None, "the last step was saved"
        return TrainResult(self.history.rows, last, averaged=self.average is not None)

    def _steps(self, step: int, batches: Batches, trackers: Trackers | None) -> Iterator[int]:
        """Train step by step; yields how many steps are done."""
        total = self.settings.steps
        bar = tqdm(
            range(step, total), initial=step, total=total, desc="train", leave=False, disable=not self.world.main
        )
        for number in bar:
            began = time.perf_counter()
            logs = self._step(number, batches.take())
            self.meter.waited(batches.waited)
            self.meter.step(time.perf_counter() - began)
            if self.history.add(number + 1, logs, last=number + 1 == total):
                bar.set_postfix_str(self._report(number + 1, trackers))
            yield number + 1

    def _step(self, step: int, parts: list[Part]) -> dict[str, float]:
        """One optimizer step; what it logs are means over all ranks."""
        factor = learning_rate_factor(step, self.settings)
        set_learning_rates(self.strategy.optimizers, self.peaks, factor)
        logs = self._backward(step, parts)
        norm = self.strategy.clip(clip_limit(step, self.settings))
        ids = [self.ids[number] for part in parts for number in part.numbers]
        verdict = self.guard.check(step, logs["loss"], norm, ids)
        self.seen.add(step, [place for part in parts for place in part.places], ids)
        if verdict == "skip":
            self.strategy.skip()
        else:
            self.strategy.step()
            if self.average:
                self.average.update(average_decay(step, self.settings))
        return logs | {"gradient_norm": norm}

    def _backward(self, step: int, parts: list[Part]) -> dict[str, float]:
        """The means of what the loss logs, after adding up the gradients of all parts."""
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            with self.strategy.part(last=number + 1 == len(parts)):
                batch = {key: value.to(self.world.device, non_blocking=True) for key, value in part.tensors.items()}
                logs = self.strategy.loss(batch, Draws(self.seed, step, part.places))
                self.strategy.backward(logs["loss"] / len(parts))
            for key, value in logs.items():
                sums[key] = sums.get(key, 0) + value.detach().double() / len(parts)
        means = self.world.mean([float(value) for value in sums.values()])
        return dict(zip(sums, means, strict=True))

    def _after(self, done: int, trackers: Trackers | None, *, stopped: bool) -> None:
        """Validate and save where it is time to; leave where a signal asked for it."""
        settings = self.settings
        score = None
        if settings.validate_every and done % settings.validate_every == 0:
            score = self._validate(done, trackers)
        stopped = any(self.world.gather(stopped)) if self.world.ranks > 1 else stopped
        if done % settings.checkpoint_every == 0 or done == settings.steps or score is not None or stopped:
            self._save(done, score, again=stopped)
        elif settings.checkpoints.asynchronous:
            self.store.poll()
        if stopped and done < settings.steps:
            self.store.finish()
            raise TrainingStopped(done)

    def _validate(self, done: int, trackers: Trackers | None) -> float | None:
        """The score, where the objective gives one; measures go to the history and the trackers."""
        with self.guard.pause(), self._averaged(), torch.no_grad():
            self.objective.module.eval()
            found = self.objective.validate(done)
            self.objective.module.train()
        self.history.validated(done, found)
        if trackers:
            trackers.log({f"validation/{key}": value for key, value in found.items()}, done)
            trackers.videos({f"validation/{key}": file for key, file in self.objective.shown(done).items()}, done)
        return found.get("score")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def _report(self, done: int, trackers: Trackers | None) -> str:
        """Speed and losses to the trackers; what the progress bar shows."""
        rate = self.peaks[0] * learning_rate_factor(done - 1, self.settings)
        values = {**self.history.rows[-1], **self.meter.read(), "learning_rate": rate}
        if trackers:
            trackers.log({**values, **self.guard.counts()}, done)
        return progress_line(values)

    @contextmanager
    def _trackers(self, step: int) -> Iterator[Trackers | None]:
        if not self.settings.trackers or self.place.logs is None:
            yield None
            return
        config = {**self.settings.model_dump(mode="json"), "seed": self.seed}
        trackers = Trackers(self.settings.trackers, self.place.logs, config, step=step, rank=self.world.rank)
        try:
            yield trackers
        finally:
            trackers.close()

    def _save(self, done: int, score: float | None, *, again: bool = False) -> None:
        """Save, and where an earlier save in the background turns out to have failed, `again`: there is no later one."""
        with self.guard.pause():
            try:
                self.store.save(done, self._pieces(), self._state(), score)
            except CheckpointError:
                if not (again and self.settings.checkpoints.asynchronous):
                    raise
                self.store.save(done, self._pieces(), self._state(), score)

    def _pieces(self) -> Iterator[Any]:
        yield from self.strategy.pieces()
        if self.average:
            yield from self.average.pieces(self.world)
        yield from generator_pieces(self.world)

    def _state(self) -> dict[str, Any]:
        return {
            "run": identity(self.objective, self.settings, self.seed),
            "ranks": self.world.ranks,
            "seen": self.seen.state(self.world),
            "guard": self.guard.state(),
            "history": self.history.state(),
        }

    def _resume(self) -> int:
        """Steps that are done; everything is as it was after them."""
        checkpoint = self.store.latest()
        if checkpoint is None:
            return 0
        require_same_model(checkpoint, self.shapes)
        require_same_run(checkpoint, identity(self.objective, self.settings, self.seed))
        names = checkpoint.names()
        self.strategy.load(names, checkpoint.read)
        if self.average:
            self.average.load(checkpoint.read)
        if not load_generators(names, checkpoint.read, self.world):
            log.warning("rank %d draws its own generators anew: %d ranks saved", self.world.rank, checkpoint.ranks)
        self.guard.restore(checkpoint.state["guard"])
        self.history.restore(checkpoint.state["history"])
        self.seen.restore(checkpoint.state["seen"], self.world)
        return checkpoint.step


def iterate_batches(size: int, batch_size: int) -> Iterator[Tensor]:
    """Consecutive sample numbers in batches, each sample once."""
    for start in range(0, size, batch_size):
        yield torch.arange(start, min(size, start + batch_size))
