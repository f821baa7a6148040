"""The command line: scenes of photos, trajectories through the motion VAE, data, trainings, weights, what a machine can run.

The user's mistakes end in one line on stderr and exit code 2, with nothing written.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from more4d.data.cli import app as data_app
from more4d.doctor.cli import doctor
from more4d.inference.reconstruct_cli import reconstruct
from more4d.launch.cli import train
from more4d.training.checkpoints.cli import app as checkpoint_app
from more4d.weights.cli import app as weights_app

if TYPE_CHECKING:
    from more4d.inference.generate import Request

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="From one photo to a moving 4D scene.")
scene_app = typer.Typer(help="Look into scene folders.")
app.add_typer(scene_app, name="scene")
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(checkpoint_app, name="checkpoint")
app.command()(reconstruct)
app.command()(doctor)
app.command()(train)

DEFAULT_CHECKPOINT = Path("models/tiny-base")
USAGE_ERROR = 2


@app.callback()
def _root() -> None:
    """From one photo to a moving 4D scene."""


@app.command()
def generate(
    image: Annotated[Path, typer.Option(help="the photo")],
    prompt: Annotated[str, typer.Option(help="what moves, and where to")],
    camera: Annotated[list[str], typer.Option(help="a camera path by name; repeat for more")],
    out: Annotated[Path, typer.Option(help="the scene folder to write")],
    checkpoint: Annotated[Path, typer.Option(help="the folder with the networks")] = DEFAULT_CHECKPOINT,
    seed: Annotated[int, typer.Option(help="of the noise that motion and views start from")] = 0,
    steps: Annotated[int | None, typer.Option(help="sampling steps; default: the checkpoint's")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="guidance scale, 1 for none; default: the checkpoint's")
    ] = None,
    fov: Annotated[float | None, typer.Option(help="the photo's horizontal field of view in degrees")] = None,
    intrinsics: Annotated[str | None, typer.Option(help="fx,fy,cx,cy in the photo's pixels")] = None,
    depth: Annotated[Path | None, typer.Option(help=".npy (metres) or 16-bit .png (millimetres)")] = None,
    camera_amount: Annotated[float, typer.Option(help="how far the cameras go, 1 for the whole path")] = 0.6,
    motion_smoothing: Annotated[
        float, typer.Option(help="how alike neighbours on one surface move, 0 for raw")
    ] = 300.0,
    render_scale: Annotated[int, typer.Option(help="video size as a multiple of the networks' size")] = 4,
    complete: Annotated[bool, typer.Option("--complete/--no-complete", help="fill what the photo did not show")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace the scene folder at --out")] = False,
) -> None:
    """Make a moving 4D scene of a photo, and videos of it along camera paths."""
    from more4d.geometry.images import load_image
    from more4d.inference.checkpoints import load_checkpoint
    from more4d.inference.files import load_depth, require_free
    from more4d.inference.generate import Request, generate_scene
    from more4d.inference.scene import Credit, write_scene
    from more4d.report.viewer import scene_page

    request = Request(
        prompt=prompt,
        cameras=tuple(dict.fromkeys(camera)),
        seed=seed,
        steps=steps,
        guidance=guidance,
        fov_x_degrees=fov,
        intrinsics=_parse_intrinsics(intrinsics),
        depth=None if depth is None else load_depth(depth),
        camera_amount=camera_amount,
        motion_smoothing=motion_smoothing,
        render_scale=render_scale,
        complete=complete,
    )
    require_free(out, force=force)
    photo = load_image(image)
    scene = generate_scene(load_checkpoint(checkpoint), photo, request, name=out.name, credit=Credit(image.name))
    digest = write_scene(scene, out, page=scene_page)
    _tell(scene.timings["total"], request, out, digest)


@scene_app.command()
def inspect(folder: Annotated[Path, typer.Argument(help="a scene folder")]) -> None:
    """Check a scene folder against its hashes and tell what it holds."""
    from more4d.inference.scene import read_description, read_scene

    scene, description = read_scene(folder), read_description(folder)
    frames, height, width = scene.visibility.shape
    typer.echo(f"{scene.name}: {scene.prompt!r}, seed {scene.seed}")
    typer.echo(f"{frames} frames of {height}x{width} at {scene.fps:g} per second, {int(scene.valid.sum())} points")
    for name, view in scene.views.items():
        typer.echo(f"camera {name}: at least {view.covered.mean((1, 2)).min():.1%} covered by points")
    for key, value in scene.checks.items():
        typer.echo(f"{key}: {value:g}")
    for record in scene.models:
        typer.echo(f"weights {record.file}: {record.sha256[:16]} ({record.licence})")
    typer.echo(f"hash {description['scene_hash']}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.TyperException as error:
        # What the parser raises names the option in this message alone.
        _refuse(getattr(error, "format_message", error.__str__)())
    except (ValueError, OSError) as error:
        _refuse(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(reason: str) -> None:
    """One line on stderr, and out."""
    typer.echo(f"more4d: {' '.join(reason.split())}", err=True)
    sys.exit(USAGE_ERROR)


def _parse_intrinsics(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--intrinsics {text!r} is not fx,fy,cx,cy: four numbers with commas between") from None
    return fx, fy, cx, cy


def _tell(seconds: float, request: "Request", out: Path, digest: str) -> None:
    typer.echo(f"{out}: {', '.join(request.cameras)} in {seconds:.1f} s; open {out / 'index.html'}")
    typer.echo(f"scene hash {digest}")


if __name__ == "__main__":
    main()
