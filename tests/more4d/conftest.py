"""Tiny random networks, and made-up scenes in every form that the lineage gives them.

Shape letters: T frames, H height, W width.
"""

import dataclasses
import shutil
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample, SampleView
from more4d.data.shards import write_shards
from more4d.models.architectures import TINY, Architecture, Generation, STraGShape, TransformerShape
from more4d.models.bundle import NETWORKS, Models, build, save_network
from more4d.models.text import build_tokenizer
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.scenes import RenderedScene, View
from more4d.training.base_scenes import BaseScenes, BaseScenesSpec, write_base_scenes

T, H, W = 5, 32, 48
SHAPE = dict(heads=2, head_dim=12, ffn_dim=32, layers=2)


@pytest.fixture(scope="session")
def labeler_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has torch and stand-ins of the external labelers, but not more4d."""
    folder = tmp_path_factory.mktemp("labelers") / "environment"
    venv.EnvBuilder(symlinks=True).create(folder)
    here = Path(sysconfig.get_path("purelib"))
    site = folder / here.relative_to(here.parents[2])
    # What stands in these folders can be imported; what they add by .pth files of their own, as more4d, cannot.
    stand_ins = Path(__file__).parent / "labeling" / "stand_ins"
    (site / "others.pth").write_text(f"{here}\n{stand_ins}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    """Networks of a few thousand weights, for 5 frames of 32x48."""
    codec = TrajectoryCodecConfig(width=8, groups=4, gain=2.0, starts_as_inverse=True)
    vae = TINY.motion_vae.model_copy(update={"codec": codec, "vae": {"base_dim": 4, "latents_std": [3.0] * 16}})
    text = {"vocabulary": 280, "dim": 24, "depth": 1, "heads": 2, "head_dim": 12, "mlp_dim": 32, "max_tokens": 8}
    image = {"image_size": 32, "dim": 24, "heads": 2, "mlp_dim": 32}
    motion = {"image_size": 16, "dim": 24, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 1}
    return TINY.model_copy(
        update={
            "motion_vae": vae.model_copy(update={"motion_std": 0.2}),
            "strag": STraGShape(**SHAPE),
            "vism": TransformerShape(**SHAPE),
            "text": TINY.text.model_copy(update=text),
            "image_encoder": TINY.image_encoder.model_copy(update=image),
            "motion_encoder": TINY.motion_encoder.model_copy(update=motion),
            "depth": TINY.depth.model_copy(update={"height": 32, "width": 48, "channels": (8, 8)}),
            "generation": Generation(
                frames=T, height=H, width=W, steps=3, guidance=1.0, prediction="sample", depth_encoding="log"
            ),
        }
    )


@pytest.fixture(scope="session")
def models(architecture: Architecture) -> Models:
    """Random networks around a linear-start VAE with orthonormal random bases; never changed by a test."""
    torch.manual_seed(0)
    made = build(architecture, build_tokenizer(["a patch moves to the left"], architecture.text.vocabulary))
    for basis in (made.vae.vae.first_basis, made.vae.vae.group_basis):
        basis.data.copy_(torch.linalg.qr(torch.randn(basis.shape[1], basis.shape[0])).Q.T)
    for name in NETWORKS:
        getattr(made, name).eval().requires_grad_(False)
    return made


@pytest.fixture(scope="session")
def checkpoint(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random networks as a checkpoint folder, in single precision."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-base"
    models.save(folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def rendered() -> list[RenderedScene]:
    """Three slopes with a patch that moves left or right, as the caption says; the second has an extra view."""
    return [_scene(seed, view=seed == 1) for seed in range(3)]


@pytest.fixture(scope="session")
def base_scenes_folder(rendered: list[RenderedScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes as the tiny base's stages read them."""
    folder = tmp_path_factory.mktemp("base_scenes")
    write_base_scenes(rendered, folder, BaseScenesSpec(scenes=3, views=1, frames=T, height=H, width=W))
    return folder


@pytest.fixture(scope="session")
def base_scenes(base_scenes_folder: Path) -> BaseScenes:
    """The scenes as the tiny base's trainings read them."""
    return BaseScenes(base_scenes_folder)


@pytest.fixture(scope="session")
def samples(rendered: list[RenderedScene]) -> list[Sample]:
    """The scenes as labeled clips; the second has a novel view with its truth and one without."""
    return [_sample(scene) for scene in rendered]


