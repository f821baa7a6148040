"""`more4d data inspect | verify | stats | convert`: exit code 1 for what is damaged, 2 for mistakes.

Each command loads what it needs itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from more4d.data.reader import TrajSceneDataset
    from more4d.data.writer import EncodedSample

app = typer.Typer(help="Shards of samples: what they hold, whether they are whole, and making them of others.")

FAILED = 1

Folder = Annotated[str, typer.Argument(help="a folder of shards: a path, s3://... or https://...")]


@app.command()
def inspect(
    folder: Folder,
    sample: Annotated[str | None, typer.Option(help="show this sample's header, files and provenance")] = None,
) -> None:
    """Tell which splits, shards and samples a folder holds, from its manifest and index alone, or one sample's header."""
    from more4d.data.layout import read_manifest

    manifest = read_manifest(folder)
    if sample is not None:
        typer.echo(json.dumps(_describe(folder, sample), indent=1, sort_keys=True))
        return
    typer.echo(f"{folder}: schema version {manifest['schema_version']}")
    for name, part in sorted(manifest["splits"].items()):
        typer.echo(f"{name}: {part['samples']} samples in {len(part['shards'])} shards, {part['bytes'] / 1e6:.1f} MB")


@app.command()
def verify(folder: Folder) -> None:
    """Read everything and compare with the manifest's hashes; name damaged shards and the samples lost in them."""
    from more4d.data.verify import verify_shards

    faults = verify_shards(folder)
    for fault in faults:
        typer.echo(fault)
    typer.echo(f"{folder}: {f'{len(faults)} faults' if faults else 'every shard is as its manifest says'}")
    if faults:
        raise typer.Exit(FAILED)


@app.command()
def stats(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Count samples by split and by frames, height and width, with the spread of their sizes; reads no sample."""
    from more4d.data.layout import read_manifest
    from more4d.data.reader import TrajSceneDataset

    rows = [
        row
        for split in sorted(read_manifest(folder)["splits"])
        for row in _count(split, TrajSceneDataset(folder, split))
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        sizes = f"{row['median_mb']:.2f} MB in the median, {row['largest_mb']:.2f} at most"
        typer.echo(f"{row['split']} {row['shape']}: {row['samples']} samples, {sizes}")


@app.command()
def convert(
    sources: Annotated[list[str], typer.Argument(help="published <range>.tar.gz archives, or one folder of shards")],
    out: Annotated[str, typer.Option(help="the folder of shards to write: a path or s3://...")],
    split: Annotated[str, typer.Option(help="of the published archives: train or val")] = "train",
    shard_bytes: Annotated[int, typer.Option(help="where a shard made of shards is closed")] = 1_000_000_000,
) -> None:
    """Make shards of the published TrajScene-60K's archives, or of shards of an older schema version.

    An interrupted conversion of archives goes on at the first that is not done.
    """
    if all(source.endswith(".tar.gz") for source in sources):
        _import(sources, out, split)
    elif len(sources) == 1:
        _rewrite(sources[0], out, shard_bytes)
    else:
        raise ValueError("give archives that end in .tar.gz, or one folder of shards")


def _import(archives: list[str], out: str, split: str) -> None:
    from more4d.data.import_trajscene import PublishedLayout, import_archives

    if split not in ("train", "val"):
        raise ValueError(f"--split {split!r}: train or val")
    verdicts = import_archives(archives, out, PublishedLayout(), split=split).verdicts
    rejected = [row for row in verdicts.to_dict("records") if row["verdict"] == "rejected"]
    for row in rejected:
        typer.echo(f"rejected {row['archive']} {row['id']}: {row['reason']}")
    typer.echo(f"{out}: {len(verdicts) - len(rejected)} samples of {len(archives)} archives, {len(rejected)} rejected")


def _rewrite(source: str, out: str, shard_bytes: int) -> None:
    from more4d.data.layout import read_manifest
    from more4d.data.reader import TrajSceneDataset
    from more4d.data.writer import write_encoded

    if Path(source).absolute() == Path(out).absolute():
        raise ValueError("--out is the source itself: shards are never rewritten in place, name another folder")
    for split in sorted(read_manifest(source)["splits"]):
        dataset = TrajSceneDataset(source, split)
        write_encoded(_encoded(dataset), out, split=split, shard_bytes=shard_bytes)
        typer.echo(f"{out}: {len(dataset)} samples of {split}")


def _encoded(dataset: "TrajSceneDataset") -> "Iterator[EncodedSample]":
    from more4d.data.sample import decode_sample, encode_sample
    from more4d.data.writer import EncodedSample

    for i in range(len(dataset)):
        files = dataset.read_files(i)
        sample = decode_sample(files)
        yield EncodedSample(sample.id, encode_sample(sample, files["video.mp4"]))


def _count(split: str, dataset: "TrajSceneDataset") -> Iterator[dict[str, Any]]:
    import numpy as np

    shapes, number = np.unique(dataset.shapes, axis=0, return_inverse=True)
    for i, (frames, height, width) in enumerate(shapes.tolist()):
        sizes = dataset.index.size[number.reshape(-1) == i] / 1e6
        yield {
            "split": split,
            "shape": f"{frames}x{height}x{width}",
            "samples": len(sizes),
            "median_mb": round(float(np.median(sizes)), 3),
            "largest_mb": round(float(sizes.max()), 3),
        }


def _describe(folder: str, sample: str) -> dict[str, Any]:
    from more4d.data.reader import TrajSceneDataset

    dataset = TrajSceneDataset(folder)
    if sample not in dataset.ids:
        raise ValueError(f"{folder} has no sample {sample!r}")
    files = dataset.read_files(dataset.ids.index(sample))
    return {"header": json.loads(files["json"]), "bytes": {name: len(data) for name, data in sorted(files.items())}}
