from unittest.mock import patch

import pytest
import torch
from more4d_kernels import backends
from more4d_kernels.backends import Backend, choose, is_interpreted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_takes_the_compiled_loops_on_a_cpu(dtype: torch.dtype) -> None:
    assert choose("auto", torch.ones(1, dtype=dtype)) == "cpu"


def test_auto_takes_plain_pytorch_where_nothing_is_compiled() -> None:
    assert choose("auto", torch.ones(1, dtype=torch.float64)) == "plain"
    assert choose("auto", torch.ones(1, device="meta")) == "plain"
    with patch.object(backends, "HAS_NUMBA", False):
        assert choose("auto", torch.ones(1)) == "plain"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_auto_takes_triton_on_cuda_except_for_float64(dtype: torch.dtype) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        there = torch.empty(1, dtype=dtype, device="cuda")
        assert choose("auto", there) == ("plain" if dtype == torch.float64 else "triton")


@pytest.mark.parametrize("name", ["triton", "cpu", "plain"])
def test_a_backend_that_can_run_is_taken_as_asked(name: Backend) -> None:
    assert is_interpreted() and choose(name, torch.ones(1)) == name


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("cuda", torch.ones(1), "auto, triton, cpu, plain"),
        ("triton", torch.ones(1, dtype=torch.float64), "float64 tensors to backend 'plain'"),
        ("cpu", torch.ones(1, dtype=torch.float64), "use backend 'auto'"),
        ("cpu", torch.ones(1, device="meta"), "use backend 'auto'"),
    ],
)
def test_a_backend_that_cannot_run_is_refused_with_what_can(name: Backend, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(name, tensor)


def test_triton_on_a_cpu_is_refused_outside_its_interpreter() -> None:
    with (
        patch.object(backends, "is_interpreted", lambda: False),
        pytest.raises(ValueError, match="CUDA tensors, or TRITON_INTERPRET=1"),
    ):
        choose("triton", torch.ones(1))


def test_compiled_loops_are_refused_without_numba() -> None:
    with patch.object(backends, "HAS_NUMBA", False), pytest.raises(ValueError, match="needs numba"):
        choose("cpu", torch.ones(1))
