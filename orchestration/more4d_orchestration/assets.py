"""Dagster assets of a pipeline: one a stage. An asset holds no logic: it runs the stage's commands and reports."""

import re
import time
import warnings
from collections.abc import Callable, Iterator

import dagster as dg

from more4d_orchestration import workspace
from more4d_orchestration.checks import Verdict, find_check
from more4d_orchestration.launcher import Job, JobFailedError, Launcher
from more4d_orchestration.manifest import Pipeline, StageNode
from more4d_orchestration.report import StageReport


def build_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """One asset a stage, with the edges, groups, kinds, owners, pools and checks that dvc.yaml gives it.

    Running one needs a resource called `launcher`.
    """
    return [_asset(pipeline, node) for node in pipeline.stages.values()]


def asset_key(stage: str) -> dg.AssetKey:
    """The asset of a stage; `train@small` of a `foreach` is the asset train/small."""
    return dg.AssetKey([re.sub(r"\W", "_", part) for part in stage.split("@")])


def asset_spec(pipeline: Pipeline, node: StageNode) -> dg.AssetSpec:
    """What Dagster shows of a stage before it has run."""
    return dg.AssetSpec(
        key=asset_key(node.name),
        deps=[asset_key(name) for name in node.upstream],
        description=_description(node),
        group_name=node.meta.group,
        kinds=set(node.meta.kinds),
        owners=list(node.meta.owners),
        code_version=node.recipe.version,
        metadata={
            "command": dg.MetadataValue.md("\n".join(f"`{command}`" for command in node.commands)),
            "parameters": dg.MetadataValue.json({path: dict(values) for path, values in node.recipe.params.items()}),
            "dagster/code_references": _code_references(pipeline, node),
        },
    )


def _description(node: StageNode) -> str:
    reads = "\n".join(f"- `{path}`" for path in node.deps)
    writes = "\n".join(f"- `{out.path}`" for out in node.outs)
    return f"{node.description}\n\nReads\n{reads}\n\nWrites\n{writes}"


def _code_references(pipeline: Pipeline, node: StageNode) -> dg.CodeReferencesMetadataValue:
    """Links to the stage's entry in dvc.yaml and to its Python files."""
    files = [pipeline.root / path for path in node.code if path.endswith(".py")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        references = [dg.LocalFileCodeReference(file_path=str(file), label=file.name) for file in files]
        entry = dg.LocalFileCodeReference(file_path=str(pipeline.dvc_yaml), line_number=node.line)
        return dg.CodeReferencesMetadataValue(code_references=[entry, *references])


def _asset(pipeline: Pipeline, node: StageNode) -> dg.AssetsDefinition:
    key = asset_key(node.name)
    checks = {name: find_check(name, options) for name, options in node.meta.checks.items()}

    @dg.multi_asset(
        name=key.to_python_identifier(),
        specs=[asset_spec(pipeline, node)],
        check_specs=[dg.AssetCheckSpec(name=name, asset=key, blocking=True) for name in checks],
        pool=node.meta.pool,
    )
    def stage_asset(
        context: dg.AssetExecutionContext, launcher: dg.ResourceParam[Launcher]
    ) -> Iterator[dg.MaterializeResult]:
        started = time.monotonic()
        ran = run_and_record(pipeline, node, launcher, context.log.info)
        report = StageReport(pipeline.root, node, workspace.read_lock(pipeline)[node.name])
        yield dg.MaterializeResult(
            asset_key=key,
            data_version=dg.DataVersion(report.entry.data_version),
            metadata={"ran": ran, "seconds": round(time.monotonic() - started, 2), **report.metadata()},
            check_results=[_check_result(name, check(report)) for name, check in checks.items()],
        )

    return stage_asset


def run_and_record(pipeline: Pipeline, node: StageNode, launcher: Launcher, log: Callable[[str], None]) -> bool:
    """Whether the stage had to run; afterwards dvc.lock holds its outputs, as after `dvc repro`.

    Raises dagster.Failure with the end of its output when a command fails: dvc.lock stays as it was.
    """
    with workspace.claimed(pipeline, node.name, log):
        start = workspace.begin(pipeline, node.name)
        if not start.reasons:
            log(f"{node.name}: nothing changed since dvc.lock was written; not run")
            return False
        log(f"{node.name} runs because of: {'; '.join(start.reasons)}")
        for command in node.commands:
            _launch(Job(node.name, command, node.folder, _environment(pipeline, node)), launcher, log)
        workspace.record(pipeline, node.name, start)
    return True


def _environment(pipeline: Pipeline, node: StageNode) -> dict[str, str]:
    """What `dvc repro` sets for a stage's commands."""
    return {"DVC_ROOT": str(pipeline.root), "DVC_STAGE": node.name}


def _launch(job: Job, launcher: Launcher, log: Callable[[str], None]) -> None:
    try:
        launcher.launch(job, log)
    except JobFailedError as error:
        metadata = {"exit_code": error.code, "end of its output": dg.MetadataValue.md(f"```\n{error.tail}\n```")}
        raise dg.Failure(f"{error}\n{error.tail}", metadata=metadata) from error


def _check_result(name: str, verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=verdict.passed, description=verdict.sentence, metadata=dict(verdict.figures)
    )
