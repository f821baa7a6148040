import hashlib
from pathlib import Path

from more4d.data.hashing import hash_file


def test_a_file_is_told_by_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()
