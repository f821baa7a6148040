import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d_kernels import denormalize_motion, normalize_motion
from more4d_kernels.backends import Backend
from more4d_kernels.depth_norm import cpu, cpu_kernel, library
from more4d_kernels.depth_norm.reference import denormalize_motion_reference, normalize_motion_reference
from torch import Tensor
from torch.utils import deterministic

SIZE = (4, 6)
# One pixel, less than a group of four, more than one chunk and block, a whole number of groups.
RAGGED = [(1, 1, 1, 1), (2, 3, 1, 3), (1, 2, 37, 61), (2, 18, 5, 7), (2, 5, 16, 16)]
BACKENDS: list[Backend] = ["plain", "cpu", "triton"]


def trajectories(batch: int = 2, frames: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, frames, *SIZE, 3, generator=generator, dtype=torch.float64)
    points[..., 2] = points[..., 2].abs() + 1
    return points.to(dtype)


def cameras(batch: int = 2, *, dtype: torch.dtype = torch.float64) -> Tensor:
    K = torch.eye(3, dtype=dtype).repeat(batch, 1, 1)
    K[:, 0, 0] = 5 + torch.arange(batch)
    K[:, 1, 1] = 7 + torch.arange(batch)
    return K


def test_motion_is_in_units_of_the_frustum_at_the_first_depth() -> None:
    points = torch.zeros(1, 2, *SIZE, 3)
    points[..., 2] = 2
    points[0, 1] += torch.tensor((0.3, -0.4, 0.5))
    K = torch.tensor([[[12.0, 0, 3], [0, 8, 2], [0, 0, 1]]])
    motion, valid = normalize_motion(points, K, image_size=SIZE)
    assert motion.shape == (1, 3, 2, *SIZE) and valid.all()
    expected = (0.3 * 12 / (6 * 2), -0.4 * 8 / (4 * 2), 0.5 / 2)
    torch.testing.assert_close(motion[0, :, 1, 1, 2], torch.tensor(expected))
    assert (motion[:, :, 0] == 0).all()


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 3), frames=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_denormalising_undoes_normalising(seed: int, batch: int, frames: int) -> None:
    points, K = trajectories(batch, frames, seed=seed), cameras(batch)
    motion, _ = normalize_motion(points, K, image_size=SIZE)
    back = denormalize_motion(motion, points[:, 0], K, image_size=SIZE)
    torch.testing.assert_close(back, points, rtol=0, atol=1e-12)


def test_the_round_trip_is_exact_to_1e_6_in_float32() -> None:
    points, K = trajectories(dtype=torch.float32), cameras(dtype=torch.float32)
    motion, _ = normalize_motion(points, K, image_size=SIZE)
    back = denormalize_motion(motion, points[:, 0], K, image_size=SIZE)
    assert ((back - points).abs() / points.abs().clamp(min=1)).max() <= 1e-6


def test_every_sample_is_normalised_by_its_own_camera() -> None:
    points = trajectories(1).repeat(2, 1, 1, 1, 1)
    motion, _ = normalize_motion(points, cameras(), image_size=SIZE)
    torch.testing.assert_close(motion[1, 0], motion[0, 0] * 6 / 5)
    torch.testing.assert_close(motion[1, 1], motion[0, 1] * 8 / 7)
    torch.testing.assert_close(motion[1, 2], motion[0, 2])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_an_invalid_first_depth_gives_no_motion_and_is_marked(bad: float) -> None:
    points = trajectories()
    points[0, 0, 1, 2, 2] = bad
    motion, valid = normalize_motion(points, cameras(), image_size=SIZE)
    assert (motion[0, :, :, 1, 2] == 0).all() and torch.isfinite(motion).all()
    assert not valid[0, 1, 2] and valid.sum() == valid.numel() - 1


def test_an_invalid_first_depth_does_not_poison_the_gradient() -> None:
    points = trajectories()
    points[0, 0, 0, 0, 2] = math.nan
    points.requires_grad_()
    normalize_motion(points, cameras(), image_size=SIZE)[0].square().sum().backward()
    assert points.grad is not None and torch.isfinite(points.grad).all() and points.grad.abs().sum() > 0


def test_gradients_of_both_directions_are_right() -> None:
    points, K = trajectories(1, 2).requires_grad_(), cameras(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, k: normalize_motion(p, k, image_size=SIZE)[0], (points, K), fast_mode=True
    )
    motion = torch.randn(1, 3, 2, *SIZE, dtype=torch.float64, requires_grad=True)
    first = points[:, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, p, k: denormalize_motion(m, p, k, image_size=SIZE), (motion, first, K), fast_mode=True
    )


