"""Our networks beside numbers that the published ones gave: `python tests/parity/check.py DIR`.

Checks every folder under DIR that holds a `case.json` (what was run) and an `expected.safetensors` (what came out), prints
a table of relative errors |ours - expected| / |expected|, and exits with 1 when one is above 1e-4. Weights and inputs are
not stored: one rule fills every tensor from its name. What a case does not say is nowhere set here, so that cases of
other sizes and salts are checked alike.
"""

import argparse
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from more4d.geometry import published
from more4d.models.conversion import part, to_ours
from more4d.models.motion_encoder import OMNIMAE_VITB, MotionEncoder
from more4d.models.strag import STraGTransformer
from more4d.models.trajectory_codec import TrajectoryCodecConfig, TrajectoryDecoder, TrajectoryEncoder
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.models.vism import ViSMTransformer
from safetensors.torch import load_file
from torch import Tensor, nn

LIMIT = 1e-4
Case = dict[str, Any]
Tensors = dict[str, Tensor]


def fill(salt: str, name: str, shape: list[int], *, is_weight: bool) -> Tensor:
    """The tensor of this name, as every case fills it."""
    seed = zlib.crc32(f"{salt}/{name}".encode())
    values = np.random.RandomState(seed).standard_normal(math.prod(shape)).astype(np.float32)
    if is_weight and len(shape) >= 2:
        values = values / np.float32(math.sqrt(math.prod(shape[1:])))
    elif is_weight:
        centre = 1 if name.endswith(("weight", "gamma")) else 0
        values = np.float32(centre) + np.float32(0.1) * values
    return torch.from_numpy(values.reshape(shape))


def weights(
    case: Case, layout: str, *, state: str = "state_dict", prefix: str = "state_prefix", under: str = ""
) -> Tensors:
    """The case's weights under our names; `under` is put before a published name that the layout knows with it."""
    shapes: dict[str, list[int]] = case[state]
    filled = {under + key: fill(case["salt"], f"{case[prefix]}/{key}", shapes[key], is_weight=True) for key in shapes}
    return to_ours(layout, filled)


def given(case: Case, name: str) -> Tensor | None:
    """An input by its name, clamped and scaled as the case says; None where the case has none."""
    inputs = case["inputs"]
    if inputs.get(name) is None:
        return None
    value = fill(case["salt"], f"input/{name}", inputs[name], is_weight=False)
    if rule := inputs.get(f"{name}_rule"):
        value = RULES[rule](value)
    if "clamp" in inputs:
        value = value.clamp(*inputs["clamp"])
    return value * inputs.get("scale", 1)


RULES: dict[str, Callable[[Tensor], Tensor]] = {"abs(value)+1": lambda value: value.abs() + 1}


def required(case: Case, name: str) -> Tensor:
    """An input that the kind of case cannot do without."""
    value = given(case, name)
    if value is None:
        raise ValueError(f"a case of kind {case['kind']} needs the input {name}")
    return value


def texts(case: Case, name: str) -> Tensor:
    """Texts of different lengths [B, text_len, D], padded with zeros."""
    shapes = case["inputs"][name]
    padded = torch.zeros(len(shapes), case["config"]["text_len"], case["config"]["text_dim"])
    for i, shape in enumerate(shapes):
        padded[i, : shape[0]] = fill(case["salt"], f"input/{name}{i}", shape, is_weight=False)
    return padded


