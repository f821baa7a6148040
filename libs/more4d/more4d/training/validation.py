"""What a training makes of held-out samples while it goes on: errors against the truth, and videos beside it.

Nothing is learned from it, and nothing that is drawn or switched for it is left changed. With weights that are cut among
ranks every rank calls it, with the same samples; one of them is given a folder for the videos.

Suffixes: B batch, T frames, K latent frames, H height, W width; h = H/8, w = W/8.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from more4d.data.video import write_video
from more4d.geometry.errors import REGIONS, Truth, method_sums, psnr, squared_error, static_sums
from more4d.models.flow_matching import TIMESTEPS, flow_scheduler, seeded_noise, to_velocity
from more4d.models.vae import MotionVAE
from more4d.settings import Section
from more4d.training.flow import BatchSource, Bucketed, Conditions, FlowObjective, Kept, Named
from more4d.training.order import step_seed

Video = NDArray[np.uint8]
Draw = Callable[[int, Tensor, Tensor], Video]
"""A video uint8 [T, H', W', 3] of a sample's number in the source, its generated motion [3, T, H, W] and the true one."""


class ValidationSettings(Section):
    """On how many held-out samples, and how they are sampled."""

    samples: int = Field(default=4, gt=0)
    """Spread evenly over the split; the same ones each time."""
    batch_size: int = Field(default=4, gt=0)
    steps: int = Field(default=4, gt=0)
    """Euler steps from noise to sample; fewer than generation takes, so that training need not wait long."""
    guidance: float = Field(default=1.0, ge=1)
    seed: int = 0
    """Of each sample's noise."""
    videos: int = Field(default=4, ge=0)
    """Of the samples, those that are shown."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the transformer computes in; the VAE decodes in its own."""


@dataclass(frozen=True)
class Found:
    """What was made of one sample: sums that are added up over samples, and the video to show."""

    sums: dict[str, float]
    show: Callable[[], Video]


