"""Claims about folders of shards that somebody made to do harm: each is refused by name."""

import base64
import hashlib
import io
import json
import tarfile
import zlib
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
    with pytest.raises(ValueError, match="sample a-00000: its header is wrong: shape"):
        decode_sample(files | {"json": json.dumps(header).encode()})


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "a split that nobody reads": ({"split": "nonsense"}, "split: Input should be 'train' or 'val'"),
    "a kind that nobody knows": ({"kind": "zzz"}, "kind: Input should be 'rendered'"),
    "words for a rate": ({"fps": "8"}, "fps: Input should be a valid number"),
    "a rate that is none": ({"fps": float("nan")}, "fps: Input should be"),
    "a rate of zero": ({"fps": 0}, "fps: Input should be greater than 0"),
    "a number for a caption": ({"caption": 5}, "caption: Input should be a valid string"),
    "a number for the id": ({"id": 5}, "id: Input should be a valid string"),
    "yes for a version": ({"schema_version": True}, "schema_version: Input should be a valid integer"),
    "a flat camera": ({"intrinsics": [1, 2, 3]}, "intrinsics.0: Input should be a valid list"),
    "a camera of words": ({"intrinsics": [["a"] * 3] * 3}, "intrinsics.0.0: Input should be a valid number"),
    "a shape in words": ({"shape": "5x32x48"}, "shape: Input should be a valid list"),
    "views in a list": ({"views": ["static"]}, "views: Input should be a valid dictionary"),
    "a view that says nothing": ({"views": {"static": {}}}, "views.static.truth: Field required"),
    "tracks without scales": ({"tracks": {"codec": "zstd-planes"}}, "tracks.camera: Field required"),
    "no tracks": ({"tracks": None}, "tracks: Input should be"),
    "provenance in a list": ({"provenance": []}, "provenance: Input should be a valid dictionary"),
    "what nobody asked for": ({"hook": "x"}, "hook: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_malformed_header_is_refused_with_the_sample_and_the_field(
    make_sample: Callable[..., Sample], name: str
) -> None:
    changes, reason = HEADERS[name]
    files = encode_sample(make_sample())
    header = json.loads(files["json"]) | changes
    with pytest.raises(ValueError, match=f"sample {header['id']}: its header is wrong: .*{reason}"):
        decode_sample(files | {"json": json.dumps(header).encode()})


@pytest.mark.parametrize("focal", [0, float("inf"), "48"])
def test_tracks_that_no_camera_made_are_refused(make_sample: Callable[..., Sample], focal: object) -> None:
    files = encode_sample(make_sample())
    header = json.loads(files["json"])
    header["tracks"]["camera"][0] = focal
    with pytest.raises(ValueError, match=r"sample a-00000: its header is wrong: tracks\.camera"):
        decode_sample(files | {"json": json.dumps(header).encode()})


@pytest.mark.parametrize("field", ["id", "fps", "caption", "intrinsics", "kind", "split", "shape", "tracks", "views"])
def test_a_header_that_lacks_a_field_is_refused(make_sample: Callable[..., Sample], field: str) -> None:
    files = encode_sample(make_sample())
    header = json.loads(files["json"])
    del header[field]
    with pytest.raises(ValueError, match=f"its header is wrong: {field}: Field required"):
        decode_sample(files | {"json": json.dumps(header).encode()})


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"9" * 5000, b"\x80\x04K\x01.", b"[1]", b"null"])
def test_a_header_that_is_no_json_object_is_refused(make_sample: Callable[..., Sample], data: bytes) -> None:
    with pytest.raises(ValueError, match="a sample's header is no JSON"):
        decode_sample(encode_sample(make_sample()) | {"json": data})


def test_a_header_of_schema_version_1_is_still_read(make_sample: Callable[..., Sample]) -> None:
    stored = json.loads((Path(__file__).parent / "tracks_v1.json").read_text())
    tracks = {f"tracks_{name}.bin": base64.b64decode(data) for name, data in stored["files"].items()}
    files = encode_sample(make_sample())
    header = json.loads(files["json"]) | {"schema_version": 1, "tracks": stored["header"]}
    files |= {"json": json.dumps(header).encode(), **tracks}
    assert decode_sample(files).caption == "a patch moves"
    for name in tracks:
        for data, reason in ((zlib.compress(bytes(50_000_000), 9), "more than the"), (b"xx", "damaged")):
            with pytest.raises(ValueError, match=f"sample a-00000: the sample's tracks are damaged.*{reason}"):
                decode_sample(files | {name: data})


@pytest.mark.parametrize(
    ("name", "reason"), [("tracks_steps.bin", "the sample's tracks"), ("view_static.camera.bin", "is 1 bytes")]
)
def test_damaged_arrays_name_their_sample(make_sample: Callable[..., Sample], name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"sample a-00000: .*{reason}"):
        decode_sample(encode_sample(make_sample()) | {name: b"x"})


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
