from pathlib import Path

import pytest
import torch
from more4d.models.architectures import Architecture
from more4d.models.bundle import build_strag, load_exactly
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.text import TextEncoder
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.base_strag import STAGE, BaseSTraGParams, motion_features
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes
from more4d.training.flow import FlowSettings
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(
    steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1, optimizer="muon"
)


def params(prediction: str) -> BaseSTraGParams:
    """Four steps of Muon."""
    flow = FlowSettings.model_validate({"prediction": prediction, "decoded_weight": 1.0, "signal_weight": 2.0})
    return BaseSTraGParams(flow=flow, train=TRAIN, vocabulary=280)


def test_it_trains_the_transformer_and_both_encoders(base_workspace: Path, architecture: Architecture) -> None:
    result = run_stage(STAGE, params=params("sample"), video=VIDEO, seed=0, workers=1, root=base_workspace)
    folder = result.outputs["strag"]
    strag = build_strag(architecture)
    load_exactly(strag, folder / "strag.safetensors")
    assert all(bool(block.motion1.gate.any()) for block in strag.blocks)  # type: ignore[operator, union-attr]
    text = TextEncoder.from_config(architecture.text, (folder / "tokenizer.json").read_text())
    load_exactly(text, folder / "text.safetensors")
    load_exactly(ImageEncoder(architecture.image_encoder), folder / "image_encoder.safetensors")
    left, right = text.encode(["a patch moves to the left", "a patch moves to the right"])
    assert not torch.equal(left, right)
    assert {"last_loss", "last_decoded", "last_latent"} < set(result.metrics)


def test_a_prediction_that_the_sampler_does_not_expect_is_refused(base_workspace: Path) -> None:
    with pytest.raises(ValueError, match="flow.prediction='velocity'"):
        run_stage(STAGE, params=params("velocity"), video=VIDEO, seed=0, workers=1, root=base_workspace)


def test_motion_features_are_of_every_picture_and_its_mirror_image(
    base_scenes: BaseScenes, architecture: Architecture
) -> None:
    torch.manual_seed(0)
    encoder = MotionEncoder(architecture.motion_encoder).eval()
    scenes = MotionScenes(base_scenes)
    features = motion_features(encoder, scenes)
    assert (features.shape, features.dtype) == ((6, 4, 24), torch.float16)
    with torch.no_grad():
        alone = encoder.encode(scenes.batch(torch.tensor([4]))["image"])
    assert torch.allclose(features[4:5].float(), alone, atol=5e-3)