def test_a_shape_or_camera_that_does_not_fit_is_named() -> None:
    points, K = trajectories(), cameras()
    with pytest.raises(ValueError, match="one camera each"):
        normalize_motion(points, K[0], image_size=SIZE)
    with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\]"):
        normalize_motion(points[0], K, image_size=SIZE)
    with pytest.raises(ValueError, match="motion is"):
        denormalize_motion(torch.zeros(2, 3, 1, 9, 9), points[:, 0], K, image_size=SIZE)
    with pytest.raises(ValueError, match="positive pixels"):
        normalize_motion(points, torch.zeros_like(K), image_size=SIZE)


def scene(shape: tuple[int, int, int, int], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points [B, T, H, W, 3] and cameras [B, 3, 3] in float64; about one first point in five is not valid."""
    batch, frames, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, frames, height, width, 3, generator=generator, dtype=torch.float64)
    points[..., 2] = points[..., 2].abs() + 1
    for bad in (math.nan, math.inf, -1.0, 0.0):
        points[:, 0, ..., 2][torch.rand(batch, height, width, generator=generator) < 0.05] = bad
    return points, cameras(batch)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected size; both must be non-finite in the same places."""
    assert found.shape == expected.shape and torch.equal(torch.isfinite(found), torch.isfinite(expected))
    found, expected = (t.detach().double().nan_to_num(posinf=0, neginf=0) for t in (found, expected))
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def gradients(output: Tensor, inputs: Sequence[Tensor], *, given_in: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Of random numbers that are the same in `output`'s dtype as in `given_in`."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(given_in).to(output.dtype)
    return list(torch.autograd.grad(output, inputs, given))


def leaves(*tensors: Tensor, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]


def normalised(points: Tensor, K: Tensor, backend: Backend, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Motion and gradients by `backend` in `dtype`, and by the float64 twin, of the same rounded inputs."""
    size = (points.shape[2], points.shape[3])
    rounded = points.to(dtype)
    inputs, exact = (*leaves(rounded, dtype=dtype), *leaves(K, dtype=torch.float32)), leaves(rounded, K)
    motion, valid = normalize_motion(inputs[0], inputs[1], image_size=size, backend=backend)
    expected, expected_valid = normalize_motion_reference(exact[0], exact[1], size)
    assert torch.equal(valid, expected_valid) and motion.is_contiguous() and motion.dtype is dtype
    return [motion, *gradients(motion, inputs)], [expected, *gradients(expected, exact)]


def denormalised(points: Tensor, K: Tensor, backend: Backend, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Points and gradients by `backend` in `dtype`, and by the float64 twin, of the same rounded inputs."""
    size = (points.shape[2], points.shape[3])
    generator = torch.Generator().manual_seed(2)
    motion = torch.randn(len(points), 3, *points.shape[1:4], generator=generator, dtype=torch.float64)
    rounded = motion.to(dtype), points[:, 0].to(dtype)
    inputs, exact = (*leaves(*rounded, dtype=dtype), *leaves(K, dtype=torch.float32)), leaves(*rounded, K)
    found = denormalize_motion(inputs[0], inputs[1], inputs[2], image_size=size, backend=backend)
    expected = denormalize_motion_reference(exact[0], exact[1], exact[2], size)
    assert found.is_contiguous() and found.dtype is dtype
    return [found, *gradients(found, inputs)], [expected, *gradients(expected, exact)]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that nobody has written yet is NaN."""
    monkeypatch.setattr(cpu, "empty_float32", lambda shape: torch.full(tuple(shape), math.nan))
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", RAGGED)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_every_backend_and_gradient_is_the_float64_definition(
    shape: tuple[int, int, int, int], backend: Backend, dtype: torch.dtype, bound: float
) -> None:
    points, K = scene(shape)
    for both_ways in (normalised, denormalised):
        for found, expected in zip(*both_ways(points, K, backend, dtype), strict=True):
            assert relative_error(found, expected) <= bound


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=10, deadline=None)
def test_any_shape_is_the_float64_definition(shape: tuple[int, int, int, int], seed: int, backend: Backend) -> None:
    points, K = scene(shape, seed=seed)
    for both_ways in (normalised, denormalised):
        for found, expected in zip(*both_ways(points, K, backend, torch.float32), strict=True):
            assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_motion_has_the_same_bits_from_every_backend(backend: Backend) -> None:
    points, K = scene((2, 5, 16, 17))
    points, K = points.float(), K.float()
    motion, _ = normalize_motion(points, K, image_size=(16, 17), backend=backend)
    expected, _ = normalize_motion(points, K, image_size=(16, 17), backend="plain")
    assert torch.equal(motion, expected)


def test_the_backward_formula_is_the_forward_s_derivative_in_float64() -> None:
    points, K = trajectories(2, 3), cameras()
    points[0, 0, 1, 1, 2] = -1
    points, K = leaves(points, K)
    assert torch.autograd.gradcheck(lambda p, k: normalize_motion(p, k, image_size=SIZE)[0], (points, K))
    motion = torch.randn(2, 3, 3, *SIZE, dtype=torch.float64, requires_grad=True)
    first = points[:, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, p, k: denormalize_motion(m, p, k, image_size=SIZE), (motion, first, K))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_invalid_pixel_has_no_gradient_whatever_its_numbers(backend: Backend) -> None:
    points, K = trajectories(dtype=torch.float32), cameras(dtype=torch.float32)
    points[0, :, 1, 2] = math.nan
    points[1, 1:, 0, 0], points[1, 0, 0, 0, 2] = math.inf, 0
    points, K = leaves(points, K, dtype=torch.float32)
    motion, _ = normalize_motion(points, K, image_size=SIZE, backend=backend)
    dpoints, dK = gradients(motion, [points, K])
    assert torch.isfinite(dpoints).all() and torch.isfinite(dK).all()
    assert (dpoints[0, :, 1, 2] == 0).all() and (dpoints[1, :, 0, 0] == 0).all()
    (broken,) = leaves(torch.where(motion.detach() == 0, math.nan, motion.detach()), dtype=torch.float32)
    back = denormalize_motion(broken, points[:, 0].detach(), K, image_size=SIZE, backend=backend)
    assert torch.equal(back[1, :, 0, 0], points[1, :1, 0, 0].expand(3, 3))
    dmotion = gradients(back, [broken])[0]
    assert torch.isfinite(dmotion).all() and (dmotion[1, :, :, 0, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_later_position_that_is_not_finite_spoils_only_itself(backend: Backend) -> None:
    points, K = trajectories(dtype=torch.float32), cameras(dtype=torch.float32)
    points[0, 2, 1, 2, 0], points[1, 1, 3, 3, 2] = math.nan, math.inf
    motion, valid = normalize_motion(points, K, image_size=SIZE, backend=backend)
    assert valid.all() and motion[0, 0, 2, 1, 2].isnan() and motion[1, 2, 1, 3, 3] == math.inf
    assert torch.isfinite(motion).sum() == motion.numel() - 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_normalises_to_nothing(shape: tuple[int, int, int, int], backend: Backend) -> None:
    points, K = leaves(torch.zeros(*shape, 3), cameras(shape[0]), dtype=torch.float32)
    motion, valid, statistics = normalize_motion(points, K, image_size=SIZE, statistics=True, backend=backend)
    assert motion.shape == (shape[0], 3, *shape[1:]) and valid.shape == (shape[0], *shape[2:])
    assert (statistics.maximum == 0).all() and statistics.percentile(50).isnan().all()
    assert all((gradient == 0).all() for gradient in gradients(motion, [points, K]))
    back = denormalize_motion(motion, points[:, 0], K, image_size=SIZE, backend=backend)
    assert back.shape == points.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_frames_denormalise_to_no_points_and_zero_gradients(backend: Backend) -> None:
    points, K = leaves(trajectories()[:, 0], cameras(), dtype=torch.float32)
    back = denormalize_motion(torch.zeros(2, 3, 0, *SIZE), points, K, image_size=SIZE, backend=backend)
    assert back.shape == (2, 0, *SIZE, 3)
    assert all((gradient == 0).all() for gradient in gradients(back, [points, K]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend: Backend) -> None:
    points, K = (t.float() for t in scene((4, 6, 8, 10)))
    strided = points[::2, 1::2], points.transpose(2, 3)[:2, ::3], points.flip(-1)[..., :][1:2, :, 1:, ::2]
    for view in strided:
        cut = K.mT[: len(view)]
        outcomes = [normalised(p, k, backend, torch.float32)[0] for p, k in ((view, cut), (view.clone(), cut.clone()))]
        for found, expected in zip(*outcomes, strict=True):
            assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    motion = torch.randn(4, 6, 8, 10, 3).permute(0, 4, 1, 2, 3)
    for view in (motion, motion.contiguous()[:, :, ::2]):
        frames = [
            denormalize_motion(m, points[:, 0].nan_to_num(posinf=0), K, image_size=(8, 10), backend=backend)
            for m in (view, view.clone())
        ]
        assert torch.equal(*frames)


@pytest.mark.parametrize("backend", BACKENDS)
def test_motion_comes_in_the_dtype_asked_for_and_gradients_in_the_inputs(backend: Backend) -> None:
    points, K = leaves(*scene((2, 3, 5, 7)), dtype=torch.float32)
    motion, _ = normalize_motion(points, K, image_size=(5, 7), dtype=torch.bfloat16, backend=backend)
    exact, _ = normalize_motion(points, K, image_size=(5, 7), backend=backend)
    assert motion.dtype is torch.bfloat16 and relative_error(motion, exact) <= 1e-2
    assert [gradient.dtype for gradient in gradients(motion, [points, K])] == [torch.float32, torch.float32]
    back = denormalize_motion(motion, points[:, 0], K, image_size=(5, 7), backend=backend)
    assert back.dtype is torch.float32
    assert gradients(back, [motion])[0].dtype is torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients_of_the_first_frame_those_of_motion_are_the_same(backend: Backend) -> None:
    points, K = (t.float() for t in scene((2, 18, 5, 7)))
    (motion,) = leaves(torch.randn(2, 3, 18, 5, 7), dtype=torch.float32)
    first, camera = leaves(points[:, 0], K, dtype=torch.float32)
    alone = denormalize_motion(motion, points[:, 0], K, image_size=(5, 7), backend=backend)
    along = denormalize_motion(motion, first, camera, image_size=(5, 7), backend=backend)
    assert torch.equal(gradients(alone, [motion])[0], gradients(along, [motion, first, camera])[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_finds_nothing(backend: Backend) -> None:
    points, K = leaves(*scene((2, 3, 5, 7)), dtype=torch.float32)
    (motion,) = leaves(torch.randn(2, 3, 3, 5, 7), dtype=torch.float32)
    size, first = (5, 7), points[:, 0].detach().nan_to_num(posinf=0).requires_grad_()
    for statistics in (False, True):
        torch.library.opcheck(library.normalize, (points, K, *size, torch.bfloat16, statistics, backend))
    torch.library.opcheck(library.denormalize, (motion, first, K, *size, backend))
    given = motion.detach(), points.detach(), K.detach()
    torch.library.opcheck(library.normalize_backward, (*given, *size, backend))
    for wanted in (False, True):
        arguments = torch.ones_like(points), given[0], first.detach(), given[2], *size, wanted, backend
        torch.library.opcheck(library.denormalize_backward, arguments)


@pytest.mark.parametrize("backend", ["plain", "cpu", "triton"])
def test_compiles_into_one_graph_with_gradients(backend: Backend) -> None:
    def both_ways(points: Tensor, K: Tensor) -> tuple[Tensor, Any]:
        motion, valid, statistics = normalize_motion(points, K, image_size=SIZE, statistics=True, backend=backend)
        back = denormalize_motion(motion * 2, points[:, 0], K, image_size=SIZE, backend=backend)
        return back.square().sum() + motion.sum() + valid.sum(), statistics

    inputs = leaves(trajectories(), cameras(), dtype=torch.float32)
    eager, statistics = both_ways(*inputs)
    total, compiled = torch.compile(both_ways, fullgraph=True)(*inputs)
    torch.testing.assert_close(total, eager)
    assert torch.equal(compiled.counts, statistics.counts)
    for found, expected in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(eager, inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_cpu_result_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    points, K = scene((2, 3, 70, 80))
    outcomes = []
    for threads in (1, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        both_ways = normalised(points, K, "cpu", torch.float32), denormalised(points, K, "cpu", torch.float32)
        outcomes.append(both_ways[0][0] + both_ways[1][0])
    assert cpu_kernel.chunks(70 * 80) > 1
    for found, expected in zip(*outcomes, strict=True):
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_frames_more_than_2_to_the_31_numbers_apart_are_found() -> None:
    frame = 4 * 4 * 3
    storage = torch.empty(2**31 + frame, dtype=torch.bfloat16)
    points = storage.as_strided((1, 3, 4, 4, 3), (0, 2**30, 12, 3, 1))
    points.copy_(torch.rand(3, 4, 4, 3) + 1)
    for backend in ("plain", "triton"):
        motion, _ = normalize_motion(points, cameras(1), image_size=SIZE, backend=backend)
        expected, _ = normalize_motion(points.double(), cameras(1), image_size=SIZE)
        assert relative_error(motion, expected) <= 1e-2


def test_a_backend_or_device_that_does_not_fit_is_refused() -> None:
    points, K = trajectories(dtype=torch.float32), cameras(dtype=torch.float32)
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        normalize_motion(points, K, image_size=SIZE, backend="fast")  # pyright: ignore
    with pytest.raises(ValueError, match="float32"):
        normalize_motion(points.double(), K, image_size=SIZE, backend="triton")
    with pytest.raises(ValueError, match="intrinsics are on meta"):
        normalize_motion(points, K.to("meta"), image_size=SIZE)
    with pytest.raises(ValueError, match="motion is on meta"):
        denormalize_motion(torch.zeros(2, 3, 3, *SIZE, device="meta"), points[:, 0], K, image_size=SIZE)
    with pytest.raises(ValueError, match="must be floating"):
        normalize_motion(points, K, image_size=SIZE, dtype=torch.int32)
    with pytest.raises(ValueError, match="positive pixels"):
        normalize_motion(points, torch.full_like(K, math.nan), image_size=SIZE)
