import dataclasses
from typing import Any, cast

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.geometry.cameras import move_intrinsics
from more4d.geometry.images import fit_image
from more4d.geometry.published import motion_intrinsics
from more4d.inference.trajectories import generate_trajectories
from more4d.models.architectures import Architecture
from more4d.models.bundle import Models, build_strag
from more4d.models.flow_matching import seeded_noise
from more4d.models.strag import STraGTransformer
from more4d.models.vae import MotionVAE
from more4d.pipelines import TrajectoryPipeline
from more4d.pipelines.inputs import pictures
from PIL import Image
from torch import Tensor

from .conftest import quiet


def run(pipeline: TrajectoryPipeline, given: dict[str, Any], **changes: Any) -> np.ndarray:
    """The trajectories [B, T, H, W, 3]."""
    found: Any = pipeline(**(given | changes))
    return found.trajectories


def test_inference_samples_with_the_pipeline(
    trajectories: TrajectoryPipeline, guided: Models, samples: list[Sample]
) -> None:
    sample = samples[0]
    given = {"depth": sample.depth, "intrinsics": sample.intrinsics}
    expected = generate_trajectories(guided, sample.video[0], sample.caption, **given, steps=3, guidance=2.0, seed=4)
    noise = seeded_noise(torch.Size((16, 2, 4, 6)), 4)
    steps = {"num_inference_steps": 3, "guidance_scale": 2.0, "latents": noise}
    found = run(trajectories, {"image": sample.video[0], "prompt": sample.caption} | given | steps)
    assert (found.shape, found.dtype) == ((1, *expected.shape), np.float32)
    assert np.array_equal(found[0], expected)


