import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import more4d_orchestration
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from more4d_orchestration.components import DvcPipelineComponent

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature

REPOSITORY = Path(__file__).parents[2]


def _names(definitions: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}


def test_another_project_configures_the_component_in_yaml(miniature: "Miniature") -> None:
    attributes = {
        "root": str(miniature.root),
        "dvc_yaml": "dvc.yaml",
        "sensor_name": "other_lock",
        "sensor_seconds": 60,
    }
    contents = {"type": "more4d_orchestration.components.DvcPipelineComponent", "attributes": attributes}
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(component_cls=DvcPipelineComponent, defs_yaml_contents=contents)
        with sandbox.load_component_and_build_defs(defs_path=path) as (component, definitions):
            assert isinstance(component, DvcPipelineComponent)
            definitions = dg.Definitions.merge(definitions, dg.Definitions(resources={"launcher": object()}))
            assert _names(definitions) == {"numbers", "squares", "total"}
            sensor = definitions.resolve_sensor_def("other_lock")
            assert sensor.minimum_interval_seconds == 60


def test_the_code_location_loads_the_workspace_that_the_environment_names(
    miniature: "Miniature", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE4D_ROOT", str(miniature.root))
    definitions = dg.load_from_defs_folder(path_within_project=Path(more4d_orchestration.__file__).parent)
    assert _names(definitions) == {"numbers", "squares", "total"}
    assert definitions.resolve_job_def("__ASSET_JOB").executor_def.name == "in_process"
    assert "launcher" in (definitions.resources or {})


def test_dg_finds_nothing_wrong_with_this_repository(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {key: value for key, value in os.environ.items() if key != "MORE4D_ROOT"}
    for what in ("defs", "toml"):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "dg"), "check", what],
            cwd=REPOSITORY / "orchestration",
            env={**environment, "DAGSTER_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
