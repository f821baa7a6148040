import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.training.checkpoints import Checkpoint
from more4d.training.draws import Draws
from more4d.training.loop import iterate_batches, train
from more4d.training.objective import Objective
from more4d.training.order import Order
from more4d.training.result import TrainResult
from more4d.training.schedule import clip_limit, learning_rate_factor
from more4d.training.settings import TrainSettings
from more4d.training.stopping import TrainingStopped
from pydantic import ValidationError
from torch import Tensor, nn

SETTINGS = TrainSettings(
    steps=12, batch_size=3, learning_rate=0.01, warmup_steps=3, ema_decay=0.9, checkpoint_every=4, log_every=2,
    device="cpu", validate_every=6,
)  # fmt: skip


class Curve(Objective):
    """Fits a small network to ten noisy points; can be told to fail at a step, counted over all runs."""

    def __init__(
        self, *, stop_at: int = -1, kill_at: int = -1, spoil_at: int = -1, leave_at: int = -1, dropout: float = 0.0
    ) -> None:
        torch.manual_seed(0)
        self.module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(3, 4)]), "out": nn.Linear(4, 1)})
        self.points, self.size = torch.randn(10, 3), 10
        self.stop_at, self.kill_at, self.spoil_at, self.leave_at = stop_at, kill_at, spoil_at, leave_at
        self.dropout = nn.Dropout(dropout)
        self.seen: list[Tensor] = []
        self.dtypes: set[torch.dtype] = set()

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Points and their heights."""
        if _are_those_of(self.stop_at, indices):
            raise KeyboardInterrupt
        if _are_those_of(self.kill_at, indices):
            os.kill(os.getpid(), signal.SIGKILL)
        if _are_those_of(self.leave_at, indices):
            os.kill(os.getpid(), signal.SIGUSR1)
        self.seen.append(indices)
        spoiled = float("nan") if _are_those_of(self.spoil_at, indices) else 1.0
        return {"x": self.points[indices], "y": self.points[indices].sum(dim=1, keepdim=True).sin() * spoiled}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Squared error with noise on the points."""
        noise = 0.1 * draws.normal(batch["x"])
        hidden = self.dropout(torch.tanh(self.module["blocks"][0](batch["x"] + noise)))  # type: ignore[index]
        found = self.module["out"](hidden)
        self.dtypes.add(found.dtype)
        error = (found.float() - batch["y"]).square().mean()
        return {"loss": error, "double": 2 * error.detach()}

    def validate(self, step: int) -> dict[str, float]:
        """The sum of one weight matrix, which tells whose weights are in place."""
        return {"score": float(self.module["out"].weight.sum()), "after": float(step)}  # type: ignore[union-attr]


def _are_those_of(step: int, indices: Tensor) -> bool:
    return step >= 0 and indices.tolist() == Order([0] * 10, len(indices), 0).batch(step)


def run(work: Path, objective: Curve | None = None, **changes: object) -> TrainResult:
    """A training with some settings changed."""
    return train(objective or Curve(), SETTINGS.model_copy(update=changes), seed=0, work=work)


def left_in(work: Path) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """Tensors (their bytes) and state of every checkpoint of the work folder; not which commit ran."""
    found = {}
    for folder in sorted(work.glob("step-*")):
        checkpoint = Checkpoint(folder)
        tensors = {name: checkpoint.whole(name).numpy().tobytes() for name in checkpoint.names()}
        state = checkpoint.state | {"run": {k: v for k, v in checkpoint.state["run"].items() if k != "revision"}}
        found[folder.name] = (tensors, state)
    return found


