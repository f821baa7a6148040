"""`more4d weights list | fetch | verify | convert | assemble`: exit code 1 for what is missing, wrong or refused, 2 for mistakes.

Each command loads what it needs itself: listing does without torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from more4d.weights.registry import CONVERTIBLE, REGISTRY, STORE, Preset, Registry, Weight, read_registry

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Third-party weights: what there is, what its licence allows, fetching and checking it.")

FAILED = 1
_COMMERCIAL = {"yes": "yes", "no": "NO", "conditional": "on terms"}

Names = Annotated[list[str] | None, typer.Argument(help="weights by name", show_default=False)]
_TRAINING_HELP = "what training starts from: STraG's base and OmniMAE, even where a trained STraG is released"
PresetOption = Annotated[Preset | None, typer.Option(help="the weights that this preset needs")]
RegistryOption = Annotated[Path, typer.Option(help="the table of weights")]
StoreOption = Annotated[Path, typer.Option(help="the folder that weights are fetched into")]
Safe = Annotated[bool, typer.Option("--commercial-safe", help="refuse what may not be used commercially")]


@app.command("list")
def list_weights(
    preset: PresetOption = None,
    registry: RegistryOption = REGISTRY,
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    commercial_safe: Safe = False,
) -> None:
    """Tell which third-party parts there are, how large, under which licence, and which of them are here."""
    known = read_registry(registry)
    parts = list(known.weight) if preset is None else known.needed(preset)
    if as_json:
        typer.echo(json.dumps([_facts(w, store) for w in parts], indent=1))
    else:
        _print_table([_row(w, store) for w in parts])
    if commercial_safe:
        _refuse_forbidden(parts)


@app.command()
def fetch(
    names: Names = None,
    preset: PresetOption = None,
    registry: RegistryOption = REGISTRY,
    store: StoreOption = STORE,
    training: Annotated[bool, typer.Option("--training", help=f"of a preset, {_TRAINING_HELP}")] = False,
    commercial_safe: Safe = False,
    dvc: Annotated[bool, typer.Option("--dvc/--no-dvc", help="track what was fetched with DVC")] = True,
) -> None:
    """Download weights, going on where an earlier try ended; only what is missing or altered is downloaded.

    Of a preset, what `more4d weights assemble` makes its checkpoint of; other projects' depth networks and
    labeling's are fetched by name.

    HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 forbids the network, HF_TOKEN opens gated repositories.
    """
    from more4d.weights.fetch import FetchError, fetch_weight, track_with_dvc

    if training and preset is None:
        raise ValueError("--training goes with --preset: it says which of a preset's weights are wanted")
    wanted = _chosen(read_registry(registry), names, preset, training=training)
    if commercial_safe:
        _refuse_forbidden(wanted, rest=preset is not None)
    # Of a preset's weights, those that only a person can fetch are named and passed over.
    asked = [w for w in wanted if names or not w.manual]
    store.mkdir(parents=True, exist_ok=True)
    try:
        folders = [fetch_weight(w, store, say=typer.echo) for w in asked]
    except FetchError as error:
        _fail(str(error))
    if dvc:
        typer.echo(track_with_dvc(folders, Path()))


@app.command()
def verify(
    names: Names = None,
    preset: PresetOption = None,
    registry: RegistryOption = REGISTRY,
    store: StoreOption = STORE,
    record: Annotated[
        bool, typer.Option("--record", help="write the measured sizes and hashes into the table")
    ] = False,
    commercial_safe: Safe = False,
) -> None:
    """Check fetched weights: the hash where one is recorded, and always the names, shapes and types of the tensors."""
    from more4d.weights.record import record as write_record
    from more4d.weights.verify import verify_weight

    known = read_registry(registry)
    here = [w for w in known.weight if w.file and (store / w.name).is_dir()]
    wanted = _chosen(known, names, preset) if names or preset else here
    if commercial_safe:
        _refuse_forbidden(wanted)
    if not wanted:
        typer.echo(f"no weights are in {store}; fetch some first")
        return
    verdicts = [verify_weight(w, store) for w in wanted if w.kind == "weights"]
    for verdict in verdicts:
        typer.echo(f"{'ok   ' if verdict.fits else 'WRONG'} {verdict.weight.name}")
        for line in [*verdict.problems, *verdict.notes]:
            typer.echo(f"      {line}")
    if wrong := [v.weight.name for v in verdicts if not v.fits]:
        _fail(f"{', '.join(wrong)} did not verify")
    if record:
        typer.echo("\n".join(write_record(verdicts, registry, store)) or "all of it is recorded already")


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help="a fetched weight")],
    out: Annotated[Path, typer.Option(help="the folder to write into")],
    registry: RegistryOption = REGISTRY,
    store: StoreOption = STORE,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as it is")] = None,
    commercial_safe: Safe = False,
) -> None:
    """Rename a fetched weight's tensors to ours: OUT/NAME.safetensors."""
    weight = read_registry(registry).named([name])[0]
    if commercial_safe:
        _refuse_forbidden([weight])
    if weight.layout not in CONVERTIBLE:
        raise ValueError(f"{name} has layout {weight.layout}, which is read as it is; nothing to convert")
    destination = out / f"{name}.safetensors"
    if destination.exists():
        raise ValueError(f"{destination} exists; remove it or choose another --out")
    _convert(weight, store, destination, dtype)
    typer.echo(f"{destination}: {destination.stat().st_size} bytes")


