"""Claims about folders of shards that somebody made to do harm: each is refused by name."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from more4d.data.reader import TrajSceneDataset, untar_sample
from more4d.data.sample import Sample, decode_sample, encode_sample
from more4d.data.shards import ShardError, write_shards

GOOD = {"samples": 0, "bytes": 0, "index": {"name": "a.parquet", "sha256": "0"}, "shards": []}


def _manifest(**changes: object) -> bytes:
    return json.dumps({"schema_version": 2, "splits": {"train": {**GOOD, **changes}}}).encode()


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "a shard outside of the folder": (_manifest(shards=[{"name": "../../etc/passwd"}]), "no file of its folder"),
    "an absolute shard": (_manifest(shards=[{"name": "/etc/passwd"}]), "no file of its folder"),
    "a shard at another address": (_manifest(shards=[{"name": "http://169.254.169.254/x"}]), "no file of its folder"),
    "an index outside of the folder": (_manifest(index={"name": "../x", "sha256": "0"}), "no file of its folder"),
    "a hidden index": (_manifest(index={"name": ".x", "sha256": "0"}), "no file of its folder"),
    "no splits": (b'{"schema_version": 2}', "is not a manifest: KeyError"),
    "splits in a list": (b'{"schema_version": 2, "splits": []}', "is not a manifest: AttributeError"),
    "a number for a name": (_manifest(shards=[{"name": 7}]), "is not a manifest: TypeError"),
    "a list": (b"[1]", "is not a manifest: it holds no object"),
    "no JSON": (b"\x80\x04K\x01.", "is not JSON"),
    "another version": (b'{"schema_version": 99, "splits": {}}', "schema version 99"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_refused_by_name(name: str, tmp_path: Path) -> None:
    data, reason = MANIFESTS[name]
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ValueError, match=rf"manifest\.json.*{reason}"):
        TrajSceneDataset(tmp_path)


@pytest.mark.parametrize("content", [b"PAR1 not parquet PAR1", b"", b"\x80\x04K\x01."])
def test_an_index_that_is_no_table_is_refused_by_name_whatever_its_hash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    index = {"name": "a.parquet", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_bytes(_manifest(index=index))
    with pytest.raises(ShardError, match=r"a\.parquet is not the index"):
        TrajSceneDataset(tmp_path)


def _tar(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, claimed: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data) if claimed is None else claimed, "/etc/passwd"
    return info.tobuf() + data + bytes(-len(data) % 512)


MEMBERS: dict[str, tuple[bytes, str]] = {
    "another sample's file": (_tar("b.json", b"{}"), "member 'b.json' is not a file of sample a"),
    "a path that leaves": (_tar("../a.json", b"{}"), "is not a file of sample a"),
    "a symbolic link": (_tar("a.json", kind=tarfile.SYMTYPE), "is not a file of sample a"),
    "a hard link": (_tar("a.json", kind=tarfile.LNKTYPE), "is not a file of sample a"),
    "a device": (_tar("a.json", kind=tarfile.CHRTYPE), "is not a file of sample a"),
    "a member longer than the shard": (_tar("a.json", b"{}", claimed=2**40), "are no tar"),
    "no tar": (b"hello" * 500, "are no tar"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_hostile_member_is_refused_by_name(name: str) -> None:
    data, reason = MEMBERS[name]
    with pytest.raises(ShardError, match=reason):
        untar_sample(data, "a")


@pytest.mark.parametrize("shape", [[2**20, 2**20, 2**20], [5, 32], [5, -32, -48], [5, 32.5, 48], [0, 32, 48]])
def test_a_header_that_claims_the_impossible_is_refused_before_memory_is_taken(
    make_sample: Callable[..., Sample], shape: list[Any]
) -> None:
    files = encode_sample(make_sample())
    header = json.loads(files["json"]) | {"shape": shape}
    with pytest.raises(ValueError, match="sample a-00000 claims to be"):
        decode_sample(files | {"json": json.dumps(header).encode()})


def test_a_sample_may_not_have_a_name_that_leaves_the_folder(
    make_sample: Callable[..., Sample], tmp_path: Path
) -> None:
    files = encode_sample(make_sample())
    header = json.loads(files["json"]) | {"id": "../evil"}
    with pytest.raises(ValueError, match=r"'\.\./evil' cannot be a sample's id"):
        decode_sample(files | {"json": json.dumps(header).encode()})
    write_shards([make_sample()], tmp_path, split="train", shard_bytes=1)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "train-000000.tar").read_bytes())) as archive:
        assert all(info.isfile() and "/" not in info.name for info in archive)
