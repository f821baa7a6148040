"""Each thing that a preset needs, looked at: what was found, whether it will do, and what to do if it will not."""

import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from more4d.doctor.estimate import Prediction
from more4d.doctor.machine import Machine
from more4d.models.bundle import NETWORKS, VIDEO_VAE, Models, build, read_architecture, read_tokenizer
from more4d.models.conversion.stored import places
from more4d.weights.expected import Expected, expected_tensors, preset_of
from more4d.weights.fetch import missing_files
from more4d.weights.registry import Registry, Weight
from more4d.weights.sources import parts_of
from more4d.weights.verify import compare, verify_weight

Status = Literal["ok", "note", "missing"]
CONSTRAINTS = Path("infra/constraints.txt")
TINY_BASE = Path("models/tiny-base")
OLDEST_PYTHON = (3, 11)
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_SHOWN = 6
_GB = 1e9


@dataclass(frozen=True)
class Check:
    """One finding; `todo` is what to do about it, one line, where it is missing."""

    name: str
    status: Status
    found: str
    todo: str = ""


def check_python() -> Check:
    """Whether Python is new enough."""
    found = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "missing", found, "install Python 3.11 or newer and run `make setup` with it")


def check_packages(constraints: Path = CONSTRAINTS) -> list[Check]:
    """Whether every required package is there and new enough, and how versions differ from those tested."""
    wrong = [problem for line in requires("more4d") or [] if (problem := _unmet(Requirement(line)))]
    todo = "run `make setup`" if wrong else ""
    first = Check("packages", "missing" if wrong else "ok", "; ".join(wrong) or "all that are required", todo)
    if not constraints.is_file():
        return [first, Check("versions", "note", f"{constraints} is not here: versions were not compared")]
    pins = dict(line.split("==") for line in constraints.read_text().split() if "==" in line)
    found = {name: _version(name) for name in pins}
    differing = [
        f"{name} {found[name]}, tested with {pin}" for name, pin in pins.items() if _public(found[name]) != pin
    ]
    shown = "; ".join(differing[:_SHOWN]) + (f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else "")
    return [first, Check("versions", "note" if differing else "ok", shown or f"as in {constraints}")]


def check_codec() -> Check:
    """Whether videos can be written."""
    import av

    try:
        av.Codec("libx264", "w")
    except ValueError:
        return Check(
            "video", "missing", f"PyAV {av.__version__} has no libx264", "install PyAV's own wheel: `make setup`"
        )
    return Check("video", "ok", f"PyAV {av.__version__} with libx264")


def check_chromium() -> Check:
    """Whether the tests of the pages can run; nothing else needs it."""
    found = next((path for name in _CHROMIUM if (path := shutil.which(name))), None)
    return Check(
        "chromium", "ok" if found else "note", found or "not found: the tests of the report and the UI need it"
    )


def check_machine(machine: Machine, preset: str) -> list[Check]:
    """The processor and the accelerator."""
    cpu = f"{machine.cores} cores, {machine.threads} threads, {machine.ram / _GB:.0f} GB of memory"
    checks = [Check("processor", "ok", f"{cpu}, {machine.ram_available / _GB:.0f} GB free")]
    if machine.device == "cpu":
        found = "none: everything runs on the processor in float32"
        return [*checks, Check("gpu", "ok" if preset == "tiny" else "note", found)]
    precision = "bf16" if machine.bf16 else "no bf16: float16"
    found = (
        f"{machine.name}, {machine.memory / _GB:.0f} GB, compute capability {machine.compute_capability}, {precision}"
    )
    return [*checks, Check("gpu", "ok", found)]


def check_fit(machine: Machine, predictions: Sequence[Prediction], number_bytes: int) -> list[Check]:
    """Whether each step fits the device's memory, and the weights of all its networks the machine's."""
    checks = []
    for p in predictions:
        if p.offload is None:
            least = min(p.peak_bytes.values()) / _GB
            found = f"{p.step} needs at least {least:.1f} GB, {machine.device} has {machine.memory / _GB:.1f} GB"
            checks.append(Check("memory", "missing", found, f"{found}: take a smaller preset or another machine"))
            continue
        host = sum(p.parameters.values()) * number_bytes
        if p.offload != "none" and host > machine.ram_available:
            found = f"{p.step} with {p.offload} offload keeps {host / _GB:.0f} GB in memory"
            found += f", of which {machine.ram_available / _GB:.0f} GB are free"
            checks.append(Check("memory", "missing", found, f"{found}: free memory or take a smaller preset"))
    return checks or [Check("memory", "ok", "every step fits")]


def check_tiny(folder: Path) -> Check:
    """Whether the tiny base is there and its networks fit."""
    try:
        models = Models.load(folder)
    except ValueError as error:
        todo = f"give --checkpoint a whole checkpoint folder, or leave it out to check {TINY_BASE}"
        if folder == TINY_BASE:
            todo = f"run `git checkout {folder}` or `make tiny-base`"
        return Check("weights", "missing", str(error), todo)
    hashes = ", ".join(f"{name} {digest[:12]}" for name, digest in models.hashes.items())
    return Check("weights", "ok", f"{folder}: {hashes}")


