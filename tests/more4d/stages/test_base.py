import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from more4d.settings import Section
from more4d.stages.base import Context, MissingInputError, Stage, StageResult, VideoSpec, fingerprint, run_stage
from pydantic import ValidationError

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)


class Factor(Section):
    """What numbers are multiplied by."""

    factor: int = 2


class Multiply(Stage[Factor]):
    """Multiplies the numbers of a file one by one, keeping in its work folder how far it came."""

    name = "multiply"
    section = Factor
    inputs = {"numbers": "data/numbers.txt"}
    outputs = {"products": "results/products", "total": "results/total.txt"}

    def __init__(self, *, kill_at: int = -1, fail_at: int = -1, forget: str = "") -> None:
        self.kill_at, self.fail_at, self.forget = kill_at, fail_at, forget
        self.done: list[int] = []
        self.work = Path()
        self.seen_before: dict[str, str] = {}

    def run(self, context: Context[Factor]) -> dict[str, float]:
        """The sum of all products."""
        self.work = context.work
        self.seen_before = contents(context.root / "results")
        context.spent.append(context.root / "answers")
        store = context.work / "done.json"
        products = json.loads(store.read_text()) if store.exists() else []
        numbers = [int(line) for line in context.inputs["numbers"].read_text().split()]
        for i in range(len(products), len(numbers)):
            if i == self.fail_at:
                raise RuntimeError("no more")
            if i == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.done.append(i)
            products.append(numbers[i] * context.params.factor)
            store.write_text(json.dumps(products))
            (context.outputs["products"] / f"{i}.txt").write_text(str(products[i]))
        for i, product in enumerate(products):
            (context.outputs["products"] / f"{i}.txt").write_text(str(product))
        if self.forget != "total":
            context.outputs["total"].write_text(str(sum(products)))
        return {"total": float(sum(products))}


def contents(folder: Path) -> dict[str, str]:
    """Texts of all finished files under `folder` by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = ((str(path.relative_to(folder)), path.read_text()) for path in files)
    return {name: text for name, text in named if not name.startswith("timings") and "/." not in f"/{name}"}


def workspace(root: Path, numbers: str = "1 2 3 4") -> Path:
    """A workspace with the stage's input."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data" / "numbers.txt").write_text(numbers)
    return root


def run(root: Path, stage: Stage | None = None, *, factor: int = 2, seed: int = 0) -> StageResult:
    """One run of the stage in a workspace."""
    return run_stage(stage or Multiply(), params=Factor(factor=factor), video=VIDEO, seed=seed, workers=1, root=root)


def run_and_be_killed(root: str) -> None:
    """A run with another factor that is killed at the third number."""
    run(Path(root), Multiply(kill_at=2), factor=5)


def test_outputs_metrics_and_timings_are_where_they_belong(tmp_path: Path) -> None:
    result = run(workspace(tmp_path))
    assert result.metrics == {"total": 20}
    assert result.outputs == {"products": tmp_path / "results/products", "total": tmp_path / "results/total.txt"}
    products = {f"products/{i}.txt": str(2 * (i + 1)) for i in range(4)}
    assert contents(tmp_path / "results") == {
        "metrics/multiply.json": '{\n  "total": 20.0\n}\n', **products, "total.txt": "20",
    }  # fmt: skip
    timing = json.loads((tmp_path / "results/timings/multiply.json").read_text())
    assert timing["seconds"] >= 0
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"products", "total.txt", "metrics", "timings"}


def test_old_outputs_stay_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    run(workspace(tmp_path))
    before, again = contents(tmp_path / "results"), Multiply()
    run(workspace(tmp_path, "5"), again)
    assert again.seen_before == before
    assert contents(tmp_path / "results") == {
        "metrics/multiply.json": '{\n  "total": 10.0\n}\n', "products/0.txt": "10", "total.txt": "10",
    }  # fmt: skip


def test_a_stage_that_fails_leaves_its_old_outputs(tmp_path: Path) -> None:
    run(workspace(tmp_path))
    before = contents(tmp_path / "results")
    with pytest.raises(RuntimeError, match="no more"):
        run(tmp_path, Multiply(fail_at=2), factor=3)
    assert contents(tmp_path / "results") == before


def test_a_stage_that_forgets_an_output_leaves_its_old_outputs(tmp_path: Path) -> None:
    run(workspace(tmp_path))
    before = contents(tmp_path / "results")
    with pytest.raises(AssertionError, match="without writing"):
        run(tmp_path, Multiply(forget="total"), factor=3)
    assert contents(tmp_path / "results") == before


def test_killed_in_mid_run_it_leaves_old_outputs_and_a_rerun_finishes_the_rest(tmp_path: Path) -> None:
    killed, undisturbed = workspace(tmp_path / "killed"), workspace(tmp_path / "undisturbed")
    run(killed)
    before = contents(killed / "results")
    script = f"import runpy; runpy.run_path({__file__!r})['run_and_be_killed']({str(killed)!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert contents(killed / "results") == before
    again = Multiply()
    run(killed, again, factor=5)
    run(undisturbed, factor=5)
    assert again.done == [2, 3]
    assert contents(killed / "results") == contents(undisturbed / "results")
    left = {path.name for path in (killed / "results").iterdir()}
    assert left == {"products", "total.txt", "metrics", "timings"}


