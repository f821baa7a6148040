import torch
from more4d_kernels.memory import empty_float32


def test_memory_is_float32_of_the_shape_that_is_asked_for_and_its_own() -> None:
    first, second = empty_float32((2, 3, 4)), empty_float32(torch.Size((2, 3, 4)))
    assert first.shape == (2, 3, 4) and first.dtype == torch.float32 and first.is_contiguous()
    first.fill_(1)
    second.fill_(2)
    assert (first == 1).all()


def test_no_memory_is_needed_for_no_values() -> None:
    assert empty_float32((2, 0, 3)).shape == (2, 0, 3)
