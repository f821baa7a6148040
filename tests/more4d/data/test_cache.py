"""Claims about more4d.data.cache."""

import hashlib
from pathlib import Path

import pytest
from more4d.data.cache import CacheConfig, SampleCache
from pydantic import ValidationError


def _put(cache: SampleCache, seed: int, size: int = 100_000) -> str:
    data = bytes([seed]) * size
    key = hashlib.sha256(data).hexdigest()
    cache.put(key, data)
    return key


def test_the_least_recently_used_goes_first_and_the_limit_holds(tmp_path: Path) -> None:
    cache = SampleCache(CacheConfig(folder=tmp_path, size_limit_bytes=1_000_000))
    keys = [_put(cache, seed) for seed in range(5)]
    for seed in range(5, 40):
        assert cache.get(keys[0]) is not None
        keys.append(_put(cache, seed))
        assert cache.volume() <= 1_000_000
    assert cache.get(keys[0]) is not None and cache.get(keys[-1]) is not None
    assert cache.get(keys[1]) is None


def test_what_was_damaged_on_the_disk_counts_as_missing(tmp_path: Path) -> None:
    cache = SampleCache(CacheConfig(folder=tmp_path, size_limit_bytes=1_000_000))
    key = _put(cache, 7)
    (file,) = tmp_path.rglob("*.val")
    file.write_bytes(b"x" * 100_000)
    assert cache.get(key) is None
    assert cache.get(_put(cache, 7)) is not None


def test_a_pickle_in_the_cache_is_never_loaded(tmp_path: Path) -> None:
    import diskcache

    with diskcache.Cache(str(tmp_path)) as planted:
        planted.set("a" * 64, {"any": "object"})
    with pytest.raises(ValueError, match="holds a pickle"):
        SampleCache(CacheConfig(folder=tmp_path, size_limit_bytes=1_000_000)).get("a" * 64)


def test_larger_than_half_the_cache_is_not_kept_and_no_limit_is_no_config(tmp_path: Path) -> None:
    cache = SampleCache(CacheConfig(folder=tmp_path, size_limit_bytes=1_000_000))
    assert cache.get(_put(cache, 1, 600_000)) is None
    with pytest.raises(ValidationError):
        CacheConfig(folder=tmp_path, size_limit_bytes=0)
