import json
from pathlib import Path

import pytest
from more4d.weights.fetch import FETCHED
from more4d.weights.record import record
from more4d.weights.registry import read_registry
from more4d.weights.verify import verify_weight

from tests.more4d.weights.conftest import COMMIT, DATA, DIGEST, REGISTRY


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the first weight of the registry in it."""
    folder = tmp_path / "store" / "toy"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "toy.bin").write_bytes(DATA)
    (folder / FETCHED).write_text(json.dumps({"revision": COMMIT}))
    return tmp_path / "store"


def test_what_was_measured_is_written_and_every_other_line_is_kept(registry: Path, store: Path) -> None:
    entries = read_registry(registry).weight[:1]
    verdicts = [verify_weight(w.model_copy(update={"file": w.file}), store) for w in entries]
    verdicts[0].problems.clear()  # The toy is no checkpoint; its hash is what is recorded here.
    assert len(record(verdicts, registry, store)) == 3
    lines = registry.read_text().splitlines()
    assert [line for line in lines if line not in REGISTRY.splitlines()] == [
        f'revision = "{COMMIT}"',
        f"bytes = {len(DATA)}",
        f'sha256 = "{DIGEST}"',
    ]
    assert [line for line in REGISTRY.splitlines() if line not in lines] == []
    toy = read_registry(registry).by_name["toy"]
    assert (toy.revision, toy.bytes, toy.file[0].sha256) == (COMMIT, len(DATA), DIGEST)
    assert record(verdicts, registry, store) == []


def test_nothing_is_recorded_of_what_did_not_verify(registry: Path, store: Path) -> None:
    verdict = verify_weight(read_registry(registry).by_name["forbidden"], store)
    with pytest.raises(ValueError, match="forbidden did not verify, so nothing is recorded"):
        record([verdict], registry, store)
    assert registry.read_text() == REGISTRY
