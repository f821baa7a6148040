"""What the commands of this package have in common."""

import sys

import torch
import typer


def run_command(app: typer.Typer, name: str) -> None:
    """Run the command line called `name`; the user's mistakes end in one line on stderr and exit code 2."""
    try:
        with torch.no_grad():
            app(standalone_mode=False)
    except (typer.TyperException, ValueError, OSError) as error:
        typer.echo(f"{name}: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
