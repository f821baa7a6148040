"""Values of a run by name: `python -m more4d.presets tiny --out params.yaml`.

A preset is another preset plus what differs. Every stage validates its own section.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

_FLOW = {"shift": 3.0, "prediction": "sample", "latent_weight": 1.0}

TINY: dict[str, Any] = {
    "preset": "tiny",
    "seed": 0,
    "video": {"frames": 13, "height": 64, "width": 96, "fps": 8.0},
    "source": {
        "rendered_train": 160,
        "rendered_val": 32,
        "novel_views": ["circle_left", "top_down"],
        "distractors": {"camera": 4, "still": 4, "uncountable": 4, "cuts": 4},
        "max_rejected_share": 0.25,
    },
    "clips": {
        "shots": "histogram",
        "cut_threshold": 0.3,
        "max_windows_per_clip": 6,
        "min_source_fps": 7,
        "filters": {
            "min_motion": 0.01,
            "max_camera_motion": 0.01,
            "min_brightness": 0.08,
            "max_brightness": 0.92,
            "min_contrast": 0.03,
            "max_repeated": 0.25,
            "max_text": 0.01,
        },
        "overlay_text": "rapidocr",
        "max_duplicate_distance": 0.1,
        "crf": 0,
        "max_rejected_share": 0.6,
    },
    "captions": {"captioner": "table", "min_words": 3, "max_characters": 300, "max_rejected_share": 0.2},
    "selection": {"judge": "rules", "max_rejected_share": 0.5},
    "depth": {"rendered": "ground_truth", "real": "network", "max_rejected_share": 0.2},
    "tracks": {
        "rendered": "ground_truth",
        "real": "flow",
        "flow": {
            "max_inconsistency": 1.0,
            "max_inconsistency_share": 0.2,
            "max_colour_change": 60.0,
            "still_pixels": 1.0,
            "gaps": [1, 2, 4],
            "flow_side": 384,
            "flow_smoothness": 5.0,
        },
        "min_visible_share": 0.3,
        "max_rejected_share": 0.3,
    },
    "trajscene": {
        "views": ["circle_left", "top_down"],
        "quality": {
            "min_depth_m": 0.1,
            "max_depth_m": 1000.0,
            "max_depth_jump": 1.5,
            "max_anomalous_share": 0.05,
            "max_depth_deviation": 1.3,
            "scale": 1.25,
            "max_scale_change": 0.33,
            "max_flow_error": 0.65,
            "max_unexplained_change": 0.15,
        },
        "shard_bytes": 100_000_000,
        "max_rejected_share": 0.5,
    },
    "data_report": {"gallery": 24},
    "motion_vae": {
        "loss": {"train_trajectory_encoder": False, "video_weight": 0.5},
        "train": {
            "steps": 40,
            "batch_size": 4,
            "learning_rate": 1.0e-4,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "checkpoint_every": 10,
        },
    },
    "latents": {"decoded": True},
    "strag": {
        "flow": _FLOW | {"signal_weight": 2.0, "decoded_weight": 3.0},
        "train": {
            "steps": 60,
            "batch_size": 16,
            "learning_rate": 3.0e-5,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "checkpoint_every": 20,
            "optimizer": "muon",
            "validate_every": 20,
            "trackers": ["dvclive", "tensorboard"],
        },
    },
    "vism": {
        "flow": _FLOW | {"decoded_weight": 4.0},
        "train": {
            "steps": 60,
            "batch_size": 8,
            "learning_rate": 3.0e-5,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "checkpoint_every": 20,
            "optimizer": "muon",
            "validate_every": 20,
            "trackers": ["dvclive", "tensorboard"],
        },
    },
    "samples": {"limit": 32, "batch_size": 16, "view_limit": 8, "predicted_depth": True},
    "evaluation": {"baseline_samples": 160},
    "scenes": {"clips": 4, "render_scale": 4},
}


def derive(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, nested groups merged."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = derive(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


_FEW_STEPS = {
    "train": {
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 1,
        "checkpoint_every": 2,
        "log_every": 1,
        "validate_every": 2,
    }
}
SMOKE = derive(
    TINY,
    {
        "preset": "smoke",
        "source": {
            "rendered_train": 6,
            "rendered_val": 2,
            "novel_views": ["circle_left"],
            "distractors": {"camera": 1, "still": 1, "uncountable": 1, "cuts": 1},
            "packaged": [],
        },
        "trajscene": {"views": ["circle_left"]},
        "data_report": {"gallery": 4},
        "motion_vae": _FEW_STEPS,
        "strag": _FEW_STEPS | {"validation": {"samples": 1}},
        "vism": _FEW_STEPS | {"validation": {"samples": 1}},
        "samples": {"limit": 2, "view_limit": 1},
        "evaluation": {"baseline_samples": 4},
        "scenes": {"photos": ["cat"], "clips": 0, "render_scale": 2},
    },
)
# A server that answers as OpenAI's does, on this machine: vLLM, SGLang. Each stage says which model it wants there.
_SERVER = {"base_url": "http://127.0.0.1:8000/v1", "concurrency": 32}
# The published trainings' steps and rates (paper section 5; what its scripts set beside). Batches are theirs, which are of
# one GPU, times the paper's four GPUs.
_PUBLISHED_TRAIN = {
    "device": "cuda",
    "schedule": "constant",
    "warmup_steps": 100,
    "betas": [0.9, 0.999],
    "ema_decay": 0.0,
    "precision": "bf16",
    "optimizer": "adamw",
    "log_every": 10,
    "prefetch": 2,
    "trackers": ["dvclive", "tensorboard"],
}
_PUBLISHED_CLIP = {"clip_norm": 0.05, "clip_start_factor": 5.0, "clip_decay_steps": 1000}
_PUBLISHED_FLOW = {
    "shift": 5.0,
    "prediction": "velocity",
    "signal_weight": 0.0,
    "decoded_weight": 0.0,
    "max_error": 50.0,
    "drop_text": 0.1,
    "drop_image": 0.02,
    "drop_control": 0.02,
    "drop_reference": 0.02,
}
WAN_14B = derive(
    TINY,
    {
        "preset": "wan-14b",
        "video": {"frames": 49, "height": 368, "width": 512, "fps": 8.0},
        "source": {
            "rendered_train": 0,
            "rendered_val": 0,
            "novel_views": [],
            "distractors": {"camera": 0, "still": 0, "uncountable": 0, "cuts": 0},
            "packaged": [],
            "tables": [{"path": "datasets/webvid.csv", "schemes": ["https"]}],
            "max_rejected_share": 0.5,
        },
        "clips": {"shots": "transnetv2", "cut_threshold": 0.5, "crf": 12, "max_rejected_share": 0.95},
        "captions": {
            "captioner": "vlm",
            "server": _SERVER | {"model": "THUDM/cogvlm2-video-llama3-chat", "answers": "text", "system_role": False},
            "max_characters": 1000,
        },
        "selection": {
            "judge": "llm",
            "server": _SERVER | {"base_url": "http://127.0.0.1:8001/v1", "model": "deepseek-ai/DeepSeek-V3"},
            "max_rejected_share": 0.95,
        },
        "depth": {
            "real": "unidepth_v2",
            "external": {
                "unidepth_v2": {
                    "python": ".cache/labelers/unidepth/bin/python",
                    "weights": "models/third_party/unidepth-v2-vitl14",
                }
            },
        },
        "tracks": {
            "real": "delta",
            "external": {
                "delta": {
                    "python": ".cache/labelers/delta/bin/python",
                    "weights": "models/third_party/delta/densetrack3d.pth",
                }
            },
        },
        "trajscene": {"shard_bytes": 1_000_000_000, "max_rejected_share": 0.7},
        "motion_vae": {
            "loss": {
                "reconstruction": "published",
                "kl_weight": 1.0e-6,
                "video_weight": 0.0,
                "train_trajectory_encoder": True,
                "decoder_rate": 0.1,
            },
            "train": _PUBLISHED_TRAIN
            | {
                "steps": 5000,
                "batch_size": 4,
                "learning_rate": 5.0e-6,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "checkpoint_every": 500,
                "guard": {"skip_sigmas": 6.0, "window": 1000},
            },
        },
        "latents": {"decoded": False, "device": "cuda", "spare_gigabytes": 2000.0},
        "strag": {
            "flow": _PUBLISHED_FLOW,
            "train": _PUBLISHED_TRAIN
            | _PUBLISHED_CLIP
            | {
                "steps": 2000,
                "batch_size": 12,
                "accumulate": 3,
                "learning_rate": 2.0e-5,
                "weight_decay": 0.03,
                "eps": 1.0e-10,
                "strategy": "fsdp2",
                "recompute": "full",
                "checkpoint_every": 100,
                "checkpoints": {"keep_last": 2, "keep_every": 1000, "asynchronous": True},
            },
        },
        "vism": {
            "flow": _PUBLISHED_FLOW,
            "lora": {"rank": 128, "alpha": 64.0, "merge_weight": 0.55},
            "train": _PUBLISHED_TRAIN
            | _PUBLISHED_CLIP
            | {
                "steps": 10000,
                "batch_size": 8,
                "accumulate": 2,
                "learning_rate": 1.0e-4,
                "weight_decay": 0.03,
                "eps": 1.0e-10,
                "strategy": "fsdp2",
                "recompute": "full",
                "checkpoint_every": 500,
                "checkpoints": {"keep_last": 2, "asynchronous": True},
            },
        },
        "samples": {"limit": 100, "batch_size": 1, "view_limit": 20},
        "evaluation": {"baseline_samples": 1000},
        "scenes": {"render_scale": 2},
    },
)
# Small enough that every GPU of 80 GB holds all of it: nothing is cut among ranks.
WAN_1_3B = derive(
    WAN_14B,
    {
        "preset": "wan-1.3b",
        "strag": {"train": {"strategy": "auto", "recompute": "selective"}},
        "vism": {"train": {"strategy": "auto", "recompute": "selective"}},
    },
)
PRESETS: dict[str, dict[str, Any]] = {each["preset"]: each for each in (SMOKE, TINY, WAN_1_3B, WAN_14B)}


def write_preset(name: str, file: Path) -> None:
    """Write a preset as params.yaml. Raises ValueError listing the known names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    header = f"# Preset {name}, written by `python -m more4d.presets {name} --out {file.name}`; edit freely.\n"
    file.write_text(header + yaml.safe_dump(PRESETS[name], sort_keys=False, width=120))


def main(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(PRESETS)}")],
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("params.yaml"),
) -> None:
    """Write a preset's values as params.yaml."""
    try:
        write_preset(name, out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
