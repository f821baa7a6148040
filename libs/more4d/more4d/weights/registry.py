"""`models/weights.toml`: every third-party file, where it is, what its licence allows, which step needs it."""

import tomllib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from more4d.settings import Section

REGISTRY = Path("models/weights.toml")
STORE = Path("models/third_party")
"""Each weight's files lie in a folder of its name here."""

Preset = Literal["tiny", "wan-1.3b", "wan-14b"]
"""Names of more4d.models.architectures, written again because importing it loads torch."""
Layout = Literal[
    "wan_dit",
    "strag",
    "wan_vae",
    "motion_vae_folder",
    "omnimae",
    "vism_lora",
    "wan_text",
    "wan_image",
    "diffusers",
    "transformers",
    "other",
]
CONVERTIBLE: tuple[Layout, ...] = ("wan_dit", "strag", "wan_vae", "motion_vae_folder", "omnimae", "vism_lora")
Network = Literal["strag", "strag-base", "vism", "motion_vae", "wan_vae", "motion_encoder", "text", "image_encoder"]
Step = Literal[
    "training", "trajectories", "views", "depth", "tracks", "captions", "selection", "rendering", "evaluation"
]
_CHECKPOINT = frozenset({".safetensors", ".pth", ".pt", ".bin", ".torch"})


class WeightFile(Section):
    """One file of a repository; a size or hash that is not recorded is None."""

    path: str
    """Within the repository, and within the weight's folder."""
    bytes: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError(f"{value!r} leaves its folder; use a relative path without '..'")
        return value

    @property
    def is_checkpoint(self) -> bool:
        """Whether it holds tensors."""
        return PurePosixPath(self.path).suffix in _CHECKPOINT


class Weight(Section):
    """A third-party part: weights to fetch, or code or a service that is named for its licence alone."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["weights", "code", "service"] = "weights"
    repository: str = Field(min_length=3)
    """A Hugging Face id (owner/name), or the URL of the folder that the files lie in."""
    revision: str | None = None
    """Commit, tag or branch; None takes the main branch's head."""
    layout: Layout
    network: Network | None = None
    """Which of our networks the file is, once converted."""
    folder: str | None = None
    """Of the repository: what a folder layout is read from."""
    presets: tuple[Preset, ...] = ()
    steps: tuple[Step, ...] = Field(min_length=1)
    licence: str = Field(min_length=1)
    commercial: Literal["yes", "no", "conditional"]
    terms: str = ""
    replacement: str = ""
    alternatives: tuple[str, ...] = ()
    """Weights of this registry of which one is enough."""
    manual: bool = False
    """The files cannot be downloaded by a program."""
    file: tuple[WeightFile, ...] = ()

    @model_validator(mode="after")
    def _says_enough(self) -> "Weight":
        if self.commercial != "yes" and not self.terms:
            raise ValueError(f"{self.name}: commercial is {self.commercial!r}, so terms must say why")
        if self.commercial == "no" and not self.replacement:
            raise ValueError(f"{self.name}: its licence forbids commercial use, so replacement must name another way")
        if self.kind == "weights" and not self.file:
            raise ValueError(f"{self.name}: weights need at least one file")
        return self

    @property
    def on_hub(self) -> bool:
        """Whether the repository is a Hugging Face id."""
        return "://" not in self.repository

    @property
    def bytes(self) -> int | None:
        """Size of all files, None where one is not recorded."""
        sizes = [file.bytes for file in self.file]
        return None if not sizes or None in sizes else sum(size for size in sizes if size)

    def refusal(self) -> str:
        """Why it may not be used commercially, and what may; empty where it may."""
        if self.commercial != "no":
            return ""
        return f"{self.name} ({self.licence}): {self.terms}; use {self.replacement} instead"


class Registry(Section):
    """All parts, by unique names."""

    weight: tuple[Weight, ...]

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> "Registry":
        names = [w.name for w in self.weight]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"{', '.join(twice)} named twice")
        unknown = sorted({a for w in self.weight for a in w.alternatives} - set(names))
        if unknown:
            raise ValueError(f"alternatives name {', '.join(unknown)}, which no weight is")
        return self

    @cached_property
    def by_name(self) -> dict[str, Weight]:
        """Each part by its name."""
        return {weight.name: weight for weight in self.weight}

    def named(self, names: Iterable[str]) -> list[Weight]:
        """The parts of these names. Raises ValueError listing the known names when one is not among them."""
        names = list(dict.fromkeys(names))
        if unknown := [n for n in names if n not in self.by_name]:
            raise ValueError(f"no weight is named {', '.join(unknown)}; the names are {', '.join(self.by_name)}")
        return [self.by_name[n] for n in names]

    def needed(self, preset: str, steps: Sequence[Step] | None = None) -> list[Weight]:
        """The weights that a preset needs, for some steps or all."""
        return [
            w
            for w in self.weight
            if w.kind == "weights" and preset in w.presets and (steps is None or set(steps) & set(w.steps))
        ]


def read_registry(path: Path = REGISTRY) -> Registry:
    """The registry in `path`. Raises ValueError naming the file and the first entry that is wrong."""
    if not path.is_file():
        raise ValueError(f"no registry of weights at {path}; run in the repository's root or give --registry")
    try:
        return Registry.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
