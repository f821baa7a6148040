"""`python -m more4d.stages NAME [--root DIR] [--params FILE]`: the one entry point of every orchestrator."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from more4d.launch import STOPPED
from more4d.settings import Section
from more4d.stages.base import MissingInputError, VideoSpec, run_stage
from more4d.stages.registry import get_stage
from more4d.training.distributed.world import leave_world
from more4d.training.stopping import TrainingStopped

USAGE_ERROR = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class ParametersError(ValueError):
    """The parameters file is absent, is not YAML, or does not hold what the stage needs."""


class _Run(Section):
    """What every stage is given beside its own section of the parameters file."""

    video: VideoSpec
    seed: int


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="a stage, as in dvc.yaml")],
    root: Annotated[Path, typer.Option(help="the workspace")] = Path(),
    params: Annotated[Path | None, typer.Option(help="default: ROOT/params.yaml")] = None,
) -> None:
    """Run one stage of the lineage in the workspace."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    file = params or root / "params.yaml"
    values = read_values(file)
    try:
        stage = get_stage(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    given = _validate(_Run, {key: values[key] for key in _Run.model_fields if key in values}, file, "")
    if name not in values:
        raise ParametersError(f"{file} has no section {name!r}; write it from a preset, or add it")
    run_stage(
        stage,
        params=_validate(stage.section, values[name], file, f"{name}."),
        video=given.video,
        seed=given.seed,
        workers=len(os.sched_getaffinity(0)),
        root=root.resolve(),
    )


def read_values(file: Path) -> dict[str, Any]:
    """The parameters file's values by section. Raises ParametersError naming the file and what is wrong with it."""
    if not file.is_file():
        raise ParametersError(f"no parameters at {file}; give --params or run in a workspace")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ParametersError(f"{file} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParametersError(f"{file} must hold one section a stage, not {type(values).__name__}")
    return values


def _validate(section: type[Section], values: Any, file: Path, prefix: str) -> Any:
    try:
        return section.model_validate(values)
    except ValidationError as error:
        faults = (f"{prefix}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ParametersError(f"{file}: {'; '.join(faults)}") from error


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the user's mistakes end in one line on stderr and exit code 2."""
    try:
        app(args=arguments, standalone_mode=False)
    except (typer.TyperException, MissingInputError, ParametersError) as error:
        typer.echo(f"more4d.stages: {' '.join(str(error).split())}", err=True)
        sys.exit(USAGE_ERROR)
    except TrainingStopped as error:
        # Nothing went wrong: whoever started this may start it again.
        typer.echo(f"more4d.stages: {error}", err=True)
        sys.exit(STOPPED)
    finally:
        leave_world()


if __name__ == "__main__":
    main()