def test_the_generator_decides_and_draws_each_picture_its_own_noise(
    trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    def draw(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    alone = scene | {"latents": None}
    first = run(trajectories, alone, generator=draw(3))
    assert np.array_equal(first, run(trajectories, alone, generator=draw(3)))
    assert np.array_equal(first[0], run(trajectories, alone, latents=seeded_noise(torch.Size((16, 2, 4, 6)), 3))[0])
    assert not np.array_equal(first, run(trajectories, alone, generator=draw(4)))
    both = alone | {"image": np.stack([scene["image"]] * 2), "depth": np.stack([scene["depth"]] * 2)}
    pair = run(trajectories, both, generator=[draw(3), draw(4)])
    assert np.allclose(pair[0], first[0], atol=1e-4) and not np.allclose(pair[1], first[0], atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_modulation_is_made_once_for_all_steps_and_branches(
    trajectories: TrajectoryPipeline, scene: dict[str, Any], guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(trajectories, scene, guidance_scale=guidance)
    made: list[Tensor] = []
    original = STraGTransformer.precompute_modulation

    def count(self: STraGTransformer, features: Tensor, rows: int, columns: int) -> Any:
        made.append(features)
        return original(self, features, rows, columns)

    monkeypatch.setattr(STraGTransformer, "precompute_modulation", count)
    assert np.array_equal(run(trajectories, scene, guidance_scale=guidance), plain)
    assert len(made) == 1
    assert not np.allclose(run(trajectories, scene, motion_features=made[0] * 0 + 1), plain, atol=1e-5)


def test_embeddings_can_be_kept_and_the_encoders_left_out(guided: Models, scene: dict[str, Any]) -> None:
    full = quiet(TrajectoryPipeline.from_models(guided))
    rgb = pictures(scene["image"])
    kept = {
        "prompt_embeds": full.encode_prompt(scene["prompt"]), "image_embeds": full.encode_image(rgb),
        "motion_features": full.encode_motion(rgb),
    }  # fmt: skip
    bare = quiet(TrajectoryPipeline(guided.vae, guided.strag, full.scheduler, generation=full.generation.model_dump()))
    found = run(bare, scene | kept, prompt=None, guidance_scale=2.0)
    assert np.array_equal(found, run(full, scene, guidance_scale=2.0))
    for missing, reason in (
        ("prompt_embeds", "text encoder"),
        ("image_embeds", "image encoder"),
        ("motion_features", "motion encoder"),
    ):
        given = {k: v for k, v in kept.items() if k != missing}
        with pytest.raises(ValueError, match=f"has no {reason}.*give {missing}"):
            run(bare, scene | given, prompt=scene["prompt"] if missing == "prompt_embeds" else None)


def test_a_negative_prompt_takes_the_place_of_the_empty_one(
    trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    empty = run(trajectories, scene, guidance_scale=3.0)
    other = run(trajectories, scene, guidance_scale=3.0, negative_prompt="a patch")
    assert not np.array_equal(empty, other)
    embeds = trajectories.encode_prompt("a patch")
    assert np.array_equal(other, run(trajectories, scene, guidance_scale=3.0, negative_prompt_embeds=embeds))
    same = run(trajectories, scene, guidance_scale=3.0, negative_prompt=scene["prompt"])
    assert np.allclose(same, run(trajectories, scene, guidance_scale=1.0), atol=1e-4)
    zeros = torch.zeros_like(embeds)
    assert np.array_equal(empty, run(trajectories, scene, guidance_scale=3.0, negative_prompt_embeds=zeros))


def test_depth_and_camera_come_from_the_depth_network_where_they_are_not_given(
    trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    found: Any = trajectories(**dict(scene, depth=None, intrinsics=None))
    told = trajectories.depth_network.infer(pictures(scene["image"]))
    assert torch.equal(found.depth, told.depth) and torch.equal(found.intrinsics, told.intrinsics)
    assert np.allclose(found.trajectories[0, 0, ..., 2], told.depth[0], atol=1e-5)
    known: Any = trajectories(**dict(scene, depth=None))
    assert torch.equal(known.intrinsics[0], torch.from_numpy(scene["intrinsics"]))


def test_outputs_are_points_motion_or_the_latent(trajectories: TrajectoryPipeline, scene: dict[str, Any]) -> None:
    latent = run(trajectories, scene, output_type="latent")
    motion = run(trajectories, scene, output_type="motion", intrinsics=None)
    points = run(trajectories, scene, output_type="pt")
    assert [tuple(x.shape) for x in (latent, motion, points)] == [
        (1, 16, 2, 4, 6),
        (1, 3, 5, 32, 48),
        (1, 5, 32, 48, 3),
    ]
    assert torch.equal(trajectories.vae.decode_motion(latent), cast(Tensor, motion))
    assert np.array_equal(points, run(trajectories, scene))
    as_tuple = trajectories(**scene, return_dict=False)
    assert np.array_equal(as_tuple[0], points) and len(as_tuple) == 3


def test_motion_is_scaled_back_by_the_camera_that_the_checkpoint_names(models: Models, scene: dict[str, Any]) -> None:
    published = MotionVAE(models.config.motion_vae.model_copy(update={"motion_camera": "published"}))
    published.load_state_dict(models.vae.state_dict())
    pipeline = quiet(TrajectoryPipeline.from_models(dataclasses.replace(models, vae=published.eval())))
    scene["intrinsics"] = scene["intrinsics"] * np.array([[1.5], [1], [1]], np.float32)
    own, theirs = run(quiet(TrajectoryPipeline.from_models(models)), scene), run(pipeline, scene)
    assert np.array_equal(own[:, 0], theirs[:, 0]) and np.array_equal(own[..., 2], theirs[..., 2])
    camera = torch.from_numpy(scene["intrinsics"])
    ratio = float(camera[0, 0] / motion_intrinsics("published", camera, (32, 48))[0, 0])
    moved = (own - own[:, :1])[..., 0]
    assert ratio != 1 and np.allclose((theirs - theirs[:, :1])[..., 0], moved * ratio, atol=1e-4)


def test_a_picture_may_come_in_any_usual_form(trajectories: TrajectoryPipeline, scene: dict[str, Any]) -> None:
    array = scene["image"]
    plain = run(trajectories, scene)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for image in (Image.fromarray(array), [Image.fromarray(array)], array[None], tensor, tensor[None]):
        assert np.array_equal(run(trajectories, scene, image=image), plain)
    assert np.allclose(run(trajectories, scene, image=tensor / 255), plain, atol=1e-4)


def test_a_callback_sees_and_may_replace_the_latents_of_each_step(
    trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    seen: list[tuple[int, int]] = []

    def zero(pipeline: Any, step: int, timestep: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, pipeline.num_timesteps))
        assert set(given) == {"latents", "prompt_embeds"} and timestep > 0
        return {"latents": torch.zeros_like(given["latents"])}

    names = ("latents", "prompt_embeds")
    given = {"callback_on_step_end": zero, "callback_on_step_end_tensor_inputs": names, "output_type": "latent"}
    assert not run(trajectories, scene, **given).any()
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_a_callback_may_stop_the_walk(trajectories: TrajectoryPipeline, scene: dict[str, Any]) -> None:
    steps: list[int] = []

    def stop(pipeline: Any, step: int, timestep: Tensor, given: dict[str, Any]) -> None:
        steps.append(step)
        pipeline._interrupt = step == 1

    run(trajectories, scene, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert np.isfinite(run(trajectories, scene)).all()


def test_a_reference_may_be_given_to_a_transformer_that_takes_one(
    models: Models, architecture: Architecture, scene: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    taking = architecture.strag.model_copy(update={"reference_channels": 16})
    strag = build_strag(architecture.model_copy(update={"strag": taking})).eval().requires_grad_(False)
    pipeline = quiet(TrajectoryPipeline.from_models(dataclasses.replace(models, strag=strag)))
    reference = pipeline.encode_reference(pictures(scene["image"]))
    assert reference.shape == (1, 16, 4, 6)
    found = run(pipeline, scene, reference=reference)
    assert found.shape == (1, 5, 32, 48, 3)
    assert not np.array_equal(found, run(pipeline, scene))
    assert not np.array_equal(found, run(pipeline, scene, reference=torch.zeros_like(reference)))
    with pytest.raises(ValueError, match="built without reference_channels"):
        run(quiet(TrajectoryPipeline.from_models(models)), scene, reference=reference)


def test_the_checkpoint_says_which_reference_and_which_image_it_is_given(
    models: Models, architecture: Architecture, scene: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    taking = architecture.strag.model_copy(update={"reference_channels": 16})
    strag = build_strag(architecture.model_copy(update={"strag": taking})).eval().requires_grad_(False)
    found = {}
    for reference, clip_image in (("none", "photo"), ("photo", "photo"), ("zeros", "photo"), ("photo", "grey")):
        generation = models.config.generation.model_copy(update={"reference": reference, "clip_image": clip_image})
        config = models.config.model_copy(update={"generation": generation})
        pipeline = quiet(TrajectoryPipeline.from_models(dataclasses.replace(models, strag=strag, config=config)))
        found[reference, clip_image] = run(pipeline, scene)
    plain = quiet(TrajectoryPipeline.from_models(dataclasses.replace(models, strag=strag)))
    rgb = pictures(scene["image"])
    photo = plain.encode_reference(rgb)
    grey = plain.encode_image(torch.full_like(rgb, 127))
    np.testing.assert_allclose(found["photo", "photo"], run(plain, scene, reference=photo), atol=1e-5)
    zeros = torch.zeros_like(photo)
    np.testing.assert_allclose(found["zeros", "photo"], run(plain, scene, reference=zeros), atol=1e-5)
    both = run(plain, scene, reference=photo, image_embeds=grey)
    np.testing.assert_allclose(found["photo", "grey"], both, atol=1e-5)
    assert np.array_equal(found["none", "photo"], run(plain, scene))
    assert not np.allclose(found["photo", "photo"], both, atol=1e-5)


def test_sizes_and_shapes_that_do_not_fit_are_named(trajectories: TrajectoryPipeline, scene: dict[str, Any]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"num_frames": 6}, r"num_frames=6 must be 4n \+ 1, such as 5"),
        ({"num_frames": 0}, r"num_frames=0 must be 4n \+ 1, such as 5"),
        ({"output_type": "numpy"}, "output_type='numpy' must be one of np, pt, motion, latent"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be a whole number of at least 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 must be a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number of at least 1"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number of at least 1"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 must be a finite number of at least 1"),
        ({"height": 0}, "height=0 and width=48 must be multiples of 16"),
        ({"width": 0}, "height=32 and width=0 must be multiples of 16"),
        ({"height": 40}, "height=40 and width=48 must be multiples of 16"),
        ({"height": 64}, "the image is 32x48 and 64x48 is to be generated: fit it with"),
        ({"image": scene["image"][..., :1]}, r"image must be uint8 \[H, W, 3\]"),
        ({"image": scene["image"].astype(np.float32)}, r"image must be uint8 .* not float32 \(32, 48, 3\)"),
        ({"depth": scene["depth"][1:]}, r"depth is \(1, 31, 48\); images \(1, 3, 32, 48\) need \(1, 32, 48\)"),
        ({"intrinsics": np.zeros((2, 3, 3))}, r"intrinsics are \(2, 3, 3\); 1 images"),
        ({"prompt": ["a", "b"]}, "2 prompts were given for 1 pictures"),
        ({"prompt": None}, "give prompt or prompt_embeds, one of them"),
        ({"latents": torch.zeros(16, 2, 4, 5)}, r"latents are \(16, 2, 4, 5\), not \(1, 16, 2, 4, 6\)"),
        ({"latents": None, "generator": [torch.Generator()] * 2}, "2 generators were given for 1 pictures"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks are given latents, .*; noise is none of them"),
        ({"image": torch.full((3, 32, 48), 7.0)}, r"a floating image must be in 0\.\.1, not 7\.\.7"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(trajectories, scene, **changes)


def test_a_picture_of_another_size_is_fitted_with_its_camera(
    trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    """Twice as large, and wider by columns that the crop takes away again."""
    larger = np.kron(scene["image"], np.ones((2, 2, 1), np.uint8))
    larger = np.concatenate([larger, larger[:, :10], larger[:, :10]], axis=1)
    image, crop = fit_image(larger, 32, 48)
    camera = torch.tensor([[120.0, 0, 58], [0, 120, 32], [0, 0, 1]])
    free = {key: value for key, value in scene.items() if key != "depth"}
    found = run(trajectories, free, image=larger, intrinsics=camera)
    assert np.array_equal(found, run(trajectories, free, image=image, intrinsics=move_intrinsics(camera, crop)))
    with pytest.raises(ValueError, match="the image is 64x116 and 32x48 is to be generated"):
        run(trajectories, scene, image=larger)
