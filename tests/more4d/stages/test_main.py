from pathlib import Path

import pytest
import yaml
from more4d.settings import Section
from more4d.stages import __main__ as command
from more4d.stages.base import Context, Stage
from more4d.stages.registry import LINEAGE, TINY_BASE, get_stage

VALUES = {
    "seed": 7,
    "video": {"frames": 5, "height": 32, "width": 48, "fps": 8.0},
    "echo": {"word": "yes"},
}


class Word(Section):
    """One word."""

    word: str


class Echo(Stage[Word]):
    """Writes its word and its seed."""

    name = "echo"
    section = Word
    inputs = {"data": "data"}
    outputs = {"said": "said.txt"}

    def run(self, context: Context[Word]) -> dict[str, float]:
        """Nothing of interest."""
        if context.params.word == "bug":
            raise KeyError("a bug of ours")
        context.outputs["said"].write_text(f"{context.params.word} {context.seed}")
        return {}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which `echo` is a stage."""
    monkeypatch.setattr(command, "get_stage", lambda name: Echo() if name == "echo" else get_stage(name))
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(VALUES))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr with which the command line refuses."""
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(lines)) == (2, 1)
    return lines[0]


def test_a_stage_runs_with_the_values_of_its_section(root: Path) -> None:
    command.main(["echo", "--root", str(root)])
    assert (root / "said.txt").read_text() == "yes 7"
    other = root / "other.yaml"
    other.write_text(yaml.safe_dump(VALUES | {"echo": {"word": "no"}}))
    command.main(["--root", str(root), "--params", str(other), "echo"])
    assert (root / "said.txt").read_text() == "no 7"


def test_an_unknown_stage_is_refused_with_the_known_ones(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "stragg", "--root", root)
    assert "unknown stage 'stragg'; the stages are source, clips" in line
    assert all(name in line for name in (*LINEAGE, *TINY_BASE))


def test_parameters_that_are_absent_or_broken_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "params.yaml"
    assert "no parameters at nowhere.yaml" in refusal(capsys, "echo", "--root", root, "--params", "nowhere.yaml")
    file.write_text("a: [")
    assert f"{file} is not YAML" in refusal(capsys, "echo", "--root", root)
    file.write_text("- 1")
    assert f"{file} must hold one section a stage, not list" in refusal(capsys, "echo", "--root", root)
    file.write_text(yaml.safe_dump({k: v for k, v in VALUES.items() if k != "echo"}))
    assert f"{file} has no section 'echo'" in refusal(capsys, "echo", "--root", root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"echo": {"word": "yes", "loud": True}}, "echo.loud: Extra inputs are not permitted"),
        ({"echo": {"word": 3}}, "echo.word: Input should be a valid string"),
        ({"seed": "many"}, "seed: Input should be a valid integer"),
        ({"video": VALUES["video"] | {"frames": 12}}, "video: Value error, video.frames=12 must be 4n+1"),  # type: ignore[operator]
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_file(
    root: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(VALUES | change))
    assert f"{root / 'params.yaml'}: {said}" in refusal(capsys, "echo", "--root", root)


def test_a_missing_input_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data").rmdir()
    assert "stage echo: input data is missing" in refusal(capsys, "echo", "--root", root)


def test_a_bug_of_ours_keeps_its_traceback(root: Path) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(VALUES | {"echo": {"word": "bug"}}))
    with pytest.raises(KeyError, match="a bug of ours"):
        command.main(["echo", "--root", str(root)])
