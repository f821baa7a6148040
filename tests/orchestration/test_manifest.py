from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from more4d_orchestration.manifest import load_pipeline

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature


def test_stages_outs_and_edges_are_those_of_dvc_yaml(miniature: "Miniature") -> None:
    written = yaml.safe_load((miniature.root / "dvc.yaml").read_text())["stages"]
    stages = load_pipeline(miniature.root).stages
    assert list(stages) == list(written)
    assert {name: list(node.deps) for name, node in stages.items()} == {
        name: entry["deps"] for name, entry in written.items()
    }
    assert {name: node.upstream for name, node in stages.items()} == {
        "numbers": (),
        "squares": ("numbers",),
        "total": ("squares",),
    }
    assert stages["squares"].paths("data") == ["data/squares"]
    assert stages["squares"].paths("plot") == ["plots/squares.csv"]
    assert stages["numbers"].paths("metric") == ["metrics/numbers.json"]


def test_meta_dagster_is_read_and_checks_may_have_options(miniature: "Miniature") -> None:
    stages = load_pipeline(miniature.root).stages
    assert (stages["numbers"].meta.group, stages["numbers"].meta.kinds) == ("data", ("python",))
    assert stages["squares"].meta.checks == {"not_empty": {}, "learned": {"share": 0.2}}
    assert stages["total"].meta.group == "default"


def test_an_unknown_key_of_meta_dagster_is_refused_with_the_stage_named(miniature: "Miniature") -> None:
    text = (miniature.root / "dvc.yaml").read_text()
    (miniature.root / "dvc.yaml").write_text(text.replace("group: training", "groop: training"))
    with pytest.raises(ValueError, match=r"(?s)stage squares.*groop"):
        load_pipeline(miniature.root)


def test_a_parameter_changes_the_code_version_of_the_stage_that_uses_it_alone(miniature: "Miniature") -> None:
    before = miniature.versions()
    miniature.set("squares", power=3)
    after = miniature.versions()
    assert {name for name in before if before[name] != after[name]} == {"squares"}


def test_code_changes_the_code_version_of_the_stage_that_uses_it_alone(miniature: "Miniature") -> None:
    before = miniature.versions()
    with (miniature.root / "code" / "total.py").open("a") as file:
        file.write("# changed\n")
    after = miniature.versions()
    assert {name for name in before if before[name] != after[name]} == {"total"}


def test_data_of_another_stage_is_not_in_the_code_version(miniature: "Miniature") -> None:
    before = miniature.versions()
    miniature.dvc("repro")
    assert miniature.versions() == before


def test_a_file_inside_an_out_is_an_edge_and_downstream_may_stand_first(miniature: "Miniature") -> None:
    entries = yaml.safe_load((miniature.root / "dvc.yaml").read_text())["stages"]
    entries["total"]["deps"] = ["code/total.py", "data/squares/values.txt"]
    backwards = {"stages": dict(reversed(entries.items()))}
    (miniature.root / "dvc.yaml").write_text(yaml.safe_dump(backwards, sort_keys=False))
    stages = load_pipeline(miniature.root).stages
    assert list(stages) == ["numbers", "squares", "total"]
    assert stages["total"].upstream == ("squares",)


def test_it_loads_without_parameters_or_code(miniature: "Miniature") -> None:
    (miniature.root / "params.yaml").unlink()
    (miniature.root / "code" / "numbers.py").unlink()
    assert load_pipeline(miniature.root).stages["numbers"].recipe.code == {"code/numbers.py": "missing"}


def test_a_folder_without_pipeline_or_dvc_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MORE4D_ROOT"):
        load_pipeline(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(ValueError, match="dvc init"):
        load_pipeline(tmp_path)