@pytest.mark.parametrize("moment", range(4))
def test_interrupted_while_outputs_change_places_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    run(workspace(tmp_path))
    before = contents(tmp_path / "results")
    _interrupt_moves(monkeypatch, moment)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, factor=5)
    monkeypatch.undo()
    again = Multiply()
    run(tmp_path, again, factor=5)
    for name in ("products/0.txt", "total.txt"):
        assert again.seen_before[name] in (before[name], str(5 * int(before[name]) // 2))
    assert contents(tmp_path / "results")["total.txt"] == "50"


def _interrupt_moves(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Stop before the move of that number: old folder aside, new folder in, file in, metrics in."""
    calls = iter(range(100))

    def interrupted(name: str) -> None:
        move = getattr(Path, name)

        def maybe(path: Path, target: Path) -> Path:
            if next(calls) == moment:
                raise KeyboardInterrupt
            return move(path, target)

        monkeypatch.setattr(Path, name, maybe)

    interrupted("rename")
    interrupted("replace")


def test_an_input_that_a_kill_left_aside_is_found(tmp_path: Path) -> None:
    workspace(tmp_path)
    (tmp_path / "data/numbers.txt").rename(tmp_path / "data/.numbers.txt.old")
    assert run(tmp_path).metrics == {"total": 20}


def test_a_missing_input_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"stage multiply: input numbers is missing at .*data/numbers\.txt"):
        run(tmp_path)
    assert contents(tmp_path) == {}


def test_the_work_folder_belongs_to_inputs_parameters_and_seed(tmp_path: Path) -> None:
    def work(numbers: str, **given: int) -> Path:
        stage = Multiply(fail_at=0)
        with pytest.raises(RuntimeError):
            run(workspace(tmp_path, numbers), stage, **given)
        assert stage.work.is_dir()
        return stage.work

    first = work("1 2")
    assert first == work("1 2")
    assert len({first, work("1 3"), work("1 2", factor=3), work("1 2", seed=1)}) == 4


def test_the_work_folder_goes_when_the_stage_is_done(tmp_path: Path) -> None:
    stage = Multiply()
    run(workspace(tmp_path), stage)
    assert not stage.work.exists()


def test_folders_that_the_stage_gave_up_go_once_its_outputs_are_in_place(tmp_path: Path) -> None:
    workspace(tmp_path)
    (tmp_path / "answers").mkdir()
    with pytest.raises(AssertionError, match="without writing"):
        run(tmp_path, Multiply(forget="total"))
    assert (tmp_path / "answers").is_dir()
    run(tmp_path)
    assert not (tmp_path / "answers").exists()


def test_a_fingerprint_follows_names_and_contents_and_not_the_place(tmp_path: Path) -> None:
    def folder(where: str, files: dict[str, str]) -> Path:
        made = tmp_path / where / "folder"
        for name, text in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text)
        return made

    same = folder("a", {"x": "1", "deep/y": "2"}), folder("b", {"deep/y": "2", "x": "1"})
    assert fingerprint(same[0]) == fingerprint(same[1])
    others = folder("c", {"x": "2", "deep/y": "1"}), folder("d", {"x": "1", "deep/z": "2"}), folder("e", {"x": "1"})
    assert len({fingerprint(path) for path in (same[0], *others)}) == 4
    assert fingerprint(same[0] / "x") == fingerprint(same[1] / "x") != fingerprint(others[0] / "x")


def test_a_clip_that_the_networks_cannot_take_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"video.frames=12 must be 4n\+1"):
        VideoSpec(frames=12, height=64, width=96, fps=8)
    with pytest.raises(ValidationError, match="video 60x96: both sides must be multiples of 16"):
        VideoSpec(frames=13, height=60, width=96, fps=8)


def test_a_stage_waits_for_another_process_that_runs_it(tmp_path: Path) -> None:
    root = workspace(tmp_path)
    script = f"import runpy; runpy.run_path({__file__!r})['hold_until_told']({str(root)!r})"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "running\n"
        with ThreadPoolExecutor() as pool:
            here = pool.submit(run, root, factor=3)
            with pytest.raises(TimeoutError):
                here.result(timeout=0.5)
            other.stdin.close()
            assert here.result(timeout=60).metrics == {"total": 30}
    assert other.returncode == 0


def hold_until_told(root: str) -> None:
    """A run that goes on until its standard input is closed."""

    class Slow(Multiply):
        def run(self, context: Context[Factor]) -> dict[str, float]:
            sys.stdout.write("running\n")
            sys.stdout.flush()
            sys.stdin.read()
            return super().run(context)

    run(Path(root), Slow())
