from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.data.video import read_video
from more4d.geometry.errors import Truth, psnr, squared_error, trajectory_error
from more4d.models.bundle import Models, build_strag, build_vism
from more4d.pipelines.trajectories import TrajectoryPipeline
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.flow import FlowObjective, FlowSettings
from more4d.training.latents import cached_conditions
from more4d.training.strag import STraGObjective
from more4d.training.validation import (
    CodecValidation,
    TrajectoryValidation,
    ValidationSettings,
    ViewValidation,
    as_found,
    evenly,
    motion_colours,
    pixels,
    sample_latents,
)
from more4d.training.vism import ViSMObjective
from more4d_kernels import denormalize_motion
from torch import Tensor, nn

SETTINGS = ValidationSettings(samples=3, batch_size=2, steps=2)
FLOW = FlowSettings(prediction="sample")


@pytest.fixture
def motions(models: Models, samples: list[Sample]) -> DirectLatents:
    """Three scenes as the latent cache gives them, unrounded."""
    return DirectLatents(models, samples, decoded=True, dtype="float32")


@pytest.fixture
def views(models: Models, samples: list[Sample]) -> DirectViews:
    """The scenes' own cameras and one novel view."""
    return DirectViews(models, samples, decoded=True, dtype="float32")


@pytest.fixture
def strag(models: Models, motions: DirectLatents) -> STraGObjective:
    """A random STraG in training."""
    torch.manual_seed(0)
    network = build_strag(models.config).train()
    return STraGObjective(network, network, models.vae, motions, cached_conditions, FLOW)


@pytest.fixture
def vism(models: Models, views: DirectViews) -> ViSMObjective:
    """A random ViSM in training."""
    torch.manual_seed(0)
    network = build_vism(models.config).train()
    return ViSMObjective(network, network, models.vae, views, cached_conditions, FLOW)