@pytest.fixture(scope="session")
def trajscene(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips in shards: two to train on, one to validate on."""
    folder = tmp_path_factory.mktemp("trajscene")
    write_shards(samples[:2], folder, split="train", shard_bytes=10**6)
    write_shards([dataclasses.replace(samples[2], split="val")], folder, split="val", shard_bytes=10**6)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, checkpoint: Path, trajscene: Path) -> Path:
    """A workspace of the lineage as the trainings find it, with the base's own VAE as motion VAE."""
    shutil.copytree(checkpoint, tmp_path / "models" / "tiny-base")
    shutil.copytree(trajscene, tmp_path / "datasets" / "trajscene")
    (tmp_path / "models" / "motion_vae").mkdir()
    shutil.copy(checkpoint / "vae.safetensors", tmp_path / "models" / "motion_vae")
    return tmp_path


@pytest.fixture
def base_workspace(tmp_path: Path, base_scenes_folder: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the tiny base's graph with all of its parts; its stages make networks of this file's sizes."""
    unscaled = models.config.motion_vae.model_copy(update={"vae": {"base_dim": 4}, "motion_std": 1.0})
    for stage in ("base_vae", "base_strag", "base_vism", "base_bundle"):
        tiny = models.config.model_copy(update={"motion_vae": unscaled})
        monkeypatch.setattr(f"more4d.stages.{stage}.TINY", tiny)
    build_folder = tmp_path / "infra" / "tiny-base" / "build"
    shutil.copytree(base_scenes_folder, build_folder / "scenes")
    parts = {"strag": ("strag", "text", "image_encoder"), "vism": ("vism",), "depth": ("depth",)}
    for part, names in (parts | {"motion_encoder": ("motion_encoder",), "vae": ("vae",)}).items():
        (build_folder / part).mkdir()
        for name in names:
            save_network(getattr(models, name), build_folder / part / f"{name}.safetensors")
    (build_folder / "strag" / "tokenizer.json").write_text(models.text.tokenizer_json)
    (build_folder / "vae" / "motion_vae.json").write_text(models.config.motion_vae.model_dump_json())
    return tmp_path


def _scene(seed: int, *, view: bool) -> RenderedScene:
    rng = np.random.default_rng(seed)
    direction = ("left", "right")[seed % 2]
    camera = np.array([[W, 0, W / 2], [0, W, H / 2], [0, 0, 1]], np.float32)
    depth = np.broadcast_to(np.linspace(6, 3, H, dtype=np.float32)[:, None], (H, W)).copy()
    patch = np.zeros((H, W), bool)
    patch[8:20, 16:32] = True
    depth[patch] = 2.5
    v, u = np.mgrid[:H, :W] + 0.5
    first = np.stack([(u - W / 2) / W * depth, (v - H / 2) / W * depth, depth], -1)
    step = np.array([0.15 if direction == "right" else -0.15, 0, -0.05])
    points = first + np.arange(T)[:, None, None, None] * patch[..., None] * step
    waves = np.stack([np.sin(u / rng.uniform(4, 9) + v / rng.uniform(4, 9)) for _ in range(3)], -1)
    picture = np.where(patch[..., None], np.array([230, 60, 40]), 110 + 60 * waves).astype(np.uint8)
    video = np.stack([np.roll(picture, t if direction == "right" else -t, axis=1) for t in range(T)])
    poses = np.tile(np.eye(4, dtype=np.float32), (T, 1, 1))
    visible = np.ones((T, H, W), bool)
    visible[1:, 8:20, 40:] = False
    return RenderedScene(
        seed=seed, caption=f"a patch moves to the {direction}", kind="box", direction=direction, video=video,
        depths=np.tile(depth, (T, 1, 1)), intrinsics=camera, points=points.astype(np.float32), visibility=visible,
        moving_object=patch, views={"spiral": View(video[:, ::-1].copy(), poses)} if view else {},
    )  # fmt: skip


def _sample(scene: RenderedScene) -> Sample:
    mask = np.ones((T, H, W), bool)
    mask[:, :, W // 2 : W // 2 + 6] = False
    render = scene.video * mask[..., None]
    views = {name: SampleView(v.video, v.camera_to_world, render, mask) for name, v in scene.views.items()}
    if views:
        views["static"] = SampleView(None, views["spiral"].camera_to_world, render, mask)
    return Sample(
        id=f"scene-{scene.seed:05d}", video=scene.video, fps=8.0, caption=scene.caption, intrinsics=scene.intrinsics,
        depth=scene.depth, points=scene.points, visibility=scene.visibility, render=render, render_mask=mask,
        split="train", kind="rendered", views=views,
    )  # fmt: skip