@pytest.fixture(scope="module", params=["adamw", "muon"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, TrainResult]:
    """An optimizer, and the work folder and result of a training that nothing interrupted."""
    work = tmp_path_factory.mktemp("straight")
    return request.param, work, run(work, optimizer=request.param)


def same(one: TrainResult, other: TrainResult) -> bool:
    """Whether two results are equal to the last bit."""
    equal = all(torch.equal(value, other.ema[key]) for key, value in one.ema.items())
    return equal and one.history == other.history


def test_the_same_seed_gives_the_same_bytes(straight: tuple[str, Path, TrainResult], tmp_path: Path) -> None:
    optimizer, work, result = straight
    again = run(tmp_path, optimizer=optimizer)
    assert same(result, again)
    assert left_in(work) == left_in(tmp_path)
    other = train(Curve(), SETTINGS.model_copy(update={"optimizer": optimizer}), seed=1, work=tmp_path / "other")
    assert not same(result, other)


@given(stops=st.lists(st.integers(0, 11), max_size=4))
@settings(max_examples=12, deadline=None)
def test_stopped_at_any_steps_and_resumed_it_equals_the_uninterrupted_run(
    straight: tuple[str, Path, TrainResult], stops: list[int]
) -> None:
    optimizer, uninterrupted, result = straight
    with tempfile.TemporaryDirectory() as folder:
        for stop in stops:
            try:
                run(Path(folder), Curve(stop_at=stop), optimizer=optimizer)
            except KeyboardInterrupt:
                continue
        assert same(result, run(Path(folder), optimizer=optimizer))
        # Weights, average and both moments of the optimizer.
        assert left_in(Path(folder)) == left_in(uninterrupted)


def test_killed_and_resumed_it_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    script = f"import runpy; runpy.run_path({__file__!r})['run_and_be_killed']({str(tmp_path / 'killed')!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert set(left_in(tmp_path / "killed")) == {"step-00000004", "step-00000006"}
    # The killed process ran this file by itself; so must the one that it is compared with.
    resumed = runpy.run_path(__file__)["run"](tmp_path / "killed")
    assert same(resumed, run(tmp_path / "straight"))
    assert left_in(tmp_path / "killed") == left_in(tmp_path / "straight")


def run_and_be_killed(work: str) -> None:
    """Train until step 7, where the process is killed."""
    run(Path(work), Curve(kill_at=7))


def test_the_work_folder_holds_the_newest_states_and_the_best(straight: tuple[str, Path, TrainResult]) -> None:
    scores = {row["step"]: row["validation_score"] for row in straight[2].history if "validation_score" in row}
    best = min(scores, key=lambda step: scores[step])
    assert {int(name[5:]) for name in left_in(straight[1])} == {8, 12, int(best)}


def test_a_finished_run_is_not_run_again(straight: tuple[str, Path, TrainResult]) -> None:
    objective = Curve()
    assert same(straight[2], run(straight[1], objective, optimizer=straight[0]))
    assert objective.seen == []


@given(size=st.integers(1, 30), batch_size=st.integers(1, 40), seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_each_epoch_sees_every_sample_exactly_once(size: int, batch_size: int, seed: int) -> None:
    order = Order([0] * size, batch_size, seed)
    drawn = torch.tensor([order.batch(step) for step in range(size)]).flatten()
    epochs = drawn.reshape(batch_size, size)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(size).expand(batch_size, size))


def test_epochs_and_seeds_differ_in_their_order() -> None:
    orders = [tuple(Order([0] * 50, 50, seed).batch(step)) for seed in range(3) for step in range(3)]
    assert len(set(orders)) == 9


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine_to_zero() -> None:
    long = SETTINGS.model_copy(update={"steps": 1003})
    factors = [learning_rate_factor(step, long) for step in range(1003)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[503] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0, abs=1e-5)
    assert all(a >= b for a, b in zip(factors[2:], factors[3:], strict=False))


def test_the_first_step_is_as_long_as_the_warm_up_allows(tmp_path: Path) -> None:
    objective = Curve(stop_at=1)
    before = objective.module["out"].weight.detach().clone()  # type: ignore[operator]
    # AdamW's first step is the learning rate in every direction.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, objective, weight_decay=0.0)
    moved = (objective.module["out"].weight - before).abs()  # type: ignore[operator]
    assert torch.allclose(moved, torch.full_like(moved, 0.01 / 3), rtol=1e-3)


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(tmp_path: Path) -> None:
    objective = Curve(spoil_at=5)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 5; .*lower learning_rate=0.01"):
        run(tmp_path, objective)
    assert all(p.isfinite().all() for p in objective.module.parameters())
    assert same(run(tmp_path), run(tmp_path / "straight"))


def test_a_gradient_that_is_no_number_stops_the_run_before_a_weight_moves(tmp_path: Path) -> None:
    class Cliff(Curve):
        def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
            return {"loss": (self.module["out"].weight * 0).sqrt().sum()}  # type: ignore[operator]

    objective = Cliff()
    before = [p.clone() for p in objective.module.parameters()]
    with pytest.raises(FloatingPointError, match="gradient norm is nan at step 0"):
        run(tmp_path, objective)
    assert all(torch.equal(a, b) for a, b in zip(before, objective.module.parameters(), strict=True))


def test_bf16_computes_in_half_and_keeps_single_precision_weights(tmp_path: Path) -> None:
    single, half = Curve(), Curve()
    run(tmp_path / "fp32", single)
    result = run(tmp_path / "bf16", half, precision="bf16")
    assert (single.dtypes, half.dtypes) == ({torch.float32}, {torch.bfloat16})
    assert {value.dtype for value in result.ema.values()} == {torch.float32}
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_the_moving_average_lags_behind_the_weights(tmp_path: Path) -> None:
    slow, none = Curve(), Curve()
    lagging, following = run(tmp_path / "a", slow), run(tmp_path / "b", none, ema_decay=0.0)
    start = Curve().module.state_dict()
    for key, weight in slow.module.state_dict().items():
        assert not torch.equal(lagging.ema[key], weight)
        assert (lagging.ema[key] - start[key]).abs().sum() < (weight - start[key]).abs().sum()
        assert torch.equal(following.ema[key], none.module.state_dict()[key])


def test_the_history_is_the_mean_of_each_window_and_is_written_as_csv(
    straight: tuple[str, Path, TrainResult], tmp_path: Path
) -> None:
    result = straight[2]
    assert [row["step"] for row in result.history] == [2, 4, 6, 8, 10, 12]
    metrics = result.write(tmp_path / "history.csv")
    table = pandas.read_csv(tmp_path / "history.csv")
    assert list(table) == ["step", "loss", "double", "gradient_norm", "validation_score", "validation_after"]
    assert (metrics["skipped"], metrics["spikes"]) == (0, 0)
    assert table["double"].tolist() == pytest.approx((2 * table["loss"]).tolist(), rel=1e-4)
    assert metrics["first_loss"] == result.history[0]["loss"]
    assert (metrics["last_loss"], metrics["last_step"]) == (result.history[-1]["loss"], 12)


def test_without_samples_there_is_nothing_to_train(tmp_path: Path) -> None:
    objective = Curve()
    objective.size = 0
    with pytest.raises(ValueError, match="there are no samples to train on"):
        run(tmp_path, objective)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="warmup_steps=12 leaves nothing of steps=12"):
        TrainSettings(steps=12, batch_size=1, learning_rate=0.1, warmup_steps=12)
    with pytest.raises(ValidationError, match="checkpoint_every=15 must be a multiple of log_every=10"):
        TrainSettings(steps=12, batch_size=1, learning_rate=0.1, checkpoint_every=15)


