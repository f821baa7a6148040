"""dvc.yaml as a manifest: its stages, what each reads, writes and is made from, and `meta.dagster`, checked.

DVC's own loader reads the file, so templates, `foreach` and `wdir` mean here what they mean to `dvc repro`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dvc.dependency.param import ParamsDependency
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage
from pydantic import BaseModel, ConfigDict, Field, field_validator

MISSING = "missing"


class DagsterMeta(BaseModel):
    """What `meta.dagster` of a stage may say: the things that Dagster shows or uses and DVC has no word for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str = "default"
    kinds: tuple[str, ...] = Field(default=(), max_length=3)
    owners: tuple[str, ...] = ()
    pool: str | None = None
    checks: dict[str, dict[str, Any]] = {}
    """Name of a check -> its options; in the file a list of names or of `name: {option: value}`."""

    @field_validator("checks", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:  # noqa: ANN401  (whatever the YAML held)
        if not isinstance(value, list):
            return value
        pairs = [({item: {}} if isinstance(item, str) else item) for item in value]
        return {name: options or {} for pair in pairs for name, options in pair.items()}


@dataclass(frozen=True)
class Out:
    """One output of a stage; `path` is relative to the workspace. Plots name their columns."""

    path: str
    kind: Literal["data", "metric", "plot"]
    x: str | None = None
    y: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a stage makes, apart from the outputs of other stages."""

    commands: tuple[str, ...]
    params: Mapping[str, Mapping[str, Any]]
    """Parameter file -> key -> value."""
    code: Mapping[str, str]
    """Path -> DVC hash of what the stage reads and no stage makes: its code, its committed data."""

    @property
    def version(self) -> str:
        """A hash of the recipe: Dagster's code version."""
        text = json.dumps([self.commands, self.params, self.code], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class StageNode:
    """One stage of dvc.yaml. Paths are relative to the workspace, except `folder`: where its commands run."""

    name: str
    description: str
    commands: tuple[str, ...]
    folder: Path
    deps: tuple[str, ...]
    code: tuple[str, ...]
    outs: tuple[Out, ...]
    upstream: tuple[str, ...]
    versioned: tuple[str, ...]
    """The outs whose hashes are the stage's data version."""
    recipe: Recipe
    meta: DagsterMeta
    line: int

    def paths(self, kind: str) -> list[str]:
        """Paths of the outs of one kind, in the file's order."""
        return [out.path for out in self.outs if out.kind == kind]


@dataclass(frozen=True)
class Pipeline:
    """The stages of one dvc.yaml, upstream before downstream."""

    root: Path
    dvc_yaml: Path
    stages: Mapping[str, StageNode]


def load_pipeline(root: Path, dvc_yaml: str = "dvc.yaml") -> Pipeline:
    """The pipeline in `root/dvc_yaml`; nothing needs to have been run.

    Raises ValueError when the file is missing, when `root` is not a DVC workspace, or when a `meta.dagster` is wrong.
    """
    root, file = root.resolve(), (root / dvc_yaml).resolve()
    if not file.is_file():
        raise ValueError(f"no pipeline at {file}; set the component's `dvc_yaml`, or MORE4D_ROOT to its workspace")
    if not (root / ".dvc").is_dir():
        raise ValueError(f"{root} is not a DVC workspace; run `dvc init` there, or set MORE4D_ROOT to one that is")
    lines = file.read_text().splitlines()
    with Repo(str(root)) as repo:
        stages = _in_order(repo, file)
        consumed = {dep for stage in stages for dep in _deps(stage, root)}
        nodes = {str(stage.name): _node(stage, stages, consumed, root, lines) for stage in stages}
    return Pipeline(root, file, nodes)


def _in_order(repo: Repo, file: Path) -> list[PipelineStage]:
    """The file's stages, each after those it reads from, ties in the file's order."""
    found = [s for s in repo.index.stages if isinstance(s, PipelineStage) and Path(s.path).resolve() == file]
    ordered: list[PipelineStage] = []
    while len(ordered) < len(found):
        ready = [s for s in found if s not in ordered and not set(_upstream(s, found)) - {o.name for o in ordered}]
        ordered += ready[:1]
    return ordered


def _upstream(stage: PipelineStage, stages: list[PipelineStage]) -> list[str]:
    """Names of the stages of which `stage` reads an output, or a part of one, or a folder that holds one."""
    deps = [Path(dep.fs_path) for dep in _data_deps(stage)]
    return [
        str(other.name)
        for other in stages
        if other is not stage and any(_overlap(dep, Path(out.fs_path)) for dep in deps for out in other.outs)
    ]


def _overlap(a: Path, b: Path) -> bool:
    return a.is_relative_to(b) or b.is_relative_to(a)


def _data_deps(stage: PipelineStage) -> list[Output]:
    return [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]


def _relative(item: Output, root: Path) -> str:
    return Path(item.fs_path).relative_to(root).as_posix()


def _deps(stage: PipelineStage, root: Path) -> list[str]:
    return [_relative(dep, root) for dep in _data_deps(stage)]


def _node(
    stage: PipelineStage, stages: list[PipelineStage], consumed: set[str], root: Path, lines: list[str]
) -> StageNode:
    name = str(stage.name)
    made = [Path(out.fs_path) for other in stages for out in other.outs]
    code = [dep for dep in _data_deps(stage) if not any(_overlap(Path(dep.fs_path), out) for out in made)]
    outs = tuple(_out(out, root) for out in stage.outs)
    data = [out.path for out in outs if out.kind == "data" or out.path in consumed]
    commands = tuple(stage.cmd) if isinstance(stage.cmd, list) else tuple((stage.cmd or "").splitlines())
    hashes = {_relative(dep, root): _hash(dep) for dep in code}
    return StageNode(
        name=name,
        description=(stage.desc or "").strip(),
        commands=commands,
        folder=Path(stage.wdir),
        deps=tuple(_deps(stage, root)),
        code=tuple(hashes),
        outs=outs,
        upstream=tuple(_upstream(stage, stages)),
        versioned=tuple(data or [out.path for out in outs]),
        recipe=Recipe(commands, _params(stage, root), hashes),
        meta=_meta(stage),
        line=next((i for i, line in enumerate(lines, 1) if line.startswith(f"  {name.split('@', maxsplit=1)[0]}:")), 1),
    )


def _out(out: Output, root: Path) -> Out:
    path = _relative(out, root)
    if out.is_metric:
        return Out(path, "metric")
    if out.is_plot:
        props = out.plot if isinstance(out.plot, dict) else {}
        return Out(path, "plot", props.get("x"), props.get("y"))
    return Out(path, "data")


def _params(stage: PipelineStage, root: Path) -> dict[str, dict[str, Any]]:
    """Values that the parameter files hold now; a key or a file that is missing is left out."""
    return {_relative(dep, root): dict(dep.read_params()) for dep in stage.params}


def _hash(dep: Output) -> str:
    return str(dep.get_hash().value) if dep.exists else MISSING


def _meta(stage: PipelineStage) -> DagsterMeta:
    meta = stage.meta if isinstance(stage.meta, dict) else {}
    try:
        return DagsterMeta.model_validate(meta.get("dagster", {}))
    except ValueError as error:
        raise ValueError(f"dvc.yaml: meta.dagster of stage {stage.name}: {error}") from error
