"""`python -m more4d.stages NAME [--root DIR] [--params FILE]`: the one entry point of every orchestrator."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError

from more4d.stages.base import MissingInputError, VideoSpec, run_stage
from more4d.stages.registry import get_stage

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="a stage, as in dvc.yaml")],
    root: Annotated[Path, typer.Option(help="the workspace")] = Path(),
    params: Annotated[Path | None, typer.Option(help="default: ROOT/params.yaml")] = None,
) -> None:
    """Run one stage of the lineage in the workspace."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    values = yaml.safe_load((params or root / "params.yaml").read_text())
    stage = get_stage(name)
    run_stage(
        stage,
        params=stage.section.model_validate(values[name]),
        video=VideoSpec.model_validate(values["video"]),
        seed=int(values["seed"]),
        workers=len(os.sched_getaffinity(0)),
        root=root.resolve(),
    )


def main() -> None:
    """Run the command line; the user's mistakes end in one line and exit code 2."""
    try:
        app(standalone_mode=False)
    except (MissingInputError, ValidationError, KeyError) as error:
        sys.exit(f"more4d.stages: {error}")


if __name__ == "__main__":
    main()
