import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from more4d.weights.fetch import FETCHED, PARTIAL, FetchError, fetch_weight, missing_files, track_with_dvc

from tests.more4d.weights.conftest import COMMIT, DATA, DIGEST, Hub, weight

URL = "/someone/toy/resolve/main/deep/toy.bin"


def _leftovers(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def test_a_fetched_file_is_the_servers_and_what_it_is_is_written_beside_it(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL] = DATA
    folder = fetch_weight(weight(), tmp_path)
    assert (folder / "deep" / "toy.bin").read_bytes() == DATA
    facts = json.loads((folder / FETCHED).read_text())
    assert facts["revision"] == COMMIT and facts["licence"] == "MIT"
    assert facts["files"] == {"deep/toy.bin": {"bytes": len(DATA), "sha256": DIGEST}}
    assert missing_files(weight(), tmp_path) == []


def test_what_is_there_is_not_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL] = DATA
    known = weight(file=[{"path": "deep/toy.bin", "bytes": len(DATA), "sha256": DIGEST}])
    fetch_weight(known, tmp_path)
    asked = len(hub.asked)
    fetch_weight(known, tmp_path)
    assert len(hub.asked) == asked


def test_a_recorded_revision_is_what_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL.replace("main", COMMIT)] = DATA
    fetch_weight(weight(revision=COMMIT), tmp_path)
    assert all(COMMIT in path for _, path, _ in hub.asked)


def test_a_download_that_was_cut_off_goes_on_where_it_ended(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # huggingface_hub writes by chunks of 10 MiB; of the last one, what came before the cut is lost.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.files[URL], hub.cut_after = DATA, 400_000
    with pytest.raises(FetchError, match="400000 bytes are kept, fetch again to continue"):
        fetch_weight(weight(), tmp_path)
    assert not (tmp_path / "toy" / "deep" / "toy.bin").exists()
    assert [p.stat().st_size for p in _leftovers(tmp_path / PARTIAL)] == [400_000]
    hub.cut_after, hub.refusing = None, False
    hub.asked.clear()
    folder = fetch_weight(weight(), tmp_path)
    assert hub.gets() == ["bytes=400000-"]
    assert (folder / "deep" / "toy.bin").read_bytes() == DATA
    assert _leftovers(tmp_path / PARTIAL) == []


def test_two_processes_do_not_write_to_one_file(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files[URL], hub.cut_after = DATA, 400_000
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    with pytest.raises(FetchError):
        fetch_weight(weight(), tmp_path)
    (partial,) = _leftovers(tmp_path / PARTIAL)
    with partial.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="is being fetched by another process"):
            fetch_weight(weight(), tmp_path)


def test_another_version_on_the_server_starts_anew(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL], hub.cut_after = DATA, 400_000
    with pytest.raises(FetchError):
        fetch_weight(weight(), tmp_path)
    hub.files[URL], hub.cut_after, hub.refusing = DATA[::-1], None, False
    assert (fetch_weight(weight(), tmp_path) / "deep" / "toy.bin").read_bytes() == DATA[::-1]


def test_a_file_of_another_hash_is_refused_and_not_left(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL] = DATA
    with pytest.raises(FetchError, match=f"refused and deleted: .* {DIGEST}, but this registry says .* {'0' * 64}"):
        fetch_weight(weight(file=[{"path": "deep/toy.bin", "sha256": "0" * 64}]), tmp_path)
    assert _leftovers(tmp_path) == []


def test_an_altered_file_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.files[URL] = DATA
    known = weight(file=[{"path": "deep/toy.bin", "sha256": DIGEST}])
    path = fetch_weight(known, tmp_path) / "deep" / "toy.bin"
    path.write_bytes(b"altered")
    fetch_weight(known, tmp_path)
    assert path.read_bytes() == DATA


def test_offline_is_refused_for_what_is_not_here_and_fine_for_what_is(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[URL] = DATA
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids fetching it"):
        fetch_weight(weight(), tmp_path)
    assert hub.asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetch_weight(weight(), tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fetch_weight(weight(), tmp_path)


def test_the_token_goes_to_the_hub_alone_and_is_never_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.files |= {URL: DATA, "/files/toy.bin": DATA}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said: list[str] = []
    fetch_weight(weight(), tmp_path, say=said.append)
    assert set(hub.tokens) == {"Bearer hf_secret"}
    hub.tokens.clear()
    elsewhere = weight(name="plain", repository=f"{os.environ['HF_ENDPOINT']}/files", file=[{"path": "toy.bin"}])
    assert (fetch_weight(elsewhere, tmp_path, say=said.append) / "toy.bin").read_bytes() == DATA
    assert set(hub.tokens) == {None}
    told = "".join(said) + "".join(capfd.readouterr()) + (tmp_path / "toy" / FETCHED).read_text()
    assert "hf_secret" not in told


def test_a_file_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="toy/deep/toy.bin: .*404"):
        fetch_weight(weight(), tmp_path)


def test_what_no_program_can_download_says_how_to_get_it(tmp_path: Path) -> None:
    by_hand = weight(repository="https://example.org/toy", manual=True)
    with pytest.raises(FetchError, match=r"follow https://example.org/toy and put it at .*toy\.bin"):
        fetch_weight(by_hand, tmp_path)
    with pytest.raises(FetchError, match="it is code, see someone/toy"):
        fetch_weight(weight(kind="code", file=[]), tmp_path)


def test_more_than_the_disk_holds_is_refused_before_a_byte_is_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[URL] = DATA
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("more4d.weights.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(FetchError, match=f"needs {len(DATA)} more bytes"):
        fetch_weight(weight(), tmp_path)
    assert hub.gets() == []


def test_without_a_dvc_workspace_that_is_said(tmp_path: Path) -> None:
    assert "is no DVC workspace" in track_with_dvc([tmp_path / "toy"], tmp_path)


def test_fetched_folders_are_tracked_by_dvc(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], check=True)
    hub.files[URL] = DATA
    folder = fetch_weight(weight(), Path("store"))
    assert track_with_dvc([folder], Path()) == "tracked by DVC: store/toy.dvc"
    assert (tmp_path / "store" / "toy.dvc").is_file()