def test_batches_go_through_all_samples_once() -> None:
    assert [batch.tolist() for batch in iterate_batches(5, 2)] == [[0, 1], [2, 3], [4]]


def test_asked_to_leave_it_saves_at_once_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="stopped after 6 steps"):
        run(tmp_path / "left", Curve(leave_at=5, dropout=0.3), prefetch=0)
    assert max(left_in(tmp_path / "left")) == "step-00000006"
    # A dropout draws from the global generator, whose state is part of the checkpoint.
    resumed = run(tmp_path / "left", Curve(dropout=0.3))
    assert same(resumed, run(tmp_path / "straight", Curve(dropout=0.3)))


def test_validation_sees_the_average_and_leaves_the_weights(tmp_path: Path) -> None:
    objective = Curve()
    result = run(tmp_path, objective, validate_every=12)
    score = result.history[-1]["validation_score"]
    assert score == pytest.approx(float(result.ema["out.weight"].sum()))
    assert score != pytest.approx(float(objective.module["out"].weight.detach().sum()))  # type: ignore[operator]


def test_a_changed_learning_rate_is_no_resumption(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="of another training: train.learning_rate was 0.01, is 0.02"):
        run(tmp_path, learning_rate=0.02)
    assert run(tmp_path, prefetch=0, accumulate=3).history[-1]["step"] == 12


def test_the_digest_of_what_was_seen_is_that_of_every_sample_once_an_epoch(tmp_path: Path) -> None:
    run(tmp_path / "a", steps=20, batch_size=5)
    run(tmp_path / "b", steps=20, batch_size=5, accumulate=5)
    states = [Checkpoint(max((tmp_path / name).glob("step-*"))).state["seen"] for name in "ab"]
    assert states[0] == states[1]
    assert states[0]["samples"] == 100


def test_the_gradient_may_be_longer_at_first() -> None:
    early = SETTINGS.model_copy(update={"clip_norm": 0.05, "clip_start_factor": 5.0, "clip_decay_steps": 10})
    assert [clip_limit(step, early) for step in (0, 5, 10, 11)] == pytest.approx([0.25, 0.15, 0.05, 0.05])
