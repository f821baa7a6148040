"""How every benchmark here measures: correctness first, then contenders in turns, against a copy in the same run."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

COPY_BYTES = 2**29
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One thing to time in several ways; `contenders` maps a name to a call, the first being ours.

    `fewest_bytes` is what any implementation has to move, for the share of a copy's speed; `goals` are ratios,
    contender's time over ours, that the project has set itself. `check` raises AssertionError where ours is wrong.
    """

    name: str
    contenders: Mapping[str, Callable[[], Any]]
    check: Callable[[], None]
    fewest_bytes: int | None = None
    goals: dict[str, float] = field(default_factory=dict)
    prepared: bool = False
    """Whether a contender prepares, and what it returns is timed."""


def run(case: Case, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Seconds (median of `rounds`) of each contender, and of a copy, after the check; as written to JSON."""
    case.check()
    makers = {name: call if case.prepared else _itself(call) for name, call in case.contenders.items()}
    makers["copy"] = _itself(_copy(device))
    for make in makers.values():
        # The first call compiles, the second finds what the first left to tune.
        make()()
        make()()
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            seconds[name].append(_seconds(make, device))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    copied = 2 * COPY_BYTES / medians.pop("copy")
    return {
        "case": case.name,
        "seconds": medians,
        "fewest_bytes": case.fewest_bytes,
        "copy_bytes_per_second": copied,
        "share_of_copy": None
        if case.fewest_bytes is None
        else case.fewest_bytes / next(iter(medians.values())) / copied,
        "goals": case.goals,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What a person reads of `run`'s result."""
    ours, *others = result["seconds"]
    first = result["seconds"][ours]
    share = "" if result["share_of_copy"] is None else f"  {result['share_of_copy']:.0%} of a copy's bytes/s"
    text = [f"{result['case']}", f"  {ours:34} {first * 1e3:10.3f} ms{share}"]
    for name in others:
        ratio = result["seconds"][name] / first
        goal = f"  (goal {result['goals'][name]:g}x)" if name in result["goals"] else ""
        text.append(f"  {name:34} {result['seconds'][name] * 1e3:10.3f} ms  {ratio:.2f}x ours{goal}")
    return text


def _copy(device: torch.device) -> Call:
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _itself(call: Call) -> Callable[[], Call]:
    return lambda: call


def _seconds(make: Callable[[], Call], device: torch.device) -> float:
    if device.type != "cuda":
        # A call in a row of such calls: the first brings back what the others pushed out of the caches, and by its end
        # torch's threads have stopped waiting for more work, which they do at the expense of everybody else's.
        make()()
        call = make()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    from more4d_kernels.tuning import time_on_gpu

    return time_on_gpu(make(), device)
