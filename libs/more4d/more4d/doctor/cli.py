"""`more4d doctor`: what was found, what running a preset will take, and what to do first if something is missing."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from more4d.weights.registry import REGISTRY, STORE, Preset

if TYPE_CHECKING:
    from more4d.doctor.checks import Check
    from more4d.doctor.estimate import Prediction
    from more4d.doctor.machine import Machine

FAILED = 1
_MARK = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}


def doctor(
    preset: Annotated[Preset, typer.Option(help="what this machine should run")] = "tiny",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="a checkpoint folder of the preset, to check in place of the published files; tiny has models/tiny-base",
            show_default=False,
        ),
    ] = None,
    registry: Annotated[Path, typer.Option(help="the table of weights")] = REGISTRY,
    store: Annotated[Path, typer.Option(help="the folder that weights are fetched into")] = STORE,
    gpu_memory: Annotated[
        float | None, typer.Option(help="plan for a GPU of this many GB that this machine does not have")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    commercial_safe: Annotated[
        bool, typer.Option("--commercial-safe", help="refuse what may not be used commercially")
    ] = False,
) -> None:
    """Check this machine for a preset, and predict memory and time of every preset's steps.

    Exit code 1, with the first thing to do as the last line, when something is missing.
    """
    from more4d.doctor.machine import find_machine, measure_rate, with_gpu

    machine = find_machine(store)
    rate = measure_rate(machine) if gpu_memory is None else None
    machine = machine if gpu_memory is None else with_gpu(machine, gpu_memory)
    predictions = _predict_all(machine, rate)
    checks = _examine(preset, checkpoint, registry, store, machine, predictions[preset], commercial_safe)
    todo = next((c.todo for c in checks if c.status == "missing"), None)
    if as_json:
        typer.echo(json.dumps(_as_json(preset, machine, rate, checks, predictions, todo), indent=1))
    else:
        _tell(machine, rate, checks, predictions)
    if todo is not None:
        typer.echo(f"more4d: first thing to do: {todo}", err=True)
        raise typer.Exit(FAILED)


def _predict_all(machine: "Machine", rate: float | None) -> dict[str, list["Prediction"]]:
    from more4d.doctor.estimate import OFFLOADS, STEPS, predict
    from more4d.models.architectures import ARCHITECTURES

    # Offload moves weights between an accelerator and the processor: without the one there is nothing to move.
    offloads = OFFLOADS[:1] if machine.device == "cpu" else OFFLOADS
    given = {
        "memory": machine.memory, "rate": rate, "number_bytes": machine.dtype.itemsize, "offloads": offloads
    }  # fmt: skip
    return {name: [predict(a, step, **given) for step in STEPS] for name, a in ARCHITECTURES.items()}


def _examine(
    preset: Preset,
    checkpoint: Path | None,
    registry: Path,
    store: Path,
    machine: "Machine",
    predictions: Sequence["Prediction"],
    commercial_safe: bool,
) -> list["Check"]:
    from more4d.doctor import checks
    from more4d.weights.registry import read_registry

    found = [checks.check_python(), *checks.check_packages(), checks.check_codec(), checks.check_chromium()]
    found += checks.check_machine(machine, preset)
    found += checks.check_fit(machine, predictions, machine.dtype.itemsize)
    if preset == "tiny":
        return [*found, checks.check_tiny(checkpoint or checks.TINY_BASE)]
    if checkpoint is not None:
        return found + checks.check_assembled(checkpoint, preset)
    known = read_registry(registry)
    found.append(checks.check_disk(known, preset, store, machine))
    return found + checks.check_weights(known, preset, store, commercial_safe=commercial_safe)


def _tell(
    machine: "Machine", rate: float | None, checks: Sequence["Check"], predictions: dict[str, list["Prediction"]]
) -> None:
    for check in checks:
        typer.echo(f"{_MARK[check.status]}  {check.name:<10} {check.found}")
    speed = "" if rate is None else f" at {_scaled(rate)}FLOP/s, the rate of a large matrix product"
    typer.echo(f"\nPredicted for one photo on {machine.name}{speed}:")
    head = "preset", "step", "parameters", "work", "time at least", "choose offload", "peak memory in GB by offload"
    rows = [_prediction_row(name, p) for name, steps in predictions.items() for p in steps]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _prediction_row(preset: str, p: "Prediction") -> tuple[str, ...]:
    parameters = _scaled(sum(p.parameters.values())).replace("G", "B").strip()
    peaks = ", ".join(f"{mode} {size / 1e9:.2f}" for mode, size in p.peak_bytes.items())
    time = "unknown" if p.seconds is None else _duration(p.seconds)
    return preset, p.step, parameters, f"{_scaled(p.flops)}FLOP", time, p.offload or "does not fit", peaks


def _scaled(value: float) -> str:
    """Three digits and the prefix of a thousand's power, ready for a unit."""
    power = next((p for p in (5, 4, 3, 2, 1) if value >= 1000**p), 0)
    return f"{value / 1000**power:.3g} {' KMGTP'[power].strip()}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _as_json(
    preset: str,
    machine: "Machine",
    rate: float | None,
    checks: Sequence["Check"],
    predictions: dict[str, list["Prediction"]],
    todo: str | None,
) -> dict[str, object]:
    return {
        "preset": preset,
        "machine": asdict(machine),
        "flops_per_second": rate,
        "checks": [asdict(check) for check in checks],
        "predictions": {name: [asdict(p) for p in steps] for name, steps in predictions.items()},
        "first_thing_to_do": todo,
    }