@app.command()
def assemble(
    preset: Annotated[Preset, typer.Option(help="whose networks")],
    out: Annotated[Path, typer.Option(help="the checkpoint folder to write")],
    registry: RegistryOption = REGISTRY,
    store: StoreOption = STORE,
    depth: Annotated[Path, typer.Option(help="our own depth network")] = Path("models/tiny-base/depth.safetensors"),
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "bfloat16",
    training: Annotated[bool, typer.Option("--training", help=_TRAINING_HELP)] = False,
    commercial_safe: Safe = False,
) -> None:
    """Make one checkpoint folder of a preset's fetched weights: what `more4d generate` and training load."""
    from more4d.models.architectures import ARCHITECTURES
    from more4d.weights.assemble import assemble as write_checkpoint
    from more4d.weights.sources import licences_of, parts_of, sources_of

    parts = parts_of(read_registry(registry), preset, training=training)
    if commercial_safe:
        _refuse_forbidden(list(parts.values()))
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another --out")
    try:
        sources = sources_of(parts, store, depth)
    except FileNotFoundError as error:
        _fail(str(error))
    write_checkpoint(ARCHITECTURES[preset], sources, out, dtype=_dtype(dtype), licences=licences_of(parts))
    typer.echo(f"{out}: a checkpoint of preset {preset}")


def _convert(weight: Weight, store: Path, destination: Path, dtype: str | None) -> None:
    from more4d.models.conversion import convert_file

    wanted = None if dtype is None else _dtype(dtype)
    source = _fetched(weight, store)
    destination.parent.mkdir(parents=True, exist_ok=True)
    convert_file(weight.layout, source, destination, dtype=wanted)


def _dtype(name: str) -> "torch.dtype":
    import torch

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in types:
        raise ValueError(f"--dtype {name} is none of {', '.join(types)}")
    return types[name]


def _fetched(weight: Weight, store: Path) -> Path:
    """Where a weight lies; ends the command where it was not fetched."""
    from more4d.weights.fetch import missing_files

    if missing := missing_files(weight, store):
        _fail(f"{store / weight.name / missing[0].path} is missing; run `more4d weights fetch {weight.name}`")
    return store / weight.name / (weight.folder or weight.file[0].path)


def _chosen(
    registry: Registry, names: Sequence[str] | None, preset: str | None, *, training: bool = False
) -> list[Weight]:
    """The weights of these names, and those that a preset's checkpoint is assembled from."""
    if not names and preset is None:
        raise ValueError("name weights, or give --preset; `more4d weights list` tells the names")
    wanted = registry.named(names or ())
    if preset is not None:
        from more4d.weights.sources import parts_of

        wanted += parts_of(registry, preset, training=training).values()
    return list({weight.name: weight for weight in wanted}.values())


def _refuse_forbidden(weights: Sequence[Weight], *, rest: bool = False) -> None:
    """End the command where a weight may not be used commercially; with `rest`, tell how to fetch the others."""
    refused = [w.refusal() for w in weights if w.refusal()]
    for weight in weights:
        if weight.commercial == "conditional":
            typer.echo(f"more4d: {weight.name} ({weight.licence}) is allowed on terms: {weight.terms}", err=True)
    if not refused:
        return
    reasons = [f"refused: {reason}" for reason in refused]
    if rest and (allowed := [w.name for w in weights if not w.refusal()]):
        reasons[-1] += f"; the rest: `more4d weights fetch {' '.join(allowed)} --commercial-safe`"
    _fail(*reasons)


def _fail(*reasons: str) -> None:
    for reason in reasons:
        typer.echo(f"more4d: {reason}", err=True)
    raise typer.Exit(FAILED)


def _facts(weight: Weight, store: Path) -> dict[str, object]:
    return weight.model_dump() | {"bytes": weight.bytes, "present": _present(weight, store)}


def _row(weight: Weight, store: Path) -> tuple[str, ...]:
    size = "" if weight.bytes is None else f"{weight.bytes / 1e9:.2f} GB"
    needed = f"{', '.join(weight.presets) or 'optional'}: {', '.join(weight.steps)}"
    present = _present(weight, store)
    return weight.name, size, weight.licence, _COMMERCIAL[weight.commercial], present, needed


def _present(weight: Weight, store: Path) -> str:
    from more4d.weights.fetch import missing_files

    if weight.kind != "weights":
        return weight.kind
    missing = missing_files(weight, store)
    return "no" if len(missing) == len(weight.file) else "in part" if missing else "yes"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    table = [("name", "size", "licence", "commercial", "present", "needed by"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
