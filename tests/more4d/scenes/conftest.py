from pathlib import Path

import pytest
from more4d.data.packaged import fetch_packaged, read_packaged

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def fox_file() -> Path:
    """The fox out of its wheel, fetched once into the workspace's cache."""
    wheels = [w for w in read_packaged(ROOT / "datasets" / "packaged.toml") if w.package == "gradio"]
    (path,) = fetch_packaged(wheels, ROOT / ".cache" / "packaged")
    return path
