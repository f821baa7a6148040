"""What each encoder makes of a sample, and everything that this depends on.

Samples are encoded one by one: a sample's numbers must not change with its neighbours.

Suffixes: T frames, K latent frames, H height, W width, L text tokens, I image tokens, G motion patches, D width;
h = H/8, w = W/8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from more4d.data.deferred import is_deferred
from more4d.data.hashing import hash_file
from more4d.data.sample import Sample, SampleView
from more4d.models.architectures import Architecture
from more4d.models.bundle import VIDEO_VAE
from more4d.models.conditions import (
    clip_picture,
    depth_latent,
    fold_mask,
    image_latent,
    render_with_holes,
    to_unit_range,
)
from more4d.models.vae import MotionVAE
from more4d.training.cache.networks import CheckpointEncoders, Networks, hash_weights
from more4d.training.cache.rows import Row
from more4d.training.latents import true_motion
from more4d.training.view_source import video_tensor

OWN_VIEW = "original"
"""The clip's own camera among its views."""


@dataclass(frozen=True)
class Encoder:
    """One file of the cache: what is in a row, and what would change it."""

    name: str
    version: int
    """To be raised when `encode` computes something else."""
    encode: Callable[[Networks, Any], Row]
    """A sample's row; of an encoder of views, a view's (a Sample stands for its own camera)."""
    settings: Callable[[Architecture], dict[str, Any]]
    weights: Callable[[CheckpointEncoders], str] | None = None
    of_views: bool = False
    shared: bool = False
    """Whether every sample's row is the same: one is stored."""

    def identity(self, encoders: CheckpointEncoders) -> dict[str, Any]:
        """What tells its outputs apart from those of other weights, settings or code."""
        weights = None if self.weights is None else self.weights(encoders)
        settings = self.settings(encoders.config)
        return {"encoder": self.name, "version": self.version, "settings": settings, "weights": weights}


def views_of(sample: Sample) -> dict[str, Sample | SampleView]:
    """The cameras to train on by name: the clip's own, and novel ones where the truth is known. Nothing is decoded."""
    named = {name: view for name, view in sample.views.items() if is_deferred(view, "video") or view.video is not None}
    if OWN_VIEW in named:
        raise ValueError(
            f"sample {sample.id} calls a novel camera {OWN_VIEW}, which stands for the clip's own; rename it"
        )
    return {OWN_VIEW: sample, **named}


def strag_encoders(config: Architecture, *, decoded: bool) -> list[Encoder]:
    """What STraG's training reads; with `decoded` also the true motion that a decoded error is measured on."""
    seen = _GREY if config.generation.clip_image == "grey" else _IMAGE
    return [_MOTION, _PICTURE, _TEXT, seen, _FEATURES, *([_TRUTH] if decoded else [])]


def vism_encoders(*, decoded: bool) -> list[Encoder]:
    """What ViSM's training reads; with `decoded` also the true video that a decoded error is measured on."""
    return [_VIEWS, _TEXT, _IMAGE, *([_VIEW_TRUTH] if decoded else [])]


def all_encoders(config: Architecture, *, decoded: bool) -> list[Encoder]:
    """What both trainings read. Raises ValueError where `decoded` asks for what no training could use."""
    if decoded and not config.motion_vae.linear_start:
        raise ValueError("latents.decoded=true needs a linear-start VAE; set it to false for this checkpoint")
    encoders = [*strag_encoders(config, decoded=decoded), *vism_encoders(decoded=decoded)]
    return list({encoder.name: encoder for encoder in encoders}.values())