def predicting(objective: Any, monkeypatch: pytest.MonkeyPatch, answer: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """The transformer's answers come from the batch."""
    monkeypatch.setattr(objective, "predict", lambda batch, *_: answer(batch))


def truth_of(sample: Sample) -> Truth:
    return Truth(sample.points, sample.visibility)


def test_errors_are_those_that_evaluation_finds_in_the_points_themselves(
    models: Models, samples: list[Sample], strag: STraGObjective, motions: DirectLatents
) -> None:
    validation = TrajectoryValidation(strag, motions, SETTINGS, None, fps=8.0)
    found = validation(1)
    with torch.no_grad(), as_found(strag.module):
        _, latents = validation.generate([0, 1, 2])
        decoded = models.vae.decode_motion(latents)
    points0, cameras = (
        torch.from_numpy(np.stack(x)) for x in zip(*((s.points[0], s.intrinsics) for s in samples), strict=True)
    )
    points = denormalize_motion(decoded, points0, cameras, image_size=samples[0].depth.shape).numpy()
    for name, moving in (("trajectory_error", False), ("trajectory_error_moving", True)):
        total, count, static = 0.0, 0, 0.0
        for sample, predicted in zip(samples, points, strict=True):
            truth = truth_of(sample)
            counted = truth.counted & truth.moving if moving else truth.counted
            own = trajectory_error(predicted, truth, truth.moving if moving else None)
            total, count = total + own * counted.sum(), count + int(counted.sum())
            static += float(np.linalg.norm(sample.points - sample.points[0], axis=-1)[counted].sum())
        assert found[name] == pytest.approx(total / count, rel=1e-3)
        assert found[name.replace("error", "ratio")] == pytest.approx(total / static, rel=1e-3)
    assert found["score"] == found["trajectory_error"]


def test_a_network_that_knows_the_answer_errs_by_the_codec_alone_and_one_that_answers_nothing_as_if_nothing_moved(
    models: Models, strag: STraGObjective, motions: DirectLatents, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = TrajectoryValidation(strag, motions, SETTINGS, None, fps=8.0)
    predicting(strag, monkeypatch, lambda batch: batch["motion_latent"])
    best = validation(1)
    codec = CodecValidation(models.vae, motions, SETTINGS, None, fps=8.0)(1)
    assert best["trajectory_error"] == pytest.approx(codec["codec_error"], rel=1e-3)
    assert best["trajectory_error_moving"] == pytest.approx(codec["codec_error_moving"], rel=1e-3)
    nothing = models.vae.encode_motion(torch.zeros(1, 3, 5, 32, 48))
    predicting(strag, monkeypatch, lambda batch: nothing.expand_as(batch["motion_latent"]))
    still = validation(1)
    assert still["trajectory_ratio_moving"] == pytest.approx(1.0, abs=0.02)
    assert best["trajectory_ratio_moving"] < still["trajectory_ratio_moving"]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_what_is_sampled_is_what_the_pipeline_generates_from_the_same_noise(
    models: Models, samples: list[Sample], motions: DirectLatents, guidance: float
) -> None:
    objective = STraGObjective(models.strag, models.strag, models.vae, motions, cached_conditions, FLOW)
    batch = motions.batch(torch.arange(2))
    noise = torch.randn(2, 16, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    settings = SETTINGS.model_copy(update={"guidance": guidance, "steps": 3})
    with torch.no_grad():
        found = sample_latents(objective, batch, noise, settings, models.config.generation.shift)
    pipeline = TrajectoryPipeline.from_models(models)
    pipeline.set_progress_bar_config(disable=True)
    expected: Any = pipeline(
        torch.from_numpy(np.stack([s.video[0] for s in samples[:2]])).permute(0, 3, 1, 2),
        [s.caption for s in samples[:2]],
        depth=np.stack([s.depth for s in samples[:2]]),
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=noise,
        output_type="latent",
    )
    assert torch.allclose(found, expected.trajectories, atol=1e-4)


def test_it_finds_the_same_again_whatever_the_batches_and_writes_the_same_videos(
    strag: STraGObjective, motions: DirectLatents, tmp_path: Path
) -> None:
    found, files = [], []
    for number, batch_size in enumerate((1, 2, 2)):
        settings = SETTINGS.model_copy(update={"batch_size": batch_size})
        validation = TrajectoryValidation(strag, motions, settings, tmp_path / str(number), fps=8.0)
        torch.manual_seed(number)
        found.append(validation(100))
        files.append(validation.videos(100))
    assert found[1] == found[2]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert sorted(files[0]) == [f"scene-{n:05d}" for n in range(3)]
    assert files[1]["scene-00000"] == tmp_path / "1" / "step-000100" / "scene-00000.mp4"
    assert all(files[1][name].read_bytes() == files[2][name].read_bytes() for name in files[1])
    frames, fps = read_video(files[0]["scene-00001"])
    assert frames.shape == (5, 32, 96, 3) and fps == 8.0


def test_modes_and_random_numbers_are_left_as_they_were(strag: STraGObjective, motions: DirectLatents) -> None:
    strag.module.blocks[0].eval()  # type: ignore[union-attr, operator]
    modes = [module.training for module in strag.module.modules()]
    torch.manual_seed(5)
    before, seen = torch.get_rng_state(), []
    strag.module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    draw = lambda number, generated, true: pixels(torch.rand(3, 5, 32, 48))  # noqa: E731
    TrajectoryValidation(strag, motions, SETTINGS, None, fps=8.0, draw=draw)(1)
    assert not any(seen) and len(seen) == 2 * 2
    assert [module.training for module in strag.module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in strag.module.parameters())


def test_modes_are_given_back_after_an_error_too() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="oh"), as_found(network):
        assert not network.training
        torch.rand(3)
        raise RuntimeError("oh")
    assert [module.training for module in network.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_drawing_of_ones_own_is_shown_for_the_first_samples_alone(
    strag: STraGObjective, motions: DirectLatents, tmp_path: Path
) -> None:
    drawn: list[int] = []

    def draw(number: int, generated: Tensor, true: Tensor) -> np.ndarray:
        drawn.append(number)
        assert generated.shape == true.shape == (3, 5, 32, 48)
        # A side that is odd in number.
        return np.zeros((5, 33, 48, 3), np.uint8)

    settings = SETTINGS.model_copy(update={"videos": 2})
    validation = TrajectoryValidation(strag, motions, settings, tmp_path, fps=8.0, draw=draw)
    validation(7)
    assert drawn == [0, 1]
    assert read_video(validation.videos(7)["scene-00000"])[0].shape == (5, 32, 48, 3)
    assert validation.videos(8) == {}


def test_samples_of_different_sizes_are_batched_apart(
    models: Models,
    samples: list[Sample],
    narrow: list[Sample],
    strag: STraGObjective,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = DirectLatents(models, [samples[0], narrow[0], samples[1], narrow[1]], decoded=True, dtype="float32")
    settings = SETTINGS.model_copy(update={"samples": 4})
    together = TrajectoryValidation(strag, both, settings, None, fps=8.0)
    find, batches = together.find, []
    monkeypatch.setattr(together, "find", lambda numbers: (batches.append(list(numbers)), find(numbers))[1])
    assert np.isfinite(list(together(1).values())).all()
    assert sorted(batches) == [[0, 2], [1, 3]]


def test_the_psnr_of_views_is_that_of_the_holes(
    models: Models, vism: ViSMObjective, views: DirectViews, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"samples": 4})
    validation = ViewValidation(vism, views, settings, tmp_path, fps=8.0)
    predicting(vism, monkeypatch, lambda batch: batch["video_latent"])
    found = validation(3)
    batch = views.batch(torch.arange(4))
    decoded = models.vae.decode_video(batch["video_latent"])
    sums, everywhere = np.zeros(2), np.zeros(2)
    for ours, truth, holes in zip(decoded, batch["video"], batch["holes"], strict=True):
        sums += squared_error(pixels(ours), pixels(truth), holes.bool().numpy())
        everywhere += squared_error(pixels(ours), pixels(truth))
    assert found["hole_psnr"] == pytest.approx(psnr(*sums), abs=1e-6)
    assert found["video_psnr"] == pytest.approx(psnr(*everywhere), abs=1e-6)
    assert found["score"] == -found["hole_psnr"]
    files = validation.videos(3)
    assert len(files) == 4 and all("/" not in name for name in files)
    assert read_video(next(iter(files.values())))[0].shape == (5, 32, 3 * 48, 3)


def test_a_vism_that_answers_grey_completes_worse(
    models: Models, vism: ViSMObjective, views: DirectViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = ViewValidation(vism, views, SETTINGS, None, fps=8.0)
    predicting(vism, monkeypatch, lambda batch: batch["video_latent"])
    right = validation(1)
    predicting(vism, monkeypatch, lambda batch: torch.zeros_like(batch["video_latent"]))
    assert right["hole_psnr"] > validation(1)["hole_psnr"]
    assert validation(1)["score"] > right["score"]


def test_the_codecs_errors_grow_where_its_decoder_is_broken(
    models: Models, motions: DirectLatents, samples: list[Sample], tmp_path: Path
) -> None:
    validation = CodecValidation(models.vae, motions, SETTINGS, tmp_path, fps=8.0)
    found = validation(1)
    assert set(found) == {"codec_error", "codec_error_moving", "codec_ratio", "codec_ratio_moving", "score"}
    bias = models.vae.trajectory_decoder.net.conv_out.bias
    assert bias is not None
    kept = bias.detach().clone()
    try:
        bias.data += 0.05
        assert validation(2)["codec_error"] > found["codec_error"]
    finally:
        bias.data.copy_(kept)
    assert validation(3) == found
    assert len(validation.videos(1)) == len(samples)


def test_the_codec_is_measured_on_videos_where_there_are_any(models: Models, motions: DirectLatents) -> None:
    class WithVideo:
        size = motions.size

        def batch(self, indices: Tensor) -> dict[str, Tensor]:
            video = torch.rand(len(indices), 3, 5, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
            return motions.batch(indices) | {"video": video}

    settings = SETTINGS.model_copy(update={"samples": 1})
    found = CodecValidation(models.vae, WithVideo(), settings, None, fps=8.0)(1)
    video = WithVideo().batch(torch.arange(1))["video"]
    decoded = models.vae.decode_video(models.vae.encode_video(video))
    expected = psnr(*squared_error(pixels(decoded[0]), pixels(video[0])))
    assert found["video_psnr"] == pytest.approx(expected, abs=1e-6)


def test_an_objective_validates_by_what_it_is_given(strag: STraGObjective, motions: DirectLatents) -> None:
    assert strag.validate(1) == {}
    strag.validation = TrajectoryValidation(cast(FlowObjective, strag), motions, SETTINGS, None, fps=8.0)
    assert strag.validate(1) == strag.validation(1)


def test_samples_are_spread_evenly_and_the_same_each_time() -> None:
    assert evenly(10, 3) == [0, 3, 6]
    assert evenly(2, 5) == [0, 1]
    with pytest.raises(ValueError, match="no held-out samples to validate on"):
        evenly(0, 4)


def test_motion_is_shown_in_colours_of_one_scale() -> None:
    true = torch.zeros(3, 2, 4, 4)
    true[0, 1] = 0.5
    shown = motion_colours(0, true / 2, true)
    assert shown.shape == (2, 4, 8, 3)
    assert shown[0, 0, 0].tolist() == [128, 128, 128]
    assert shown[1, 0].tolist() == [[191, 128, 128]] * 4 + [[255, 128, 128]] * 4
