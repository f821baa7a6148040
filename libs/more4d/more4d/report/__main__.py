"""`python -m more4d.report [--root DIR]`: writes DIR/results/index.html and prints its path."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from more4d.report.collect import collect
from more4d.report.page import write_page

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(root: Annotated[Path, typer.Option(help="the workspace")] = Path()) -> None:
    """Write the result page of the workspace; prints its path."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not root.is_dir():
        raise ValueError(f"--root {root} is not a folder")
    data = collect(root)
    for problem in data.problems:
        log.warning("%s", problem)
    path = root / "results" / "index.html"
    write_page(data, path)
    typer.echo(path.resolve())


def main() -> None:
    """Run the command line; the user's mistakes end in one line on stderr and exit code 2."""
    try:
        app(standalone_mode=False)
    except (typer.TyperException, ValueError) as error:
        typer.echo(f"more4d.report: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