def transformer_shape(case: Case) -> dict[str, Any]:
    """The case's settings as the arguments of both transformers."""
    config, image = case["config"], case["state_dict"].get("img_emb.proj.0.weight")
    return {
        "patch_size": tuple(config["patch_size"]),
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "in_channels": config["in_dim"],
        "out_channels": config["out_dim"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "cross_attn_norm": config["cross_attn_norm"],
        "eps": config["eps"],
        "image_dim": None if image is None else image[0],
    }


def loaded(network: nn.Module, state: Tensors) -> nn.Module:
    """The network with exactly these weights."""
    network.load_state_dict(state)
    return network.eval()


def run_strag(case: Case) -> Tensors:
    """4D-STraG: `output`, and each block's tokens as `block0` and so on."""
    patch, cls = given(case, "mpm_patch"), given(case, "mpm_cls")
    first = bool(case["config"].get("use_cls_token"))
    network = STraGTransformer(
        **transformer_shape(case),
        image_tokens=image_tokens(case, "clip_fea"),
        motion_dim=case["state_dict"]["feature_adapter.0.weight"][0],
        motion_grid=square(patch),
        motion_tokens="first" if first else "patch",
        reference_channels=case["config"].get("in_dim_ref_conv") if case["config"].get("add_ref_conv") else None,
    )
    loaded(network, part(weights(case, "strag"), "strag"))
    features = cls[:, None] if first and cls is not None else patch
    hidden = torch.cat([required(case, "x"), required(case, "y")], dim=1)
    arguments = torch.tensor(case["inputs"]["t"]), texts(case, "context"), given(case, "clip_fea"), features
    found: Tensors = {}
    for i, block in enumerate(network.blocks):
        block.register_forward_hook(partial(_keep, found, f"block{i}"))
    return found | {"output": network(hidden, *arguments, reference=given(case, "full_ref"))}


def _keep(found: Tensors, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    found[name] = output


def image_tokens(case: Case, name: str) -> int:
    """How many image tokens the case gives."""
    shape = case["inputs"].get(name)
    return 257 if shape is None else shape[1]


def square(features: Tensor | None) -> tuple[int, int]:
    """The grid of the motion features [B, G, C]."""
    side = 14 if features is None else math.isqrt(features.shape[1])
    return side, side


def run_vism(case: Case) -> Tensors:
    """4D-ViSM's `output`."""
    network = ViSMTransformer(**transformer_shape(case), image_tokens=image_tokens(case, "vclip"))
    loaded(network, weights(case, "wan_dit"))
    hidden = torch.cat([required(case, "vx"), required(case, "vy")], dim=1)
    times = torch.tensor(case["inputs"]["t"])
    return {"output": network(hidden, times, texts(case, "vcontext"), given(case, "vclip"))}


def run_codec(case: Case) -> Tensors:
    """The trajectory codec; the published encoder's map is in (0, 1), ours in (-1, 1)."""
    config = case["config"]
    shape = TrajectoryCodecConfig(
        width=config["channels"], groups=config["norm_groups"], blocks=config["num_res_blocks"]
    )
    sides = {}
    for side, network in (("encoder", TrajectoryEncoder(shape)), ("decoder", TrajectoryDecoder(shape))):
        own = weights(case, f"trajectory_{side}", state=f"{side}_state_dict", prefix=f"{side}_prefix")
        sides[side] = loaded(network, own)(required(case, "traj"))
    return {"encoder_output": (sides["encoder"] + 1) / 2, "decoder_output": sides["decoder"]}


def run_wan_vae(case: Case) -> Tensors:
    """Wan's VAE: the normalised mean, and what it decodes to before it is clamped."""
    config = dict(case["config"])
    config["temperal_downsample"] = config.pop("temporal_downsample")
    vae = MotionVAE(MotionVAEConfig(vae=config))
    loaded(vae.vae, weights(case, "wan_vae"))
    latent = vae.encode_video(required(case, "video"))
    frames: list[Tensor] = []
    # The class clamps what its decoder gives, a few frames at a time.
    vae.vae.decoder.register_forward_hook(lambda module, inputs, output: frames.append(output))
    vae.decode_video(latent)
    return {"latent_mean": latent, "decoded": torch.cat(frames, dim=2)}


def run_omnimae(case: Case) -> Tensors:
    """OmniMAE's trunk on an image that is normalised already."""
    config = case["config"]
    size, patch = config["image_size"], tuple(config["patch_size"])
    shape = dict(
        image_size=size, patch_size=patch, dim=config["embed_dim"], depth=config["depth"], heads=config["num_heads"]
    )
    # The table covers eight patches of time, as published.
    shape["frames"] = 8 * patch[0]
    network = MotionEncoder(OMNIMAE_VITB.model_validate(OMNIMAE_VITB.model_dump() | shape))
    own = weights(case, "omnimae", under=case["checkpoint_key_prefix"])
    table = {"pos_embed": network.state_dict()["pos_embed"]}
    loaded(network, table | part(own, "trunk"))
    image = nn.functional.interpolate(required(case, "image"), size=(size, size), mode="bilinear", align_corners=False)
    features = network(image[:, :, None])
    return {
        "patch_features": features,
        "first_token": features[:, 0],
        "pos_embed": table["pos_embed"][:, : features.shape[1]],
    }


def run_geometry(case: Case) -> Tensors:
    """The published formulas: intrinsics, rays, camera paths, projection."""
    inputs, centre = case["inputs"], case["inputs"]["center"]
    size, frames = (inputs["height"], inputs["width"]), inputs["num_frames"]
    intrinsics = published.normalised_intrinsics(*size, tuple(inputs["reference_image_size"]))
    points = published.unproject(required(case, "depth"), intrinsics, size)
    paths = {
        "static": published.static(frames),
        "forward_backward": published.forward_backward(frames, radius=inputs["forward_backward_radius"]),
        "circle_rotating": published.circle_rotating(frames, centre=centre, radius=inputs["circle_rotating_radius"]),
        "surrounding": published.surrounding(frames, centre=centre),
        "camera_rotate": published.camera_rotate(frames, max_degrees=inputs["camera_rotate_max_degree"]),
    }
    # Frame 5, as the case's note says, where the path is that long.
    pose = paths["circle_rotating"][min(5, frames - 1)]
    uv, depth = published.project(points.reshape(-1, 3), intrinsics, pose)
    poses = {f"camera_to_world_{name}": path for name, path in paths.items()}
    return poses | {"intrinsic": intrinsics, "points": points, "projected_uv": uv, "projected_depth": depth}


KINDS: dict[str, Callable[[Case], Tensors]] = {
    "strag_transformer": run_strag,
    "vism_transformer": run_vism,
    "trajectory_codec": run_codec,
    "wan_vae": run_wan_vae,
    "omnimae": run_omnimae,
    "geometry": run_geometry,
}


@dataclass(frozen=True)
class Row:
    """One tensor of a case: its relative error, or why there is none."""

    case: str
    tensor: str
    error: float
    problem: str = ""

    @property
    def passes(self) -> bool:
        """Whether the tensor is there and near enough; an error that is not a number is not."""
        return not self.problem and self.error <= LIMIT


def check_case(folder: Path) -> Iterator[Row]:
    """A row for each tensor that the case expects."""
    case = json.loads((folder / "case.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    if case["kind"] not in KINDS:
        yield Row(folder.name, "-", math.nan, f"unknown kind {case['kind']}; the kinds are {', '.join(KINDS)}")
        return
    try:
        found = KINDS[case["kind"]](case)
    except (ValueError, KeyError, RuntimeError) as error:
        yield Row(folder.name, "-", math.nan, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    for name, truth in expected.items():
        if name not in found:
            yield Row(folder.name, name, math.nan, f"not computed; there are {', '.join(found)}")
        elif found[name].shape != truth.shape:
            yield Row(folder.name, name, math.nan, f"ours is {tuple(found[name].shape)}, not {tuple(truth.shape)}")
        else:
            yield Row(folder.name, name, relative_error(found[name], truth))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in float64."""
    truth = expected.double()
    return float((found.double() - truth).norm() / truth.norm())


@torch.no_grad()
def main() -> None:
    """Check every case under the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds one folder a case")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.folder.rglob("case.json"))
    if not folders:
        sys.exit(f"no case.json under {options.folder}")
    rows = [row for folder in folders for row in check_case(folder)]
    for row in rows:
        print(
            f"{row.case:24} {row.tensor:34} {row.problem or f'{row.error:.2e}':>9} {'' if row.passes else '  ABOVE THE BAR'}"
        )
    failed = sum(not row.passes for row in rows)
    print(f"{len(rows)} tensors of {len(folders)} cases, {failed} above {LIMIT}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
