import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.rwlock import rwlock
from more4d_orchestration import workspace
from more4d_orchestration.manifest import load_pipeline
from more4d_orchestration.workspace import InputsChangedError, begin, claimed, read_lock, record

if TYPE_CHECKING:
    from tests.orchestration.conftest import Miniature


def test_a_stage_that_repro_has_run_has_no_reason_to_run(miniature: "Miniature") -> None:
    pipeline = load_pipeline(miniature.root)
    assert begin(pipeline, "numbers").reasons
    miniature.dvc("repro", "numbers")
    assert begin(pipeline, "numbers").reasons == ()
    miniature.set("numbers", count=6)
    assert any("numbers modified" in reason or "params.yaml" in reason for reason in begin(pipeline, "numbers").reasons)


def test_the_version_of_a_stage_is_the_hash_of_its_data_in_dvc_lock(miniature: "Miniature") -> None:
    miniature.dvc("repro")
    entries = read_lock(load_pipeline(miniature.root))
    assert entries["numbers"].data_version == miniature.md5("numbers", "data/numbers")
    assert entries["total"].data_version == miniature.md5("total", "results/total.json")


def test_several_data_outs_or_a_metric_that_is_read_make_one_hash_of_all(miniature: "Miniature") -> None:
    text = (miniature.root / "dvc.yaml").read_text()
    deps = "deps: [code/squares.py, data/numbers, metrics/numbers.json]"
    (miniature.root / "dvc.yaml").write_text(text.replace("deps: [code/squares.py, data/numbers]", deps))
    miniature.dvc("repro")
    pipeline = load_pipeline(miniature.root)
    assert pipeline.stages["numbers"].versioned == ("data/numbers", "metrics/numbers.json")
    first = read_lock(pipeline)["numbers"].data_version
    miniature.set("numbers", count=6)
    miniature.dvc("repro")
    assert len(first) == 64 and read_lock(pipeline)["numbers"].data_version != first


def test_the_recipe_in_dvc_lock_is_that_of_the_workspace_until_one_changes(miniature: "Miniature") -> None:
    miniature.set("squares", rate=1e-05)
    miniature.dvc("repro")
    pipeline = load_pipeline(miniature.root)
    locked = {name: entry.recipe.version for name, entry in read_lock(pipeline).items()}
    assert locked == miniature.versions()
    miniature.set("squares", rate=2e-05)
    assert {name for name, version in miniature.versions().items() if version != locked[name]} == {"squares"}


def test_inputs_that_change_during_a_run_leave_dvc_lock_as_it_was(miniature: "Miniature") -> None:
    miniature.dvc("repro")
    pipeline, before = load_pipeline(miniature.root), (miniature.root / "dvc.lock").read_bytes()
    miniature.set("squares", power=3)
    start = begin(pipeline, "squares")
    miniature.set("squares", power=4)
    with pytest.raises(InputsChangedError, match=r"params\.yaml.*squares"):
        record(pipeline, "squares", start)
    assert (miniature.root / "dvc.lock").read_bytes() == before


def test_a_claim_waits_for_whoever_holds_a_path_and_says_so_once(
    miniature: "Miniature", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "WAIT_SECONDS", 0.01)
    pipeline, messages, told = load_pipeline(miniature.root), [], threading.Event()
    with Repo(str(miniature.root)) as repo:
        writes = [str(miniature.root / "data" / "numbers")]
        holder = rwlock(repo.tmp_dir, repo.fs, "another command", [], writes, False)
        holder.__enter__()

        def release() -> None:
            told.wait()
            holder.__exit__(None, None, None)

        thread = threading.Thread(target=release)
        thread.start()
        with claimed(pipeline, "squares", lambda line: (messages.append(line), told.set())):
            pass
        thread.join()
    assert len(messages) == 1 and "another command" in messages[0]


def test_a_claimed_stage_is_busy_for_others(miniature: "Miniature") -> None:
    pipeline, paths = load_pipeline(miniature.root), [str(Path(miniature.root, "data", "squares"))]
    with claimed(pipeline, "squares", print), Repo(str(miniature.root)) as repo, pytest.raises(LockError):
        rwlock(repo.tmp_dir, repo.fs, "another command", paths, [], False).__enter__()
