"""The ablations of the paper's table 4 over a preset: `python -m more4d.training.ablations tiny --seeds 0 1 2 --out FOLDER`.

Each ablation is a named set of changes to a preset, a checkpoint and a dataset. Each of them and each seed has a workspace
of its own, in which the lineage's stages run from the latents to the evaluation. Whatever is done is not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas
import torch
import yaml

from more4d.data.atomic import atomic_file, atomic_write_json
from more4d.models.architectures import Architecture
from more4d.models.bundle import CONFIG, Models, build_strag, read_architecture, save_network
from more4d.presets import PRESETS, derive
from more4d.training.ablation_data import Change, changed_dataset, everything, min_max_units, noisy_labels, subset
from more4d.training.ablation_table import FULL, markdown

STAGES = ("latents", "strag", "samples", "evaluation")
UNFILTERED = "unfiltered"
"""The folder of the dataset that nothing was refused from, shared by all seeds."""
STRAG, VAE = "strag.safetensors", "vae.safetensors"
RECORD, TABLE, REPORT = "ablation.json", "ablations.parquet", "ablations.md"


class AblationError(ValueError):
    """What was asked for cannot be run here; the message says what to change."""


@dataclass(frozen=True)
class Ablation:
    """What differs from the full model."""

    title: str
    """Its column in table 4."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the preset's values."""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the checkpoint's architecture."""
    data: Change | None = None
    """The training samples; None takes them as they are."""
    unfiltered: bool = False
    """Training samples are taken from a dataset that nothing was refused from."""
    min_max: bool = False
    """Motion in metres over its range in the dataset, instead of eq. 1's units; the motion VAE is trained on that."""

    @property
    def stages(self) -> tuple[str, ...]:
        """What is run, in this order."""
        return ("motion_vae", *STAGES) if self.min_max else STAGES


ABLATIONS: Mapping[str, Ablation] = {
    FULL: Ablation("MoGe4D"),
    "no_depth_norm": Ablation("w/o Depth Norm", min_max=True),
    "no_depth_latents": Ablation("w/o Depth Latents", architecture={"generation": {"depth_encoding": "none"}}),
    "no_mpm": Ablation("w/o MPM", architecture={"strag": {"motion_tokens": "none"}}),
    "first_token": Ablation("w/o Patch Feat.", architecture={"strag": {"motion_tokens": "first"}}),
    "small_scale": Ablation("Small Scale", data=subset),
    "low_quality": Ablation("Low Quality", data=everything, unfiltered=True),
    "noise": Ablation("Noise", data=noisy_labels),
}


TITLES = {name: ablation.title for name, ablation in ABLATIONS.items()}


@dataclass(frozen=True)
class Plan:
    """What all ablations of one command share."""

    values: Mapping[str, Any]
    """The preset's, by section."""
    root: Path
    """The workspace with the lineage up to trajscene, and the base checkpoint."""
    out: Path
    start: Literal["base", "fresh"] = "base"
    """Whether STraG starts from the base's weights, which were trained with every part, or from random ones."""

    def of(self, ablation: Ablation, seed: int) -> dict[str, Any]:
        """The parameters of one run. Novel views say nothing of STraG and are not completed."""
        own = derive(self.values, ablation.params)
        return derive(own, {"seed": seed, "samples": {"view_limit": 0}})


def run_ablations(plan: Plan, names: Sequence[str], seeds: Sequence[int]) -> pandas.DataFrame:
    """The measures of every ablation and seed, as in `ablations.parquet`, which is written with `ablations.md` beside it.

    Raises AblationError for what is unknown or missing, CalledProcessError where a stage fails.
    """
    if unknown := sorted(set(names) - set(ABLATIONS)):
        raise AblationError(f"unknown ablations {', '.join(unknown)}; there are {', '.join(ABLATIONS)}")
    _require(plan, [ABLATIONS[name] for name in names])
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name in names:
            measures = run_one(plan, name, seed)
            rows += [{"ablation": name, "seed": seed, "measure": key, "value": v} for key, v in measures.items()]
    table = pandas.DataFrame(rows)
    with atomic_file(plan.out / TABLE) as file:
        table.to_parquet(file, index=False)
    with atomic_file(plan.out / REPORT) as file:
        file.write_text(markdown(table, TITLES))
    return table


def run_one(plan: Plan, name: str, seed: int) -> dict[str, float]:
    """The evaluation of one ablation with one seed, after whatever of it was not done before."""
    ablation, workspace = ABLATIONS[name], plan.out / name / str(seed)
    _prepare(plan, ablation, workspace, seed)
    for stage in ablation.stages:
        if not (workspace / "results" / "metrics" / f"{stage}.json").is_file():
            run_stage(stage, workspace)
    return json.loads((workspace / "results" / "metrics" / "evaluation.json").read_text())


def run_stage(stage: str, workspace: Path) -> None:
    """Run one of the lineage's stages in a process of its own: as DVC does, and with its memory given back."""
    subprocess.run([sys.executable, "-m", "more4d.stages", stage, "--root", str(workspace)], check=True)


