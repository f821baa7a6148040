from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.inference.views import complete_view
from more4d.models.bundle import Models
from more4d.models.flow_matching import seeded_noise
from more4d.pipelines import ViewPipeline
from PIL import Image

from .conftest import quiet


def run(pipeline: ViewPipeline, given: dict[str, Any], **changes: Any) -> Any:
    """The frames."""
    found: Any = pipeline(**(given | changes))
    return found.frames


def test_inference_samples_with_the_pipeline(
    views: ViewPipeline, models: Models, samples: list[Sample], render: dict[str, Any]
) -> None:
    s = samples[0]
    expected = complete_view(models, s.render, s.render_mask, s.video[0], s.caption, steps=3, guidance=2.0, seed=4)
    noise = seeded_noise(torch.Size((16, 2, 4, 6)), 4)
    found = run(views, render, latents=noise, guidance_scale=2.0, output_type="uint8")
    assert found.dtype == np.uint8 and np.array_equal(found[0], expected)


def test_frames_come_in_every_usual_form(views: ViewPipeline, render: dict[str, Any]) -> None:
    pixels = run(views, render, output_type="uint8")
    floats, tensor = run(views, render), run(views, render, output_type="pt")
    assert np.abs(floats * 255 - pixels).max() <= 0.51
    assert np.array_equal(floats, tensor.permute(0, 1, 3, 4, 2).numpy())
    pil = run(views, render, output_type="pil")
    assert len(pil) == 1 and np.array_equal(np.stack([np.asarray(frame) for frame in pil[0]]), pixels[0])
    latent = run(views, render, output_type="latent")
    assert torch.equal(((views.vae.decode_video(latent) + 1) / 2).clamp(0, 1).transpose(1, 2), tensor)


def test_a_video_may_come_in_any_usual_form(views: ViewPipeline, render: dict[str, Any]) -> None:
    array = render["video"]
    plain = run(views, render)
    tensor = torch.from_numpy(array).permute(3, 0, 1, 2)
    for video in ([Image.fromarray(frame) for frame in array], array[None], tensor, tensor[None]):
        assert np.array_equal(run(views, render, video=video), plain)
    assert np.array_equal(run(views, render, mask=torch.from_numpy(render["mask"]).float() * 0.7), plain)


def test_the_mask_and_the_photo_are_read(views: ViewPipeline, render: dict[str, Any]) -> None:
    plain = run(views, render)
    assert not np.array_equal(run(views, render, mask=np.ones_like(render["mask"])), plain)
    first = run(views, render, image=None)
    assert np.array_equal(first, run(views, render, image=render["video"][0]))
    assert not np.array_equal(first, plain)


def test_embeddings_can_be_kept_and_the_encoders_left_out(models: Models, render: dict[str, Any]) -> None:
    full = quiet(ViewPipeline.from_models(models))
    image = torch.from_numpy(render["image"]).permute(2, 0, 1)[None]
    kept = {"prompt_embeds": full.encode_prompt(render["prompt"]), "image_embeds": full.encode_image(image)}
    bare = quiet(ViewPipeline(models.vae, models.vism, full.scheduler, generation=full.generation.model_dump()))
    assert np.array_equal(run(bare, render | kept, prompt=None), run(full, render))


def test_guidance_goes_beyond_the_prompt(views: ViewPipeline, render: dict[str, Any]) -> None:
    ends = [run(views, render, guidance_scale=g, num_inference_steps=1, output_type="latent") for g in (1.0, 2.0, 3.0)]
    assert torch.allclose(ends[2] - ends[1], ends[1] - ends[0], atol=1e-4)
    assert not torch.allclose(ends[0], ends[1])


def test_sizes_and_shapes_that_do_not_fit_are_named(views: ViewPipeline, render: dict[str, Any]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"video": render["video"][:4], "mask": render["mask"][:4]}, r"num_frames=4 must be 4n \+ 1"),
        ({"output_type": "numpy"}, "output_type='numpy' must be one of uint8, np, pt, pil, latent"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be a whole number of at least 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 must be a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number of at least 1"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number of at least 1"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5 must be a finite number of at least 1"),
        ({"height": 0}, "height=0 and width=48 must be multiples of 16"),
        ({"width": 0}, "height=32 and width=0 must be multiples of 16"),
        ({"height": 64}, "the video is 32x48 and 64x48 is to be generated"),
        ({"mask": render["mask"][1:]}, r"mask is \(1, 4, 32, 48\); a video \(1, 3, 5, 32, 48\) needs \(1, 5, 32, 48\)"),
        ({"video": render["video"].astype(np.float64)}, r"video must be uint8 \[T, H, W, 3\]"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            run(views, render, **changes)
