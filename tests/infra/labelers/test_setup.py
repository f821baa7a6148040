"""Claims about infra/labelers/*/setup.sh, with an index of empty packages and a repository of these tests' own."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LABELERS = Path(__file__).parents[3] / "infra" / "labelers"
NAMES = ("unidepth", "moge", "delta")


def _setup(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    command = ["bash", str(LABELERS / name / "setup.sh"), *arguments]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_bash_and_every_requirement_is_pinned(name: str) -> None:
    for script in (LABELERS / name / "setup.sh", LABELERS / "environment.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(LABELERS / name / "setup.sh", os.X_OK)
    lines = [line for line in (LABELERS / name / "requirements.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+|[\w-]+ @ git\+https://\S+@[0-9a-f]{40}", line) for line in lines)
    assert {line.split("=")[0] for line in lines} >= {"numpy", "torch", "safetensors"}
    assert re.search(r"^commit=.*[0-9a-f]{40}\}\"$", (LABELERS / name / "setup.sh").read_text(), re.M)


def test_what_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho 9\n")
    old.chmod(0o755)
    folder = str(tmp_path / "new")
    refused = {
        "usage: setup.sh FOLDER": _setup("moge"),
        "exists and is no virtual environment": _setup("moge", str(tmp_path / "full")),
        "no pythonless; install it, or set PYTHON": _setup("moge", folder, PYTHON="pythonless"),
        "COMMIT=main is no commit: give all its 40 digits": _setup("moge", folder, COMMIT="main"),
        "is Python 3.9; the pinned packages need 3.10 to 3.12": _setup("moge", folder, PYTHON=str(old)),
    }
    for reason, done in refused.items():
        assert done.returncode == 1 and done.stdout == ""
        assert reason in done.stderr and done.stderr.startswith("moge/setup.sh: ")
    assert (tmp_path / "full" / "mine").exists()


def test_it_makes_an_environment_whose_labels_will_name_the_source_and_makes_it_once(tmp_path: Path) -> None:
    repository, commit = _repository(tmp_path / "repository")
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PYTHON": sys.executable}
    given = pip | {"REPOSITORY": str(repository), "COMMIT": commit}
    folder = tmp_path / "environment"
    without = _setup("delta", str(folder), **given)
    assert without.returncode == 1 and "packages could not be installed" in without.stderr
    _index(tmp_path, LABELERS / "delta" / "requirements.txt")
    lost = _setup("delta", str(folder), **given | {"COMMIT": "0" * 40})
    assert lost.returncode == 1 and "could not be fetched. Without network set REPOSITORY" in lost.stderr
    made = _setup("delta", str(folder), **given)
    assert (made.returncode, made.stdout.strip()) == (0, str(folder / "bin" / "python")), made.stderr
    # Not where the mirror was, nor what opened it.
    assert (folder / "labeler-source.txt").read_text().strip() == f"snap-research/DELTA_densetrack3d@{commit}"
    imports = "import densetrack3d, sys; sys.exit('more4d' in sys.modules)"
    subprocess.run([made.stdout.strip(), "-c", imports], cwd=tmp_path, check=True)
    before = (folder / "pyvenv.cfg").stat().st_mtime_ns
    again = _setup("delta", str(folder), PIP_NO_INDEX="1", REPOSITORY=str(repository), COMMIT=commit)
    assert (again.returncode, again.stdout, again.stderr) == (0, made.stdout, "")
    assert (folder / "pyvenv.cfg").stat().st_mtime_ns == before


def _repository(folder: Path) -> tuple[Path, str]:
    """A repository with DELTA's package, empty, and its commit."""
    package = folder / "densetrack3d" / "models" / "predictor"
    package.mkdir(parents=True)
    (package / "dense_predictor.py").touch()
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "empty"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    return folder, commit


def _index(folder: Path, requirements: Path) -> None:
    """An empty wheel for every pinned requirement."""
    for line in requirements.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, version = line.split("==")
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
