"""Whether fetched files are what the registry and the networks expect: by hash where recorded, by header always."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from more4d.data.hashing import hash_file
from more4d.models.architectures import Architecture
from more4d.models.bundle import build_vism
from more4d.models.conversion.reading import outlines, read_published
from more4d.models.image_encoder import ImageEncoder
from more4d.models.lora import kohya_names
from more4d.models.pretrained import load_renamed
from more4d.models.text import WAN_NAMES, TextEncoder
from more4d.weights.expected import Expected, expected_tensors, preset_of, to_our_names
from more4d.weights.fetch import missing_files
from more4d.weights.registry import STORE, Layout, Weight

SHOWN = 8
"""Names listed of a long list of problems."""


@dataclass
class Verdict:
    """What was found of one weight; it fits when there are no problems."""

    weight: Weight
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Bytes and SHA-256 of each file that was hashed."""

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_weight(
    weight: Weight, store: Path = STORE, *, hashes: bool = True, architecture: Architecture | None = None
) -> Verdict:
    """What is wrong with the weight's files: missing, of another size or hash, or not the expected tensors.

    Without `hashes` only sizes and headers are read, which takes no time. `architecture` is the preset's by default.
    """
    verdict = Verdict(weight)
    for file in missing_files(weight, store):
        path = store / weight.name / file.path
        found = f"has {path.stat().st_size} bytes, not {file.bytes}" if path.is_file() else "is missing"
        verdict.problems.append(f"{path} {found}")
    if verdict.problems:
        return verdict
    if hashes:
        _check_hashes(verdict, store)
    _check_header(verdict, store, architecture or preset_of(weight))
    return verdict


def compare(found: Mapping[str, Tensor], expected: Expected) -> list[str]:
    """Every way in which tensors differ from those of the expected network, each in one line."""
    wanted = expected.tensors
    free = expected.tied if found.keys() & expected.tied else frozenset()
    problems = _listed("missing", sorted(wanted.keys() - found.keys() - free))
    problems += _listed("unexpected", sorted(found.keys() - wanted.keys()))
    shapes = {k: (tuple(found[k].shape), tuple(wanted[k].shape)) for k in wanted if k in found}
    wrong = [f"{k} is {a}, not {b}" for k, (a, b) in shapes.items() if a != b]
    return problems + _listed("wrong shape:", wrong) + _type_problems(found, wanted)


def _check_hashes(verdict: Verdict, store: Path) -> None:
    for file in verdict.weight.file:
        path = store / verdict.weight.name / file.path
        found = hash_file(path)
        verdict.measured[file.path] = path.stat().st_size, found
        if file.sha256 is None:
            verdict.notes.append(f"{file.path}: no hash is recorded; measured {found}")
        elif file.sha256 != found:
            verdict.problems.append(f"{path} has sha256 {found}, the registry says {file.sha256}")


def _check_header(verdict: Verdict, store: Path, architecture: Architecture) -> None:
    weight = verdict.weight
    try:
        tensors = _read_headers(weight, store)
        if weight.layout == "vism_lora":
            verdict.problems += _lora_problems(tensors, architecture)
        elif weight.layout in ("wan_text", "wan_image"):
            _load_encoder(store / weight.name / weight.file[0].path, weight.layout, architecture)
            verdict.notes.append(f"{len(tensors)} tensors, {_types(tensors)}, in Wan's names")
        elif (expected := expected_tensors(weight, architecture)) is not None:
            verdict.problems += compare(to_our_names(weight, tensors), expected)
            verdict.notes.append(f"{len(tensors)} tensors, {_types(tensors)}, for {expected.network}")
        elif tensors:
            verdict.notes.append(f"{len(tensors)} tensors, {_types(tensors)}; read by its own package alone")
    except ValueError as error:
        verdict.problems.append(str(error))


def _read_headers(weight: Weight, store: Path) -> dict[str, Tensor]:
    """All tensors of a weight's checkpoint files; those of a folder of networks with their folder's name before."""
    tensors: dict[str, Tensor] = {}
    for file in weight.file:
        if not file.is_checkpoint:
            continue
        prefix = f"{PurePosixPath(file.path).parent.name}." if weight.layout == "motion_vae_folder" else ""
        header = outlines(read_published(store / weight.name / file.path))
        # A network alone may come with or without the wrapper that the folder's table has.
        if prefix == "vae." and not all(name.startswith("model.") for name in header):
            prefix = "vae.model."
        tensors |= {prefix + name: value for name, value in header.items()}
    return tensors


def _load_encoder(file: Path, layout: Layout, architecture: Architecture) -> None:
    """Put Wan's own encoder file in place, mapped and not read. Raises ValueError naming what does not fit."""
    if layout == "wan_image":
        ImageEncoder.from_wan(file, config=architecture.image_encoder)
        return
    with torch.device("meta"):
        network = TextEncoder(architecture.text).encoder
    load_renamed(network, file, WAN_NAMES, None)


def _lora_problems(tensors: Mapping[str, Tensor], architecture: Architecture) -> list[str]:
    """What of a kohya-named LoRA does not fit the transformer's linear layers."""
    with torch.device("meta"):
        network = build_vism(architecture)
    names, weights = kohya_names(network), network.state_dict()
    wrong = []
    for key, value in tensors.items():
        layer, _, part = key.partition(".")
        target = weights.get(f"{names.get(layer)}.weight")
        if target is None or not _fits(part, value, target):
            wrong.append(f"{key} {tuple(value.shape)}")
    return _listed(f"does not fit {type(network).__name__}:", wrong)


def _fits(part: str, value: Tensor, target: Tensor) -> bool:
    """Whether a LoRA's tensor goes with the weight [O, I] that it changes: up [O, R], down [R, I], a number alpha."""
    if part == "alpha":
        return value.numel() == 1
    side = {"lora_down.weight": 1, "lora_up.weight": 0}.get(part)
    return side is not None and value.ndim == 2 and value.shape[side] == target.shape[side]


def _type_problems(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    both = [k for k in wanted if k in found]
    whole = [k for k in both if wanted[k].is_floating_point() and not found[k].is_floating_point()]
    problems = _listed("not floating point:", [f"{k} is {found[k].dtype}" for k in whole])
    for part in sorted({_part(k) for k in both}):
        types = Counter(str(found[k].dtype) for k in both if _part(k) == part and found[k].is_floating_point())
        if len(types) > 1:
            problems.append(f"mixed types{f' in {part}' if part else ''}: {_count(types)}")
    return problems


def _part(name: str) -> str:
    """Which of several networks in a file a tensor belongs to."""
    head = name.split(".", 1)[0]
    return head if head in ("strag", "motion_encoder", "trajectory_encoder", "trajectory_decoder", "vae") else ""


def _types(tensors: Mapping[str, Tensor]) -> str:
    return _count(Counter(str(value.dtype) for value in tensors.values()))


def _count(types: Counter[str]) -> str:
    return ", ".join(f"{number} {name.removeprefix('torch.')}" for name, number in types.most_common())


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {', '.join(names[:SHOWN])}{more}"]