def _require(plan: Plan, ablations: Sequence[Ablation]) -> None:
    needed = ["datasets/trajscene", *(f"models/tiny-base/{file}" for file in (CONFIG, STRAG, VAE))]
    if any(ablation.unfiltered for ablation in ablations):
        needed += [f"datasets/{name}" for name in ("source", "clips", "captions", "selection", "tracks")]
    if missing := [path for path in needed if not (plan.root / path).exists()]:
        raise AblationError(
            f"{plan.root} lacks {', '.join(missing)}; give --root a workspace whose lineage was run up to trajscene"
        )


def _prepare(plan: Plan, ablation: Ablation, workspace: Path, seed: int) -> None:
    """Everything that the stages read; the record is written last, and says that all is there.

    Raises AblationError where the workspace was begun with other values: it goes on with its own.
    """
    values = {"params": plan.of(ablation, seed), "architecture": dict(ablation.architecture), "start": plan.start}
    record = json.loads(json.dumps(values))
    if (workspace / RECORD).is_file():
        if json.loads((workspace / RECORD).read_text()) != record:
            raise AblationError(f"{workspace} was begun with other values; give another --out, or remove it")
        return
    _prepare_data(plan, ablation, workspace, seed)
    _link_checkpoint(plan, ablation, workspace, seed)
    latents = plan.out / ".cache" / "latents"
    latents.mkdir(parents=True, exist_ok=True)
    # Shared: most of what is encoded is the same in every ablation.
    _link(latents, workspace / ".cache" / "latents")
    (workspace / "params.yaml").write_text(yaml.safe_dump(record["params"], sort_keys=False))
    atomic_write_json(workspace / RECORD, record)


def _prepare_data(plan: Plan, ablation: Ablation, workspace: Path, seed: int) -> None:
    trajscene, folder = plan.root / "datasets" / "trajscene", workspace / "datasets" / "trajscene"
    if ablation.data is None:
        _link(trajscene, folder)
    elif not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = _unfiltered(plan) if ablation.unfiltered else trajscene
        changed_dataset(trajscene, source, ablation.data, folder, seed)


def _unfiltered(plan: Plan) -> Path:
    """The dataset with everything that its criteria refused, made once."""
    workspace = plan.out / UNFILTERED
    if not (workspace / "results" / "metrics" / "trajscene.json").is_file():
        for name in ("source", "clips", "captions", "selection", "tracks"):
            _link(plan.root / "datasets" / name, workspace / "datasets" / name)
        values = derive(plan.values, {"trajscene": {"keep_refused": True}})
        (workspace / "params.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
        run_stage("trajscene", workspace)
    return workspace / "datasets" / "trajscene"


def _link_checkpoint(plan: Plan, ablation: Ablation, workspace: Path, seed: int) -> None:
    """The base under the ablation's architecture, with the motion VAE and ViSM that the samples need beside STraG."""
    base, own = plan.root / "models" / "tiny-base", workspace / "models" / "tiny-base"
    config = derive(read_architecture(base).model_dump(mode="json"), ablation.architecture)
    architecture = Architecture.model_validate(config)
    if ablation.min_max:
        trajscene = workspace / "datasets" / "trajscene"
        architecture = min_max_units(architecture, Models.load(base).vae, trajscene)
    replaced = {CONFIG} | ({STRAG} if plan.start == "fresh" else set())
    for file in base.iterdir():
        if file.name not in replaced:
            _link(file, own / file.name)
    if plan.start == "fresh":
        torch.manual_seed(seed)
        save_network(build_strag(architecture), own / STRAG)
    (own / CONFIG).write_text(architecture.model_dump_json(indent=2) + "\n")
    _link(base / "vism.safetensors", workspace / "models" / "vism" / "vism.safetensors")
    if not ablation.min_max:
        trained = plan.root / "models" / "motion_vae" / VAE
        _link(trained if trained.is_file() else base / VAE, workspace / "models" / "motion_vae" / VAE)


def _link(target: Path, link: Path) -> None:
    """A symbolic link to what is only read."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target.resolve())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ablations of the paper's table 4 over a preset, and tabulate them with their intervals over seeds."""
    parser = argparse.ArgumentParser(prog="more4d.training.ablations", description=main.__doc__)
    parser.add_argument("preset", choices=list(PRESETS))
    parser.add_argument("--out", type=Path, required=True, help="where the workspaces and the tables go")
    parser.add_argument("--root", type=Path, default=Path(), help="a workspace whose lineage was run up to trajscene")
    parser.add_argument("--only", nargs="+", default=list(ABLATIONS), metavar="NAME", help=f"of {', '.join(ABLATIONS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--start", choices=["base", "fresh"], default="base", help="STraG's first weights")
    given = parser.parse_args(arguments)
    plan = Plan(PRESETS[given.preset], given.root.resolve(), given.out.resolve(), given.start)
    try:
        table = run_ablations(plan, given.only, given.seeds)
    except AblationError as error:
        parser.error(str(error))
    sys.stdout.write(markdown(table, TITLES))


if __name__ == "__main__":
    main()
