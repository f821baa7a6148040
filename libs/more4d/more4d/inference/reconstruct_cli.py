"""`more4d reconstruct`: what the motion VAE keeps of given trajectories, as a folder of decoded tracks and error maps."""

from pathlib import Path
from typing import Annotated

import typer


def reconstruct(
    tracks: Annotated[
        Path,
        typer.Option(help="a scene folder, or a safetensors file with points [T,H,W,3] (metres) and intrinsics [3,3]"),
    ],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    checkpoint: Annotated[Path, typer.Option(help="the folder with the networks")] = Path("models/tiny-base"),
    device: Annotated[str, typer.Option(help="where the VAE runs")] = "cpu",
    published_units: Annotated[
        bool,
        typer.Option(
            "--published-units", help="scale the motion by the published constants, whatever the checkpoint says"
        ),
    ] = False,
) -> None:
    """Encode and decode trajectories with the motion VAE alone, and show where they change."""
    from more4d.inference.reconstruction import load_motion_vae, reconstruct_trajectories
    from more4d.inference.reconstruction_files import ERROR_MAP, read_tracks, write_reconstruction

    if out.exists():
        raise ValueError(f"{out} exists; choose another --out")
    given = read_tracks(tracks)
    vae = load_motion_vae(checkpoint, device=device)
    camera = "published" if published_units else None
    found = reconstruct_trajectories(vae, given.points, given.intrinsics, camera=camera)
    measures = write_reconstruction(found, given, out)
    error, static = measures["trajectory_error_m"], measures["nothing_moves_error_m"]
    typer.echo(f"{out}: mean error {error:.4g} m (nothing moves: {static:.4g} m); see {out / ERROR_MAP}")
