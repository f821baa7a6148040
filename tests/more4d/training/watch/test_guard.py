import json
import logging
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.training.watch.guard import Guard, GuardSettings, TrainingStoppedError
from pydantic import ValidationError

QUIET = GuardSettings(window=8, min_steps=4, stall_seconds=None)
IDS = ["cat-1", "dog-2"]


def run(guard: Guard, losses: list[float], start: int = 0) -> list[str]:
    return [guard.check(step, loss, 1.0, IDS) for step, loss in enumerate(losses, start=start)]


def test_the_first_loss_that_is_no_number_stops_the_run_and_names_its_samples() -> None:
    guard = Guard(QUIET, learning_rate=0.01)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 7; .*cat-1, dog-2 or lower learning_rate=0.01"):
        guard.check(7, math.nan, 1.0, IDS)
    with pytest.raises(FloatingPointError, match="gradient norm is inf at step 8"):
        guard.check(8, 1.0, math.inf, IDS)


def test_as_many_as_allowed_are_left_out_and_counted_and_the_next_one_stops(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(QUIET.model_copy(update={"max_nonfinite": 2}))
    assert run(guard, [1.0, math.nan, math.inf, 1.0]) == ["step", "skip", "skip", "step"]
    assert guard.counts() == {"nonfinite": 2, "spikes": 0, "skipped": 2, "stalls": 0}
    assert "loss is inf at step 2" in caplog.text and "number 2 of 2" in caplog.text and "dog-2" in caplog.text
    with pytest.raises(FloatingPointError, match="loss is nan at step 4"):
        run(guard, [math.nan], start=4)


def test_a_spike_is_reported_and_learned_from(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(QUIET)
    assert run(guard, [1.0, 1.1, 0.9, 1.0, 50.0, 1.0]) == ["step"] * 6
    assert guard.counts()["spikes"] == 1
    assert "loss 50 of step 4 is above 1.42426; reported only; samples cat-1, dog-2" in caplog.text


def test_nothing_is_judged_before_there_are_enough_losses() -> None:
    guard = Guard(QUIET.model_copy(update={"skip_sigmas": 3.0}))
    assert run(guard, [1.0, 100.0, 1.0]) == ["step"] * 3
    assert guard.counts() == {"nonfinite": 0, "spikes": 0, "skipped": 0, "stalls": 0}


def test_an_outlier_is_left_out_of_the_training_and_of_what_is_usual(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(QUIET.model_copy(update={"skip_sigmas": 6.0, "spike_sigmas": None}))
    losses = [1.0, 1.1, 0.9, 1.0, 1.5, 1.4, 1.05]
    assert run(guard, losses) == ["step"] * 4 + ["skip"] + ["step"] * 2
    assert guard.state()["window"] == [1.0, 1.1, 0.9, 1.0, 1.4, 1.05]
    assert guard.counts()["skipped"] == 1
    assert "the batch is left out; samples cat-1, dog-2" in caplog.text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_spikes": 2}, "max_spikes=2"),
        ({"max_spikes_in_a_row": 2}, "max_spikes_in_a_row=2"),
        ({"skip_sigmas": 3.0, "max_skips_in_a_row": 2}, "max_skips_in_a_row=2"),
    ],
)
def test_more_than_the_settings_allow_stops_the_run(changes: dict[str, float], name: str) -> None:
    guard = Guard(QUIET.model_copy(update=changes | {"window": 100}))
    usual = [1.0, 1.1] * 40
    run(guard, [*usual, 100.0, 1000.0])
    with pytest.raises(TrainingStoppedError, match=f"loss 10000 of step 82 .* one more than {name}"):
        run(guard, [10_000.0], start=82)


def test_spikes_with_usual_steps_between_are_not_in_a_row() -> None:
    guard = Guard(QUIET.model_copy(update={"max_spikes_in_a_row": 1, "window": 100}))
    run(guard, [*[1.0, 1.1] * 40, 100.0, 1.0, 1000.0, 1.0])
    assert guard.counts()["spikes"] == 2


@pytest.mark.parametrize("loss", [0.1, 1.1, 1e6 / 7])
def test_losses_that_are_all_the_same_are_usual(loss: float) -> None:
    guard = Guard(QUIET)
    run(guard, [loss] * 30)
    assert guard.counts()["spikes"] == 0


LOSSES = st.lists(st.floats(0.01, 1e6) | st.sampled_from([math.nan, 1.0, 1.5]), min_size=1, max_size=40)


@settings(deadline=None)
@given(losses=LOSSES, stop=st.integers(0, 40), skip=st.sampled_from([None, 1.0, 6.0]))
def test_a_resumed_guard_decides_as_an_uninterrupted_one(losses: list[float], stop: int, skip: float | None) -> None:
    lenient = QUIET.model_copy(update={"max_nonfinite": 99, "skip_sigmas": skip, "max_skips_in_a_row": None})
    straight, first, second = Guard(lenient), Guard(lenient), Guard(lenient)
    expected = run(straight, losses)
    before = run(first, losses[:stop])
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert before + run(second, losses[stop:], start=len(before)) == expected
    assert second.state() == straight.state()


@settings(deadline=None)
@given(losses=st.lists(st.floats(0, 1e6), max_size=60), sigmas=st.floats(0.1, 10))
def test_every_batch_that_is_left_out_is_counted_and_logged(losses: list[float], sigmas: float) -> None:
    guard = Guard(QUIET.model_copy(update={"skip_sigmas": sigmas, "max_skips_in_a_row": None}))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("more4d.training.watch.guard")
    logger.addHandler(handler)
    try:
        skipped = run(guard, losses).count("skip")
    finally:
        logger.removeHandler(handler)
    assert guard.counts()["skipped"] == skipped == sum("left out" in record.getMessage() for record in records)


def test_settings_that_never_judge_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_steps=10 are never reached with window=5"):
        GuardSettings(window=5, min_steps=10)


SCRIPT = """
import logging, time
from more4d.training.watch.guard import Guard, GuardSettings
logging.basicConfig(format="%(levelname)s %(message)s")

def hangs_here():
    time.sleep(60)

guard = Guard(GuardSettings(stall_seconds=0.3, max_stalls={most}))
with guard.watching():
    guard.check(0, 1.0, 1.0, [])
    with guard.pause():
        time.sleep({validation})
    print("validated", guard.counts()["stalls"], flush=True)
    hangs_here()
"""


def test_a_run_that_hangs_says_where_and_ends_while_validation_may_take_its_time() -> None:
    script = SCRIPT.format(most=2, validation=1.0)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 75
    assert done.stdout == "validated 0\n"
    assert done.stderr.count("WARNING no step was finished for") == 2
    assert "in hangs_here" in done.stderr
    assert "CRITICAL no step was finished for 0.6 s; ending the process after 2 reports" in done.stderr
    assert "raise stall_seconds" in done.stderr
