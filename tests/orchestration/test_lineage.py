"""dvc.yaml of this repository against the stages themselves."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml
from more4d.stages.registry import LINEAGE, get_stage
from more4d_orchestration.checks import find_check
from more4d_orchestration.manifest import DagsterMeta

REPOSITORY = Path(__file__).parents[2]
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
CODE = ("libs/", "orchestration/")
# How a stage is run, not what it computes: a change there must not rerun the lineage.
FRAMEWORK = {
    "libs/more4d/more4d/__init__.py",
    "libs/more4d/more4d/parallel.py",
    "libs/more4d/more4d/settings.py",
    "libs/more4d/more4d/stages/__init__.py",
    "libs/more4d/more4d/stages/base.py",
    "libs/more4d/more4d/stages/registry.py",
}


def _paths(stage: str, key: str) -> list[str]:
    """Paths of the outs, metrics or plots of a stage."""
    return [path for entry in STAGES[stage].get(key, []) for path in entry]


def _find(module: str) -> Path | None:
    """Source file of a module of this repository."""
    if module.split(".", maxsplit=1)[0] not in ("more4d", "more4d_kernels"):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _imports(file: Path) -> set[Path]:
    """Files of this repository that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {found for name in names if (found := _find(name))}


def _closure(file: Path) -> set[str]:
    """What `file` needs to run, as paths relative to the repository, without the framework."""
    seen: set[Path] = set()
    waiting = {file}
    while waiting:
        current = waiting.pop()
        seen.add(current)
        waiting |= {
            found for found in _imports(current) - seen if found.relative_to(REPOSITORY).as_posix() not in FRAMEWORK
        }
    return {path.relative_to(REPOSITORY).as_posix() for path in seen}


def _as_dep(path: str) -> str:
    """A stage's module stands for itself, any other module for its package."""
    folder, parts = Path(path).parent, Path(path).parts
    if folder.name == "stages":
        return path
    return Path(*parts[:3] if parts[1] == "kernels" else parts[:4]).as_posix()


def test_the_stages_of_dvc_yaml_are_the_lineage() -> None:
    assert set(STAGES) == set(LINEAGE)


@pytest.mark.parametrize("name", LINEAGE)
def test_a_stage_reads_and_writes_what_dvc_yaml_says(name: str) -> None:
    stage, entry = get_stage(name), STAGES[name]
    data = [path for path in entry["deps"] if not path.startswith(CODE)]
    assert sorted(stage.inputs.values()) == sorted(data)
    assert sorted(stage.outputs.values()) == sorted(_paths(name, "outs") + _paths(name, "plots"))
    assert _paths(name, "metrics") == [f"results/metrics/{name}.json"]
    assert entry["cmd"] == f"python -m more4d.stages {name}"
    assert entry["params"] == ["seed", "video", name]


@pytest.mark.parametrize("name", LINEAGE)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(name: str) -> None:
    needed = {_as_dep(path) for path in _closure(REPOSITORY / f"libs/more4d/more4d/stages/{name}.py")}
    assert {path for path in STAGES[name]["deps"] if path.startswith(CODE)} == needed


@pytest.mark.parametrize("name", STAGES)
def test_dvc_never_deletes_an_output_before_the_stage_has_its_successor(name: str) -> None:
    entries = [entry for key in ("outs", "metrics", "plots") for entry in STAGES[name].get(key, [])]
    assert all(options["persist"] for entry in entries for options in entry.values())


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_description_a_group_and_a_check_that_it_is_not_empty(name: str) -> None:
    meta = DagsterMeta.model_validate(STAGES[name]["meta"]["dagster"])
    assert STAGES[name]["desc"] and meta.group in ("data", "training", "inference", "evaluation")
    assert "not_empty" in meta.checks
    for check, options in meta.checks.items():
        find_check(check, options)