@torch.no_grad()
def posterior(vae: MotionVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (what `encode_video` gives) and log-variance [1, 16, K, h, w] of a video's normalised latent."""
    mean, std = (_channels(vae.vae.config[name], video) for name in ("latents_mean", "latents_std"))
    found = vae.vae.encode(video.to(vae.vae.dtype)).latent_dist
    return (found.mode() - mean) / std, found.logvar - 2 * std.log()


@torch.no_grad()
def motion_posterior(vae: MotionVAE, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (what `encode_motion` gives) and log-variance [1, 16, K, h, w] of the motion latent."""
    mean, log_variance = posterior(vae, vae.trajectory_encoder(motion))
    own_mean, own_std = (_channels(value, motion) for value in (vae.config.motion_mean, vae.config.motion_std))
    return (mean - own_mean) / own_std, log_variance - 2 * own_std.log()


def _channels(values: float | tuple[float, ...], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)


@torch.no_grad()
def _motion(networks: Networks, sample: Sample) -> Row:
    motion = true_motion(sample, networks.vae.config.motion_camera)["motion"]
    mean, log_variance = motion_posterior(networks.vae, motion[None].to(_device(networks.vae)))
    return {"motion_latent": mean[0], "motion_logvar": log_variance[0]}


def _truth(networks: Networks, sample: Sample) -> Row:
    return true_motion(sample, networks.vae.config.motion_camera)


@torch.no_grad()
def _picture(networks: Networks, sample: Sample) -> Row:
    vae, frames = networks.vae, len(sample.points)
    image, depth = (value.to(_device(vae)) for value in (_photo(sample), torch.from_numpy(sample.depth)[None]))
    encoding = networks.config.generation.depth_encoding
    return {
        "image_latent": image_latent(vae, to_unit_range(image), frames)[0],
        "depth_latent": depth_latent(vae, depth, frames, encoding)[0],
    }


@torch.no_grad()
def _text(networks: Networks, sample: Sample) -> Row:
    ids, mask = networks.text.tokenize([sample.caption])
    length = int(mask.sum())
    assert mask[0, :length].all(), "the tokenizer pads at the end"
    device = _device(networks.text)
    return {"text": networks.text(ids.to(device), mask.to(device))[0, :length]}


@torch.no_grad()
def _image(networks: Networks, sample: Sample) -> Row:
    return {"image_tokens": networks.image_encoder.encode(_photo(sample).to(_device(networks.image_encoder)))[0]}


@torch.no_grad()
def _grey(networks: Networks, sample: Sample) -> Row:
    picture = clip_picture(_photo(sample), "grey").to(_device(networks.image_encoder))
    return {"image_tokens": networks.image_encoder.encode(picture)[0]}


@torch.no_grad()
def _features(networks: Networks, sample: Sample) -> Row:
    return {"motion_features": networks.motion_encoder.encode(_photo(sample).to(_device(networks.motion_encoder)))[0]}


@torch.no_grad()
def _view(networks: Networks, view: Sample | SampleView) -> Row:
    vae = networks.view_vae
    video, mask, render = (value.to(_device(vae)) for value in _view_tensors(view))
    mean, log_variance = posterior(vae, video)
    return {
        "video_latent": mean[0],
        "video_logvar": log_variance[0],
        "render_latent": vae.encode_video(render_with_holes(render, mask))[0],
        "mask": fold_mask(mask)[0].bool(),
    }


def _view_truth(networks: Networks, view: Sample | SampleView) -> Row:
    del networks
    return {"video": torch.from_numpy(view.video), "holes": torch.from_numpy(~view.render_mask)}


def _view_tensors(view: Sample | SampleView) -> tuple[Tensor, Tensor, Tensor]:
    """(video [1, 3, T, H, W], mask [1, T, H, W], render [1, 3, T, H, W])."""
    assert view.video is not None
    mask = torch.from_numpy(view.render_mask[None])
    return video_tensor(view.video[None]), mask, video_tensor(view.render[None])


def _photo(sample: Sample) -> Tensor:
    """The first frame, uint8 [1, 3, H, W]."""
    return torch.from_numpy(sample.video[:1]).permute(0, 3, 1, 2)


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


_VAE_PARTS = ("encoder.", "quant_conv.", "first_basis", "group_basis")
"""Of a video VAE, what encodes: training the decoder leaves every latent as it is."""
_INNER = tuple(f"vae.{part}" for part in _VAE_PARTS)
"""The same inside of a motion VAE."""


def _view_weights(encoders: CheckpointEncoders) -> str:
    if encoders.has_video_vae:
        return hash_weights(encoders.files[VIDEO_VAE], _VAE_PARTS)
    return hash_weights(encoders.files["vae"], _INNER)


def _text_weights(encoders: CheckpointEncoders) -> str:
    return f"{hash_weights(encoders.files['text'])} {hash_file(encoders.files['tokenizer'])}"


def _weights(network: str, starts: tuple[str, ...] = ("",)) -> Callable[[CheckpointEncoders], str]:
    return lambda encoders: hash_weights(encoders.files[network], starts)


def _vae_settings(config: Architecture) -> dict[str, Any]:
    return config.motion_vae.model_dump(mode="json", include={"vae", "linear_start"})


def _picture_settings(config: Architecture) -> dict[str, Any]:
    return {**_vae_settings(config), "depth_encoding": config.generation.depth_encoding}


def _nothing(config: Architecture) -> dict[str, Any]:
    del config
    return {}


_MOTION = Encoder(
    "motion", 1, _motion, lambda config: config.motion_vae.model_dump(mode="json"),
    _weights("vae", ("trajectory_encoder.", *_INNER)),
)  # fmt: skip
_TRUTH = Encoder("truth", 1, _truth, lambda config: {"motion_camera": config.motion_vae.motion_camera})
_PICTURE = Encoder("picture", 1, _picture, _picture_settings, _weights("vae", _INNER))
_TEXT = Encoder("text", 1, _text, lambda config: config.text.model_dump(mode="json"), _text_weights)
_IMAGE = Encoder(
    "image", 1, _image, lambda config: config.image_encoder.model_dump(mode="json"), _weights("image_encoder")
)
_GREY = Encoder("grey", 1, _grey, _IMAGE.settings, _IMAGE.weights, shared=True)
_FEATURES = Encoder(
    "features", 1, _features, lambda config: config.motion_encoder.model_dump(mode="json"), _weights("motion_encoder")
)
_VIEWS = Encoder("views", 1, _view, _vae_settings, _view_weights, of_views=True)
_VIEW_TRUTH = Encoder("view_truth", 1, _view_truth, _nothing, of_views=True)
