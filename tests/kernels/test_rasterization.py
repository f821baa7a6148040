"""Suffixes: C cameras, N Gaussians."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d_kernels import rasterization
from more4d_kernels.rasterization.cpu import tile_lists
from more4d_kernels.rasterization.cpu_kernel import TILE_HEIGHT, TILE_WIDTH
from more4d_kernels.rasterization.reference import rasterization_reference
from torch import Tensor

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def camera(width: int, height: int, *, focal: float = 40.0) -> tuple[Tensor, Tensor]:
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return torch.eye(4)[None], K[None]


def cloud(count: int, width: int, height: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Overlapping anisotropic Gaussians: in view, off screen, behind the camera, at it, and equally deep ones."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=generator) * torch.tensor((1.5, 1.2, 1.0)) + torch.tensor((0.0, 0.0, 2.0))
    means[: count // 4, 2] = means[0, 2].abs()
    viewmats, Ks = camera(width, height)
    turned = viewmats.clone()
    turned[0, :3, :3] = torch.tensor(((0.8, 0, 0.6), (0, 1, 0), (-0.6, 0, 0.8)))
    return {
        "means": means,
        "quats": torch.randn(count, 4, generator=generator),
        "scales": 0.3 * torch.rand(count, 3, generator=generator) ** 3,
        "opacities": torch.rand(count, generator=generator),
        "colors": torch.rand(count, 3, generator=generator),
        "viewmats": torch.cat((viewmats, turned)),
        "Ks": Ks.repeat(2, 1, 1),
    }


def one(mean: tuple[float, float, float], *, scale: float = 0.1, opacity: float = 1.0) -> dict[str, Tensor]:
    return {
        "means": torch.tensor([mean]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), scale),
        "opacities": torch.tensor([opacity]),
        "colors": torch.tensor([[0.2, 0.4, 0.8]]),
    }


def oracle(scene: dict[str, Tensor], width: int, height: int, **settings: object) -> tuple[Tensor, Tensor]:
    exact = {name: value.double() if isinstance(value, Tensor) else value for name, value in settings.items()}
    return rasterization_reference(*(scene[name].double() for name in NAMES), width, height, **exact)  # type: ignore[arg-type]


def assert_close_enough(ours: Tensor, exact: Tensor) -> None:
    error = (ours.double() - exact).abs()
    assert error.mean() <= 1e-3 and error.max() <= 2 / 255


@given(seed=st.integers(0, 10_000), width=st.integers(1, 50), height=st.integers(1, 50), count=st.integers(1, 150))
@settings(max_examples=15, deadline=None)
def test_pictures_agree_with_the_float64_oracle(seed: int, width: int, height: int, count: int) -> None:
    scene = cloud(count, width, height, seed=seed)
    options = {
        "backgrounds": torch.tensor([[0.1, 0.9, 0.3], [1.0, 0, 0]]),
        # Never 0: of needles far thinner than a pixel, single precision cannot tell the determinant from zero.
        "eps2d": 0.05 + 0.1 * (seed % 4),
        "near_plane": 0.2,
    }
    image, alpha, _ = rasterization(**scene, width=width, height=height, **options)
    exact_image, exact_alpha = oracle(scene, width, height, **options)
    assert_close_enough(image, exact_image)
    assert_close_enough(alpha, exact_alpha)


@given(seed=st.integers(0, 10_000), count=st.integers(8, 80))
@settings(max_examples=15, deadline=None)
def test_pictures_of_degenerate_gaussians_agree_with_the_float64_oracle(seed: int, count: int) -> None:
    scene = cloud(count, 40, 30, seed=seed)
    eighth = count // 8
    scene["scales"][:eighth] = 0
    scene["scales"][eighth : 2 * eighth] = 1e4
    scene["opacities"][eighth : 2 * eighth] *= 0.2
    scene["opacities"][2 * eighth : 3 * eighth] = 0
    for k, name in enumerate(NAMES[:5], start=3):
        scene[name][k * eighth : (k + 1) * eighth] = (math.nan, math.inf, -math.inf)[seed % 3]
    image, alpha, _ = rasterization(**scene, width=40, height=30, near_plane=0.2)
    exact_image, exact_alpha = oracle(scene, 40, 30, near_plane=0.2)
    assert_close_enough(image, exact_image)
    assert_close_enough(alpha, exact_alpha)


@pytest.mark.parametrize("equal_axes", [True, False])
def test_pictures_from_inside_the_cloud_agree_with_the_float64_oracle(equal_axes: bool) -> None:
    scene = cloud(400, 48, 36, seed=5)
    scene["means"] = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    scene["scales"] = 0.02 + scene["scales"][:, :1].expand(-1, 3) if equal_axes else 0.02 + scene["scales"]
    # Neither a rotation nor of length one: what holds for balls has to hold for them in any frame.
    scene["viewmats"][1, :3, :3] *= torch.tensor([[1.0], [1.3], [0.8]])
    image, alpha, _ = rasterization(**scene, width=48, height=36, near_plane=0.1)
    exact_image, exact_alpha = oracle(scene, 48, 36, near_plane=0.1)
    assert alpha.mean() > 0.5
    assert_close_enough(image, exact_image)
    assert_close_enough(alpha, exact_alpha)


def test_gaussians_of_equal_depth_are_blended_by_index_in_every_tile() -> None:
    scene = cloud(300, 150, 90)
    scene["means"][:, 2] = torch.tensor((2.0, 1.5)).repeat(150)
    starts, members = tile_lists(*(scene[name] for name in NAMES[:5]), scene["viewmats"][0], scene["Ks"][0], 150, 90)
    assert len(starts) == math.ceil(150 / TILE_WIDTH) * math.ceil(90 / TILE_HEIGHT) + 1
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        depths = scene["means"][members[first:last], 2]
        expected = sorted(range(last - first), key=lambda i: (float(depths[i]), int(members[first + i])))
        assert expected == list(range(last - first))


def test_expected_depth_agrees_with_the_float64_oracle() -> None:
    scene = cloud(200, 40, 30)
    image, alpha, _ = rasterization(**scene, width=40, height=30, render_mode="RGB+ED")
    exact, _ = oracle(scene, 40, 30, render_mode="RGB+ED")
    assert image.shape == (2, 30, 40, 4) and alpha.shape == (2, 30, 40, 1)
    error = ((image.double() - exact).abs()[..., 3] / exact[..., 3].clamp(min=1e-3))[alpha[..., 0] > 0.05]
    assert error.median() < 1e-5 and error.max() < 0.05


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    scene = cloud(6000, 70, 50)
    pictures = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        pictures.append(rasterization(**scene, width=70, height=50, render_mode="RGB+ED")[:2])
    for image, alpha in pictures[1:]:
        assert torch.equal(image, pictures[0][0]) and torch.equal(alpha, pictures[0][1])


def test_one_gaussian_in_the_centre_is_what_one_computes_by_hand() -> None:
    viewmats, Ks = camera(9, 7, focal=40)
    image, alpha, info = rasterization(**one((0.0, 0.0, 2.0)), viewmats=viewmats, Ks=Ks, width=9, height=7)
    variance = (40 * 0.1 / 2) ** 2 + 0.3
    # The optical axis meets the centre of pixel (3, 4); two columns further sigma is 2**2 / 2 / variance.
    assert alpha[0, 3, 4, 0] == pytest.approx(0.999)
    assert alpha[0, 3, 6, 0] == pytest.approx(math.exp(-2 / variance), rel=1e-4)
    torch.testing.assert_close(image[0, 3, 4], 0.999 * torch.tensor((0.2, 0.4, 0.8)))
    torch.testing.assert_close(image[0].flip(0, 1), image[0])
    assert info["means2d"].tolist() == [[[4.5, 3.5]]] and info["depths"].tolist() == [[2.0]]
    assert info["radii"].tolist() == [[[math.ceil(3.33 * math.sqrt(variance))] * 2]]


def test_the_nearer_gaussian_hides_the_farther_one_and_ties_go_by_index() -> None:
    viewmats, Ks = camera(5, 5)
    pair = {name: value.repeat(2, *(1,) * (value.ndim - 1)) for name, value in one((0.0, 0.0, 2.0)).items()}
    pair["colors"] = torch.eye(3)[:2]
    for depths, winner in (((2.0, 1.0), 1), ((1.0, 2.0), 0), ((2.0, 2.0), 0)):
        pair["means"] = torch.tensor([[0, 0, depths[0]], [0, 0, depths[1]]])
        image, _, _ = rasterization(**pair, viewmats=viewmats, Ks=Ks, width=5, height=5)
        assert image[0, 2, 2].argmax() == winner


def test_what_no_gaussian_covers_is_a_hole_over_the_background() -> None:
    viewmats, Ks = camera(40, 20)
    background = torch.tensor([[0.5, 0.25, 0.125]])
    left = one((-0.4, 0.0, 2.0), scale=0.05)
    image, alpha, _ = rasterization(
        **left, viewmats=viewmats, Ks=Ks, width=40, height=20, backgrounds=background, render_mode="RGB+ED"
    )
    assert alpha[0, 10, 12, 0] > 0.5
    assert (
        (alpha[0, :, 20:] == 0).all()
        and (image[0, :, 20:, :3] == background[0]).all()
        and (image[0, :, 20:, 3] == 0).all()
    )


def test_cameras_of_a_batch_are_rendered_as_each_alone() -> None:
    scene = cloud(100, 20, 24)
    together, _, _ = rasterization(**scene, width=20, height=24)
    for c in range(2):
        alone = scene | {"viewmats": scene["viewmats"][c : c + 1], "Ks": scene["Ks"][c : c + 1]}
        assert torch.equal(rasterization(**alone, width=20, height=24)[0][0], together[c])


def test_many_cameras_are_rendered_as_each_alone_by_any_number_of_threads() -> None:
    scene = cloud(100, 20, 24)
    many = scene | {name: scene[name].repeat(9, 1, 1) for name in ("viewmats", "Ks")}
    expected = rasterization(**scene, width=20, height=24)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        image, alpha, info = rasterization(**many, width=20, height=24)
        assert torch.equal(image, expected[0].repeat(9, 1, 1, 1)) and torch.equal(alpha, expected[1].repeat(9, 1, 1, 1))
        assert torch.equal(info["conics"], expected[2]["conics"].repeat(9, 1, 1))


def test_no_gaussian_gives_the_background() -> None:
    scene = cloud(4, 10, 6)
    empty = {name: value if name in ("viewmats", "Ks") else value[:0] for name, value in scene.items()}
    image, alpha, info = rasterization(**empty, width=10, height=6, backgrounds=torch.full((2, 3), 0.5))
    assert (image == 0.5).all() and (alpha == 0).all() and info["means2d"].shape == (2, 0, 2)


def test_an_image_of_one_pixel_is_rendered() -> None:
    viewmats, Ks = camera(1, 1)
    image, alpha, _ = rasterization(**one((0.0, 0.0, 2.0)), viewmats=viewmats, Ks=Ks, width=1, height=1)
    assert image.shape == (1, 1, 1, 3) and alpha.item() == pytest.approx(0.999)


@pytest.mark.parametrize("name", NAMES[:5])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("equal_axes", [True, False])
def test_a_gaussian_of_which_a_number_is_not_finite_is_not_drawn(name: str, value: float, equal_axes: bool) -> None:
    scene = cloud(12, 20, 16)
    if equal_axes:
        scene["scales"] = scene["scales"][:, :1].repeat(1, 3)
    without = {key: tensor if key in ("viewmats", "Ks") else tensor[1:] for key, tensor in scene.items()}
    expected = rasterization(**without, width=20, height=16, render_mode="RGB+ED")[:2]
    for column in range(scene[name][0].numel()):
        changed = scene[name].clone()
        changed[0].view(-1)[column] = value
        image, alpha, info = rasterization(**scene | {name: changed}, width=20, height=16, render_mode="RGB+ED")
        assert torch.equal(image, expected[0]) and torch.equal(alpha, expected[1])
        assert (info["radii"][:, 0] == 0).all() and all(
            torch.isfinite(info[key]).all() for key in ("means2d", "conics")
        )


@pytest.mark.parametrize(
    "mean", [(0.0, 0.0, -2.0), (0.0, 0.0, 0.001), (math.nan, 0.0, 2.0), (0.0, 0.0, math.nan), (9.0, 0.0, 1.0)]
)
def test_gaussians_behind_beside_or_nowhere_draw_nothing(mean: tuple[float, float, float]) -> None:
    viewmats, Ks = camera(16, 16)
    image, alpha, info = rasterization(**one(mean), viewmats=viewmats, Ks=Ks, width=16, height=16)
    assert (image == 0).all() and (alpha == 0).all() and (info["radii"] == 0).all()


def test_degenerate_gaussians_are_defined() -> None:
    viewmats, Ks = camera(16, 16)
    point = one((0.0, 0.0, 2.0), scale=0.0)
    assert rasterization(**point, viewmats=viewmats, Ks=Ks, width=16, height=16)[1].max() > 0.2
    assert rasterization(**point, viewmats=viewmats, Ks=Ks, width=16, height=16, eps2d=0)[1].max() == 0
    vast = one((0.0, 0.0, 0.02), scale=1e6)
    assert rasterization(**vast, viewmats=viewmats, Ks=Ks, width=16, height=16)[1].min() > 0.99
    unturned = one((0.0, 0.0, 2.0)) | {"quats": torch.zeros(1, 4)}
    expected = rasterization(**one((0.0, 0.0, 2.0)), viewmats=viewmats, Ks=Ks, width=16, height=16)[0]
    assert torch.equal(rasterization(**unturned, viewmats=viewmats, Ks=Ks, width=16, height=16)[0], expected)


def test_gradients_of_the_oracle_are_right() -> None:
    scene = {name: value.double() for name, value in cloud(4, 6, 5, seed=3).items()}
    scene["means"][:, 2] = torch.tensor((1.5, 2.0, 2.5, 3.0))
    scene["scales"] += 0.1
    leaves = tuple(scene[name].requires_grad_() for name in NAMES[:5])
    cameras = (scene["viewmats"][:1], scene["Ks"][:1])
    assert torch.autograd.gradcheck(lambda *g: rasterization_reference(*g, *cameras, 6, 5)[0], leaves, fast_mode=True)


def test_gsplat_without_cuda_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="backend 'cpu' or 'auto'"):
        rasterization(**cloud(2, 8, 8), width=8, height=8, backend="gsplat")


def test_inputs_that_do_not_fit_are_named() -> None:
    scene = cloud(3, 8, 8)
    wrong = (
        ({"quats": torch.zeros(3, 3)}, "quats is"),
        ({"width": 0}, "no pixel"),
        ({"height": 2**16 + 1}, "too large"),
        ({"near_plane": 2.0, "far_plane": 1.0}, "near_plane"),
        ({"render_mode": "depth"}, "render_mode"),
        ({"backend": "cuda"}, "unknown backend"),
        ({"colors": scene["colors"].clone().requires_grad_()}, "no backward"),
    )
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            rasterization(**{**scene, "width": 8, "height": 8, **change})


def test_importing_the_package_needs_torch_alone() -> None:
    code = "import sys, more4d_kernels; assert not {'numba', 'gsplat'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_projection_agrees_with_gsplats_own_reference() -> None:
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    scene = cloud(300, 40, 30)
    _, _, info = rasterization(**scene, width=40, height=30)
    covariances, _ = _quat_scale_to_covar_preci(scene["quats"], scene["scales"])
    assert covariances is not None
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        scene["means"], covariances, scene["viewmats"], scene["Ks"], 40, 30
    )
    drawn = (info["radii"] > 0).all(-1)
    # gsplat's twin does not shrink the box of a translucent Gaussian, as its CUDA kernel and ours do.
    assert ((radii > 0).all(-1) >= drawn).all() and (info["radii"] <= radii).all() and drawn.sum() > 100
    for name, theirs in (("means2d", means2d), ("depths", depths), ("conics", conics)):
        torch.testing.assert_close(info[name][drawn], theirs[drawn], rtol=1e-3, atol=1e-4)


def test_tiles_hold_what_gsplats_own_intersection_finds_but_for_what_touches_no_pixel_of_them() -> None:
    from gsplat.cuda._torch_impl import _isect_offset_encode, _isect_tiles

    width, height = 200, 150
    across, down = math.ceil(width / TILE_WIDTH), math.ceil(height / TILE_HEIGHT)
    scene = cloud(400, width, height) | dict(zip(("viewmats", "Ks"), camera(width, height, focal=150), strict=True))
    scene["means"][:100, 2] += torch.arange(100) * 1e-3
    info = rasterization(**scene, width=width, height=height)[2]
    starts, members = tile_lists(
        *(scene[name] for name in NAMES[:5]), scene["viewmats"][0], scene["Ks"][0], width, height
    )
    # gsplat's tiles are square: ours are, of a picture that is stretched.
    stretch = torch.tensor((1, TILE_WIDTH / TILE_HEIGHT))
    _, ids, theirs = _isect_tiles(
        info["means2d"] * stretch, (info["radii"] * stretch).int(), info["depths"], TILE_WIDTH, across, down
    )
    tiles = torch.repeat_interleave(torch.arange(across * down), starts.diff())
    ours = list(zip(tiles.tolist(), members.tolist(), strict=True))
    common = torch.tensor([pair in set(ours) for pair in zip((ids >> 32).tolist(), theirs.tolist(), strict=True)])
    assert common.sum() == len(ours) > 300 and torch.equal(theirs[common].long(), members)
    assert torch.equal(_isect_offset_encode(ids[common], 1, across, down).flatten(), starts[:-1].int())
    for tile, g in zip((ids >> 32)[~common].tolist(), theirs[~common].tolist(), strict=True):
        lone = {name: scene[name][g : g + 1] for name in NAMES[:5]} | {key: scene[key] for key in ("viewmats", "Ks")}
        top, left = tile // across * TILE_HEIGHT, tile % across * TILE_WIDTH
        assert oracle(lone, width, height)[1][0, top : top + TILE_HEIGHT, left : left + TILE_WIDTH].max() == 0


def test_rendering_works_in_a_process_forked_after_rendering_and_in_many_python_threads() -> None:
    scene = cloud(200, 40, 30)
    expected = rasterization(**scene, width=40, height=30)[0]
    with ThreadPoolExecutor(3) as pool:
        pictures = list(pool.map(lambda _: rasterization(**scene, width=40, height=30)[0], range(6)))
    assert all(torch.equal(picture, expected) for picture in pictures)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(rasterization(**scene, width=40, height=30)[0], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_info_is_gsplats_dict() -> None:
    viewmats, Ks = camera(9, 7)
    info = rasterization(**one((0.0, 0.0, 2.0)), viewmats=viewmats, Ks=Ks, width=9, height=7)[2]
    assert type(info) is dict
    assert list(info) == ["means2d", "conics", "depths", "radii", "width", "height", "n_cameras"]
    assert info["radii"].dtype == torch.int32 and info["depths"].tolist() == [[2.0]]
