"""Site profiles: the examples hold, mistakes are named."""

import sys
from pathlib import Path

import pytest
from more4d.launch import read_site

SITES = sorted((Path(__file__).parents[3] / "infra" / "slurm" / "sites").glob("*.yaml"))


@pytest.mark.parametrize("file", SITES, ids=lambda file: file.stem)
def test_examples_are_valid(file: Path) -> None:
    assert read_site(file).partition


def test_there_are_examples() -> None:
    assert len(SITES) >= 3


def test_without_a_profile_the_submitting_interpreter_runs() -> None:
    assert read_site(None).python == Path(sys.executable)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", "colour: Extra inputs"),
        ("gpus: many", "gpus: Input should be 'gres' or 'gpus-per-node'"),
        ("srun: ['--mpi none']", "srun.0: .*not one long option"),
        ("signal_seconds: 0", "signal_seconds: .*greater than or equal to 1"),
        ("venv: venv", "venv: .*is not absolute"),
        ("time_limit: 24:00:00", "time_limit: .*write it in quotes"),
        ("a: [", "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_site(file)
    assert str(file) in str(raised.value)


def test_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no site profile at .*infra/slurm/sites"):
        read_site(tmp_path / "none.yaml")
