"""`more4d checkpoint list | verify | export FOLDER`: look into a training's checkpoints and take weights out of them.

Nothing in the folder is changed, so a training may be writing there. Exit code 1 where a checkpoint is damaged.
Each command loads what it needs itself: the help does without torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from more4d.training.checkpoints.checkpoint import Checkpoint
    from more4d.training.checkpoints.export import Weights
    from more4d.training.checkpoints.folder import CheckpointFolder

app = typer.Typer(help="A training's checkpoints: what there is, whether it is whole, and its weights as a file.")

DAMAGED = 1
Folder = Annotated[Path, typer.Argument(help="the folder with a training's checkpoints, or one step-* folder")]
Step = Annotated[int | None, typer.Option(help="of this step alone", show_default=False)]


@app.command("list")
def list_checkpoints(folder: Folder) -> None:
    """Tell each checkpoint's step, size, ranks and score, newest first."""
    from more4d.training.checkpoints.checkpoint import Checkpoint
    from more4d.training.checkpoints.folder import BEST, LATEST

    store = _store(folder)
    named = {name.removesuffix(".json"): store.named(name) for name in (LATEST, BEST)}
    for step in _steps(store, folder):
        marks = [mark for mark, said in named.items() if said is not None and said["step"] == step]
        try:
            typer.echo(_line(Checkpoint(store.path(step)), marks))
        except ValueError as error:
            typer.echo(f"{store.path(step).name}  DAMAGED  {error}")


@app.command()
def verify(folder: Folder, step: Step = None) -> None:
    """Read every file and compare it with its SHA-256."""
    from more4d.training.checkpoints.checkpoint import Checkpoint

    store, damaged = _store(folder), False
    for each in _steps(store, folder, step):
        try:
            problems = Checkpoint(store.path(each)).problems()
        except ValueError as error:
            problems = [str(error)]
        typer.echo(f"{'WRONG' if problems else 'ok   '} {store.path(each).name}")
        for problem in problems:
            typer.echo(f"      {problem}")
        damaged |= bool(problems)
    if damaged:
        raise typer.Exit(DAMAGED)


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="the file to write")],
    step: Step = None,
    best: Annotated[bool, typer.Option("--best", help="of the best checkpoint, not of the newest")] = False,
    weights: Annotated[str, typer.Option(help="ema or model: the moving average, or the weights as they are")] = "ema",
    part: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: tensors that start with OLD, NEW in its place; repeat for more; default: all"),
    ] = None,
    rest: Annotated[
        list[str] | None,
        typer.Option(help="PREFIX=FILE: what was not trained, from a safetensors file; repeat for more"),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="a safetensors file whose names and shapes the new one must have")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as it is")] = None,
    layout: Annotated[str | None, typer.Option(help="a published layout to name the tensors by")] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="the trained adapter alone, with this alpha; --layout vism_lora is kohya's")
    ] = None,
) -> None:
    """Write the weights of a checkpoint of any number of ranks to one safetensors file, or to a published one."""
    from more4d.training.checkpoints.export import ALL, export_tensors

    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another --out")
    checkpoint = _chosen(folder, step, best=best)
    if problems := checkpoint.problems():
        raise ValueError(f"{'; '.join(problems)}; choose another --step")
    left_out = export_tensors(
        checkpoint,
        out,
        weights=_weights(weights),
        parts=_pairs("--part", part) if part else ALL,
        rest={prefix: Path(file) for prefix, file in _pairs("--rest", rest or []).items()},
        like=like,
        dtype=_dtype(dtype),
        layout=layout,
        lora_alpha=lora_alpha,
    )
    typer.echo(f"{out}: {weights} of step {checkpoint.step}")
    if left_out:
        typer.echo(f"left out, being no part of it: {', '.join(left_out)}")


def _store(folder: Path) -> "CheckpointFolder":
    """The folder of all checkpoints, of which `folder` may be one."""
    from more4d.training.checkpoints.folder import CheckpointFolder

    return CheckpointFolder(folder.parent if _is_one(folder) else folder)


def _is_one(folder: Path) -> bool:
    return folder.name.startswith("step-")


def _steps(store: "CheckpointFolder", folder: Path, step: int | None = None) -> list[int]:
    """The steps that are meant, newest first. Raises ValueError where there is none."""
    wanted = [each for each in store.steps() if not _is_one(folder) or store.path(each).name == folder.name]
    if not wanted:
        raise ValueError(f"{folder} holds no checkpoint; give the folder that a training writes step-* folders to")
    if step is not None and step not in wanted:
        raise ValueError(f"{folder} holds no checkpoint of step {step}; it has {', '.join(map(str, wanted))}")
    return wanted if step is None else [step]


def _chosen(folder: Path, step: int | None, *, best: bool) -> "Checkpoint":
    from more4d.training.checkpoints.checkpoint import Checkpoint

    store = _store(folder)
    steps = _steps(store, folder, step)
    if best:
        if step is not None or _is_one(folder):
            raise ValueError("--best chooses among all checkpoints: give neither --step nor a step-* folder with it")
        if (named := store.best_step()) is None:
            raise ValueError(f"{folder} has no best checkpoint: none was scored")
        steps = [named]
    return Checkpoint(store.path(steps[0]))


def _line(checkpoint: "Checkpoint", marks: list[str]) -> str:
    score = "not scored" if checkpoint.score is None else f"score {checkpoint.score:.6g}"
    tensors = f"{len(checkpoint.names())} tensors of {checkpoint.ranks} ranks, {checkpoint.size} bytes"
    return "  ".join([checkpoint.folder.name, tensors, score, *marks])


def _weights(name: str) -> "Weights":
    if name == "ema":
        return "ema"
    if name == "model":
        return "model"
    raise ValueError(f"--weights {name} is neither ema nor model")


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """OLD=NEW texts as a mapping."""
    if wrong := [text for text in texts if "=" not in text]:
        raise ValueError(f"{option} {wrong[0]!r} has no = in it: what is replaced, =, what it becomes")
    return {old: new for old, _, new in (text.partition("=") for text in texts)}


def _dtype(name: str | None) -> "torch.dtype | None":
    import torch

    types = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in types:
        raise ValueError(f"--dtype {name} is none of float32, bfloat16, float16")
    return types[name]
