"""Weights of umt5 and CLIP as others publish them: Hugging Face's folders, and Wan's own files."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from more4d.models.conversion.reading import read_published

Model = TypeVar("Model", bound=PreTrainedModel)
Names = Sequence[tuple[str, str]]
"""Patterns of others' names and what they become, in transformers' own notation for `re.sub`."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a Hugging Face checkpoint. Raises ValueError where there is none, or it is not JSON."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"no checkpoint at {folder}: config.json is missing")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error


def require_same(folder: Path, stored: Mapping[str, Any], ours: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises ValueError where a checkpoint's config says otherwise than ours about one of `names`."""
    different = [f"{n}={stored[n]!r}, not {ours[n]!r}" for n in names if n in stored and stored[n] != ours[n]]
    if different:
        raise ValueError(f"{folder / 'config.json'} is of another architecture: {'; '.join(different)}")


def load_transformers(kind: type[Model], folder: Path, dtype: torch.dtype | None) -> Model:
    """A transformers model from its folder, local files alone; never a pickle with code in it.

    Raises ValueError naming the weights that are missing or do not fit; others' weights in the folder are left.
    """
    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        loaded: Any = kind.from_pretrained(folder, dtype=dtype or "auto", **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold a {kind.__name__}: {error}") from error
    model, info = loaded
    problems = [f"missing {k}" for k in sorted(info["missing_keys"])]
    problems += [f"{k} is {tuple(found)}, not {tuple(wanted)}" for k, found, wanted in sorted(info["mismatched_keys"])]
    if problems:
        raise ValueError(f"{folder} does not hold a {kind.__name__}: {'; '.join(problems[:8])}")
    return model


def load_renamed(
    network: nn.Module,
    file: Path,
    names: Names,
    dtype: torch.dtype | None,
    *,
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda stored: stored,
) -> None:
    """Fill `network`, built on the meta device, from a .pth in Wan's names, mapped into memory rather than read.

    `prepare` runs before the names are changed. Raises ValueError naming every key or shape that does not fit.
    """
    stored = prepare(read_published(file))
    renamed = {_rename(name, names): value if dtype is None else value.to(dtype) for name, value in stored.items()}
    wanted = network.state_dict()
    problems = [f"missing {k}" for k in sorted(wanted.keys() - renamed.keys())]
    problems += [f"unexpected {k}" for k in sorted(renamed.keys() - wanted.keys())]
    problems += [
        f"{k} is {tuple(renamed[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in renamed and renamed[k].shape != v.shape
    ]
    if problems:
        raise ValueError(f"{file} does not fit {type(network).__name__}: {'; '.join(problems[:8])}")
    network.load_state_dict(renamed, assign=True)


def _rename(name: str, names: Names) -> str:
    for pattern, replacement in names:
        if found := re.match(pattern, name):
            return found.expand(replacement) + name[found.end() :]
    return name