def check_assembled(folder: Path, preset: str) -> list[Check]:
    """Whether an assembled checkpoint folder is the preset's and its networks fit, by their files' headers alone."""
    make = f"`more4d weights assemble --preset {preset} --out FOLDER`"
    todo = f"give --checkpoint a folder that {make} made"
    try:
        architecture, tokenizer = read_architecture(folder), read_tokenizer(folder)
    except ValueError as error:
        return [Check("weights", "missing", str(error), todo)]
    if architecture.name != preset:
        found = f"{folder} is of preset {architecture.name}, not {preset}"
        return [Check("weights", "missing", found, f"{found}: {todo}")]
    with torch.device("meta"):
        models = build(architecture, tokenizer)
        networks = {name: getattr(models, name) for name in NETWORKS}
        if (folder / f"{VIDEO_VAE}.safetensors").is_file():
            networks[VIDEO_VAE] = models.vae.vae
    return [_check_network(network, folder / f"{name}.safetensors", todo) for name, network in networks.items()]


def check_weights(registry: Registry, preset: str, store: Path, *, commercial_safe: bool) -> list[Check]:
    """Whether the weights that the preset's checkpoint is assembled from are there and are what they should be."""
    parts, checks = parts_of(registry, preset, training=False), []
    if "strag" not in parts:
        found = f"no 4D-STraG of size {preset} is released"
        checks.append(Check("weights", "missing", found, f"{found}: fetch {parts['strag_base'].name} and train one"))
    return checks + [_check_weight(w, store, commercial_safe=commercial_safe) for w in _weights(parts)]


def check_disk(registry: Registry, preset: str, store: Path, machine: Machine) -> Check:
    """Whether the disk has room for what `more4d weights fetch --preset` has still to fetch.

    Sizes that are not recorded are those of the networks in bf16.
    """
    wanted = _weights(parts_of(registry, preset, training=False))
    absent = [(w, f) for w in wanted for f in missing_files(w, store)]
    known = sum(f.bytes or 0 for _, f in absent)
    unrecorded = {w.name: w for w, f in absent if f.bytes is None and f.is_checkpoint}
    known += sum(_predicted_bytes(w) for w in unrecorded.values())
    found = f"{machine.disk_free / _GB:.0f} GB free; about {known / _GB:.0f} GB still to fetch"
    found += f", of which the sizes of {len(unrecorded)} weights are not recorded" if unrecorded else ""
    if known > machine.disk_free:
        return Check("disk", "missing", found, f"free {(known - machine.disk_free) / _GB:.0f} GB at {store}")
    return Check("disk", "ok", found)


def _weights(parts: Mapping[str, Weight]) -> list[Weight]:
    """The weights of a checkpoint's parts, each once."""
    return list({weight.name: weight for weight in parts.values()}.values())


def _predicted_bytes(weight: Weight) -> int:
    """Of a network's weights in bf16; 0 for what is not a whole network of ours."""
    expected = None if weight.layout == "vism_lora" else expected_tensors(weight, preset_of(weight))
    return 2 * sum(tensor.numel() for tensor in expected.tensors.values()) if expected is not None else 0


def _check_network(network: nn.Module, file: Path, todo: str) -> Check:
    """Whether a file of ours holds just the tensors of a network on the meta device."""
    try:
        found = {name: place.outline() for name, place in places(file).items()}
    except ValueError as error:
        return Check("weights", "missing", str(error), todo)
    if problems := compare(found, Expected(type(network).__name__, network.state_dict())):
        return Check("weights", "missing", f"{file}: {'; '.join(problems)}", f"{file}: {problems[0]}; {todo}")
    return Check("weights", "ok", f"{file}: {len(found)} tensors for {type(network).__name__}")


def _check_weight(weight: Weight, store: Path, *, commercial_safe: bool) -> Check:
    """Whether a weight may be used, is there and fits."""
    if commercial_safe and weight.refusal():
        return Check("weights", "missing", f"refused: {weight.refusal()}", f"refused: {weight.refusal()}")
    if missing_files(weight, store):
        safe = " --commercial-safe" if commercial_safe else ""
        todo = f"run `more4d weights fetch {weight.name}{safe}`"
        return Check("weights", "missing", f"{weight.name} is not here", todo)
    verdict = verify_weight(weight, store, hashes=False)
    if verdict.fits:
        return Check("weights", "ok", f"{weight.name}: {'; '.join(verdict.notes) or 'there'}")
    todo = f"fetch {weight.name} again: {verdict.problems[0]}"
    return Check("weights", "missing", "; ".join(verdict.problems), todo)


def _unmet(requirement: Requirement) -> str:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    needed = requirement.specifier
    return "" if needed.contains(found, prereleases=True) else f"{requirement.name} {found} is not {needed}"


def _public(found: str | None) -> str | None:
    """A version without its build, such as +cpu."""
    return found and found.split("+")[0]


def _version(name: str) -> str | None:
    try:
        return version(canonicalize_name(name))
    except PackageNotFoundError:
        return None
