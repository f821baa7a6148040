import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from more4d.data.planes import pack_planes, unfold, unpack_planes

EXTREMES = np.array([-(2**15), 2**15 - 1, 0, -1, 1, -128, 127, 128], np.int16)


@given(values=arrays(np.int16, st.integers(1, 200)))
def test_every_number_comes_back(values: np.ndarray) -> None:
    np.testing.assert_array_equal(unfold(unpack_planes(pack_planes(values), values.size)), values)


def test_the_extremes_come_back() -> None:
    np.testing.assert_array_equal(unfold(unpack_planes(pack_planes(EXTREMES), EXTREMES.size)), EXTREMES)


def test_small_numbers_of_either_sign_leave_the_second_plane_empty() -> None:
    planes = unpack_planes(pack_planes(np.arange(-128, 128, dtype=np.int16)), 256)
    assert len(set(planes[0].tolist())) == 256
    assert not planes[1].any()


@pytest.mark.parametrize("count", [0, 1, 999, 1001, 10**6])
def test_another_count_than_was_packed_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} numbers are wanted"):
        unpack_planes(pack_planes(np.ones(1000, np.int16)), count)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x28\xb5\x2f\xfd", pack_planes(EXTREMES)[:-1], pack_planes(EXTREMES) + b"x"]
)
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ZSTD|Corrupt"):
        unpack_planes(data, EXTREMES.size)