class Validation(ABC):
    """Measures on fixed samples of `source`, called with the number of steps done.

    Videos are written to `folder`/step-<step>/<id>.mp4, the same bytes each time; without a folder none are.
    """

    def __init__(self, source: BatchSource, settings: ValidationSettings, folder: Path | None, fps: float) -> None:
        self.source, self.settings, self.folder, self.fps = source, settings, folder, fps
        self.numbers = evenly(source.size, settings.samples)

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """The measures; "score" is the one by which checkpoints are compared, lower is better."""
        sums: dict[str, float] = {}
        shown = self.numbers[: self.settings.videos]
        with as_found(*self.networks):
            for numbers in self._batches():
                for number, found in zip(numbers, self.find(numbers), strict=True):
                    for key, value in found.sums.items():
                        sums[key] = sums.get(key, 0.0) + value
                    if self.folder is not None and number in shown:
                        self._write(step, number, found.show())
        return self.figures(sums)

    def videos(self, step: int) -> dict[str, Path]:
        """The videos that were written after so many steps, by the samples' names."""
        folder = self._folder(step)
        return {file.stem: file for file in sorted(folder.glob("*.mp4"))} if folder is not None else {}

    @property
    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """What is put into evaluation mode meanwhile."""

    @abstractmethod
    def find(self, numbers: Sequence[int]) -> Iterator[Found]:
        """What becomes of each of a batch of samples."""

    @abstractmethod
    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The measures that the sums over all samples amount to."""

    def _batches(self) -> Iterator[list[int]]:
        """The samples in batches that can be stacked."""
        buckets = self.source.buckets if isinstance(self.source, Bucketed) else [0] * self.source.size
        for bucket in sorted({buckets[number] for number in self.numbers}):
            members = [number for number in self.numbers if buckets[number] == bucket]
            size = self.settings.batch_size
            yield from (members[start : start + size] for start in range(0, len(members), size))

    def _folder(self, step: int) -> Path | None:
        return None if self.folder is None else self.folder / f"step-{step:06d}"

    def _write(self, step: int, number: int, video: Video) -> None:
        folder = self._folder(step)
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        name = self.source.ids[number] if isinstance(self.source, Named) else str(number)
        write_video(folder / f"{name.replace('/', '-')}.mp4", _even(video), self.fps)


class FlowValidation(Validation):
    """Generates from fixed noise what the objective's transformer is trained to; `shift` is the sampler's."""

    def __init__(
        self,
        objective: FlowObjective,
        source: BatchSource,
        settings: ValidationSettings,
        folder: Path | None,
        *,
        fps: float,
        shift: float | None = None,
    ) -> None:
        super().__init__(source, settings, folder, fps)
        self.objective = objective
        self.shift = objective.settings.shift if shift is None else shift

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Everything that is trained, and the VAE."""
        return self.objective.module, self.objective.transformer, self.objective.vae

    def generate(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """The samples' batch and their generated latents [B, 16, K, h, w], both where the VAE is."""
        device = next(self.objective.transformer.parameters()).device
        batch = {key: value.to(device) for key, value in self.source.batch(torch.tensor(numbers)).items()}
        clean = self.objective.clean(batch)
        # A sample's noise depends neither on the batch that it came in nor on the rank.
        noise = [seeded_noise(clean.shape[1:], step_seed(self.settings.seed, number)) for number in numbers]
        latents = sample_latents(self.objective, batch, torch.stack(noise).to(device), self.settings, self.shift)
        own = next(self.objective.vae.parameters()).device
        return {key: value.to(own) for key, value in batch.items()}, latents.to(own)


class TrajectoryValidation(FlowValidation):
    """4D-STraG: `trajectory_error` in metres (eq. 7) over visible pixels, `trajectory_error_moving` over those that move.

    `trajectory_ratio` and `trajectory_ratio_moving` are the same over the error of "nothing moves", pooled over samples.
    `source` gives batches with motion, visible and unit, and depth where the units of motion do not tell it; HeldOutMotions
    does. `draw` makes the videos: without one the motion in colours, generated on the left, true on the right. Raises
    ValueError for a source without the truth.
    """

    def __init__(
        self,
        objective: FlowObjective,
        source: BatchSource,
        settings: ValidationSettings,
        folder: Path | None,
        *,
        fps: float,
        shift: float | None = None,
        draw: Draw | None = None,
    ) -> None:
        super().__init__(objective, source, settings, folder, fps=fps, shift=shift)
        require_truth(source, objective.vae)
        self.draw: Draw = motion_colours if draw is None else draw

    def find(self, numbers: Sequence[int]) -> Iterator[Found]:
        """Errors of the generated motion."""
        batch, latents = self.generate(numbers)
        motion = self.objective.vae.decode_motion(latents).float()
        for row, number in enumerate(numbers):
            truth = batch["motion"][row]
            yield Found(row_sums(motion, batch, row), lambda n=number, m=motion[row], t=truth: self.draw(n, m, t))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Errors in metres and as ratios; the score is the error over all visible pixels."""
        found = motion_figures(sums, "trajectory")
        return found | {"score": found["trajectory_error"]}


class ViewValidation(FlowValidation):
    """4D-ViSM: `hole_psnr` in dB inside the renders' holes, `video_psnr` over all generated pixels, pooled over samples.

    `source` gives batches with video and holes, as HeldOutViews. Videos: the render, the completed view, the truth.
    """

    def find(self, numbers: Sequence[int]) -> Iterator[Found]:
        """Squared errors of the completed views."""
        batch, latents = self.generate(numbers)
        completed = self.objective.vae.decode_video(latents).float()
        for row in range(len(numbers)):
            ours, truth = pixels(completed[row]), pixels(batch["video"][row])
            holes = batch["holes"][row].bool().cpu().numpy()
            sums: dict[str, float] = {}
            for name, region in (("hole", holes), ("video", None)):
                sums[f"{name}_error"], sums[f"{name}_values"] = squared_error(ours, truth, region)
            yield Found(
                sums, lambda b=batch, r=row, o=ours, t=truth: np.concatenate([self._render(b, r), o, t], axis=2)
            )

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """PSNRs; the score is minus that of the holes, of all pixels where no render has any."""
        found = {f"{name}_psnr": psnr(sums[f"{name}_error"], sums[f"{name}_values"]) for name in ("hole", "video")}
        return found | {"score": -found["hole_psnr" if sums["hole_values"] else "video_psnr"]}

    def _render(self, batch: dict[str, Tensor], row: int) -> Video:
        """The render, from its latent where the batch holds no other."""
        if "render" in batch:
            return pixels(batch["render"][row])
        return pixels(self.objective.vae.decode_video(batch["render_latent"][row][None]).float()[0])


class CodecValidation(Validation):
    """Motion VAE: errors of true motion after encoding and decoding, named as TrajectoryValidation's, but codec_error.

    `source` gives batches as TrajectoryValidation's; where they hold video, also `video_psnr` of it encoded and decoded.
    """

    def __init__(
        self, vae: MotionVAE, source: BatchSource, settings: ValidationSettings, folder: Path | None, *, fps: float
    ) -> None:
        super().__init__(source, settings, folder, fps)
        require_truth(source, vae)
        self.vae = vae

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The VAE."""
        return (self.vae,)

    def find(self, numbers: Sequence[int]) -> Iterator[Found]:
        """Errors of the codec."""
        device = next(self.vae.parameters()).device
        batch = {key: value.to(device) for key, value in self.source.batch(torch.tensor(numbers)).items()}
        motion = self.vae.decode_motion(self.vae.encode_motion(batch["motion"])).float()
        video = self.vae.decode_video(self.vae.encode_video(batch["video"])).float() if "video" in batch else None
        for row, number in enumerate(numbers):
            truth = batch["motion"][row]
            sums = row_sums(motion, batch, row)
            if video is not None:
                error, values = squared_error(pixels(video[row]), pixels(batch["video"][row]))
                sums |= {"video_error": error, "video_values": values}
            yield Found(sums, lambda n=number, m=motion[row], t=truth: motion_colours(n, m, t))

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Errors in metres and as ratios; the score is the error over all visible pixels."""
        found = motion_figures(sums, "codec")
        if "video_values" in sums:
            found["video_psnr"] = psnr(sums["video_error"], sums["video_values"])
        return found | {"score": found["codec_error"]}


def sample_latents(
    objective: FlowObjective, batch: dict[str, Tensor], noise: Tensor, settings: ValidationSettings, shift: float
) -> Tensor:
    """Latents [B, 16, K, h, w] at the end of the flow from `noise`, by the transformer's own forward alone.

    As generation does it, but for what it computes once an image ahead: weights that are cut among ranks are whole only
    during a forward.
    """
    scheduler: Any = flow_scheduler(shift)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    one = noise.new_ones(len(noise), *[1] * (noise.ndim - 1))
    given = objective.conditions(batch)
    branches = [given] if settings.guidance == 1 else [given, _unguided(objective, given)]
    latents = noise
    for timestep in scheduler.timesteps:
        sigmas = (timestep / TIMESTEPS).to(latents).expand(len(latents))
        flows = []
        for branch in branches:
            with torch.autocast(latents.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                output = objective.predict(batch, latents, sigmas, branch, Kept(one, one))
            flows.append(to_velocity(output.float(), latents, sigmas, objective.settings.prediction))
        flow = flows[0] if len(flows) == 1 else flows[1] + settings.guidance * (flows[0] - flows[1])
        latents = scheduler.step(flow, timestep, latents, return_dict=False)[0]
    return latents


def _unguided(objective: FlowObjective, given: Conditions) -> Conditions:
    empty = torch.zeros_like(given.text) if objective.empty_text is None else objective.empty_text.to(given.text)
    return Conditions(empty.expand_as(given.text), given.image)


def require_truth(source: BatchSource, vae: MotionVAE) -> None:
    """Raises ValueError where the source's batches do not hold what motion is measured against."""
    keys = {"motion", "visible", "unit"} | (set() if isinstance(vae.config.motion_camera, str) else {"depth"})
    if source.size and (missing := sorted(keys - source.batch(torch.tensor([0])).keys())):
        raise ValueError(
            f"validation measures on {', '.join(missing)}, which {type(source).__name__} does not hold: wrap it in "
            "HeldOutMotions"
        )


def row_sums(predicted: Tensor, batch: Mapping[str, Tensor], row: int) -> dict[str, float]:
    """`motion_sums` of one of the predicted motions [B, 3, T, H, W]."""
    unit = batch["unit"][row]
    # Eq. 1's unit along the view is the depth itself.
    depth = batch["depth"][row] if "depth" in batch else unit[2]
    return motion_sums(predicted[row], batch["motion"][row], unit, depth, batch["visible"][row])


def motion_sums(predicted: Tensor, true: Tensor, unit: Tensor, depth: Tensor, visible: Tensor) -> dict[str, float]:
    """Summed errors in metres of one sample's motion [3, T, H, W] and how many positions they are over (eq. 7).

    unit [3, H, W] is metres per unit of motion, depth [H, W] the first frame's in metres; visible [T, H, W].
    """
    truth = Truth(_displaced(true, unit, depth), visible.bool().cpu().numpy())
    return static_sums(truth) | method_sums(_displaced(predicted, unit, depth), truth, "model")


def motion_figures(sums: Mapping[str, float], name: str) -> dict[str, float]:
    """`<name>_error` in metres and `<name>_ratio` to that of "nothing moves", over all pixels and `_moving` ones."""
    found: dict[str, float] = {}
    for region in REGIONS:
        suffix = "" if region == "all" else f"_{region}"
        error, count, static = (sums[key] for key in (f"model_{region}_error", f"{region}_count", f"{region}_static"))
        found[f"{name}_error{suffix}"] = error / count if count else float("nan")
        found[f"{name}_ratio{suffix}"] = error / static if static else float("nan")
    return found


def _displaced(motion: Tensor, unit: Tensor, depth: Tensor) -> NDArray[np.float32]:
    """Positions [T, H, W, 3] in metres: where a point is beside the camera's axis plays no part in an error."""
    metres = motion.float() * unit.float()[:, None]
    metres[2] += depth.float()
    return metres.permute(1, 2, 3, 0).cpu().numpy()


def motion_colours(number: int, generated: Tensor, true: Tensor) -> Video:
    """Both motions [3, T, H, W] side by side as colours [T, H, 2 W, 3]: grey stays, the true one's largest is full."""
    del number
    largest = true.abs().amax().clamp_min(1e-6)
    both = torch.cat([generated.float().to(true), true], dim=-1) / largest
    return pixels(both.float().clamp(-1, 1))


def pixels(video: Tensor) -> Video:
    """8-bit frames [T, H, W, 3] of a video [3, T, H, W] in [-1, 1]."""
    return ((video.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def evenly(size: int, count: int) -> list[int]:
    """`count` of `size` numbers, spread evenly from the first on; all where there are no more. Raises ValueError for none."""
    if size < 1:
        raise ValueError("there are no held-out samples to validate on; raise the share of the val split")
    return [place * size // count for place in range(count)] if count < size else list(range(size))


@contextmanager
def as_found(*networks: nn.Module) -> Iterator[None]:
    """Within, the networks are in evaluation mode; afterwards each part is in the mode it was, and so is torch's RNG."""
    modes = {module: module.training for network in networks for module in network.modules()}
    devices = {parameter.device for network in networks for parameter in network.parameters()}
    gpus = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=gpus):
        try:
            for network in networks:
                network.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _even(video: Video) -> Video:
    """Without the last row or column where they are odd in number, which H.264 does not take."""
    return video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
