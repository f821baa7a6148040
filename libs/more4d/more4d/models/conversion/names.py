"""Layouts, and the renaming of a checkpoint's tensors between published names and ours by the table's rows."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from more4d.models.conversion import table

Rows = tuple[tuple[str, str], ...]
"""Published and our name of each tensor, with placeholders."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file, its keys and their shapes."""


@dataclass(frozen=True)
class Layout:
    """One published way to name the tensors of a network."""

    network: str
    """Which of our networks it fits, in words."""
    rows: Rows
    width: str
    """Our name of a vector that is as long as the network is wide: what tells a wrong preset."""
    wrapper: str = ""
    """A prefix that some files put before every name."""

    @cached_property
    def readers(self) -> dict[bool, list[tuple[re.Pattern[str], str]]]:
        """Pattern of one side and template of the other; under True those that lead back to the published names."""
        onward = [(_pattern(theirs, table.PUBLISHED_UNIT), mine) for theirs, mine in self.rows]
        return {False: onward, True: [(_pattern(mine, table.OUR_UNIT), theirs) for theirs, mine in self.rows]}


def _pattern(template: str, unit: str) -> re.Pattern[str]:
    allowed = table.PLACEHOLDERS | {"unit": unit}
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{x}>{allowed[x]})" if i % 2 else re.escape(x) for i, x in enumerate(pieces)))


def _rows(text: str, published: str = "", ours: str = "") -> Rows:
    """The rows of a table, with a prefix before each side."""
    pairs = (line.split() for line in text.splitlines() if line.strip())
    return tuple((published + theirs, ours + mine) for theirs, mine in pairs)


def _lora_rows() -> Rows:
    linears = [[side.removesuffix(".{p}") for side in row] for row in _rows(table.WAN_DIT) if row[0].endswith(".{p}")]
    return tuple(
        (theirs.replace("{layer}", "lora_unet__" + layer.replace(".", "_")), mine.replace("{layer}", ours))
        for layer, ours in linears
        if layer not in table.NOT_LINEAR
        for theirs, mine in _rows(table.KOHYA_LORA)
    )


LAYOUTS: Mapping[str, Layout] = {
    "wan_dit": Layout("ViSMTransformer, or STraGTransformer before its motion guidance", _rows(table.WAN_DIT),
                      "patch_embedding.bias"),
    "strag": Layout("STraGTransformer as `strag` and MaskedAutoencoder as `motion_encoder`",
                    _rows(table.WAN_DIT + table.MOTION_GUIDANCE, ours="strag.")
                    + _rows(table.OMNIMAE, "omnimae_extractor.", "motion_encoder."),
                    "strag.patch_embedding.bias"),
    "wan_vae": Layout("AutoencoderKLWan", _rows(table.WAN_VAE), "encoder.conv_in.bias", wrapper="model."),
    "trajectory_encoder": Layout("TrajectoryEncoder", _rows(table.TRAJECTORY_ENCODER), "net.conv_in.bias"),
    "trajectory_decoder": Layout("TrajectoryDecoder", _rows(table.TRAJECTORY_DECODER), "net.conv_in.bias"),
    "motion_vae_folder": Layout("MotionVAE",
                                _rows(table.TRAJECTORY_ENCODER, "encoder_prompt.", "trajectory_encoder.")
                                + _rows(table.TRAJECTORY_DECODER, "decoder_prompt.", "trajectory_decoder.")
                                + _rows(table.WAN_VAE, "vae.model.", "vae."),
                                "vae.encoder.conv_in.bias"),
    "omnimae": Layout("MaskedAutoencoder", _rows(table.OMNIMAE), "trunk.norm.bias"),
    "vism_lora": Layout("an adapter of ViSMTransformer, as peft names it", _lora_rows(), ""),
}  # fmt: skip
"""Every published layout by its name."""


def layout_of(name: str) -> Layout:
    """The layout of this name. Raises CheckpointError that lists the known ones."""
    if name not in LAYOUTS:
        raise CheckpointError(f"there is no layout {name!r}; the layouts are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def rename(layout: str, names: Iterable[str], *, back: bool = False) -> dict[str, str]:
    """Our name of each published one or, going `back`, the published one of each of ours.

    All names of a checkpoint belong in one call: how many layers a block of the VAE's decoder has is read from them.
    Raises CheckpointError naming those that the layout does not have, and those that would become one.
    """
    given, found = list(names), layout_of(layout)
    wrapper = found.wrapper if not back and all(n.startswith(found.wrapper) for n in given) else ""
    resnets = _resnets_per_block(given, back=back)
    renamed = {n: _translate(found, n.removeprefix(wrapper), resnets, back=back) for n in given}
    if unknown := [name for name, new in renamed.items() if new is None]:
        kind = "our names for" if back else "layout"
        raise CheckpointError(f"{kind} {layout} ({found.network}) has no {listed(unknown)}: another kind of checkpoint")
    known = {name: new for name, new in renamed.items() if new is not None}
    count = Counter(known.values())
    if twice := [name for name, new in known.items() if count[new] > 1]:
        raise CheckpointError(f"{listed(twice)} stand for the same tensors in layout {layout}")
    return known


def _translate(layout: Layout, name: str, resnets: int, *, back: bool) -> str | None:
    for pattern, template in layout.readers[back]:
        if match := pattern.fullmatch(name):
            values = match.groupdict()
            if "unit" in values:
                values["unit"] = (_published_unit if back else _our_unit)(values["unit"], resnets)
            return template.format(**values)
    return None


def _our_unit(number: str, resnets: int) -> str:
    """Layer `number` of Wan's VAE decoder by block: `resnets` residual layers, then what doubles the resolution."""
    block, place = divmod(int(number), resnets + 1)
    return f"{block}.upsamplers.0" if place == resnets else f"{block}.resnets.{place}"


def _published_unit(unit: str, resnets: int) -> str:
    block, kind, place = unit.split(".")
    return str(int(block) * (resnets + 1) + (resnets if kind == "upsamplers" else int(place)))


def _resnets_per_block(names: list[str], *, back: bool) -> int:
    pattern = r"decoder\.up_blocks\.0\.resnets\.(\d+)\." if back else r"decoder\.upsamples\.(\d+)\.resample\."
    numbers = [int(match[1]) for name in names if (match := re.search(pattern, name))]
    if back:
        return max(numbers, default=0) + 1
    # Without an upsampler all layers are of one block.
    return min(numbers, default=len(names))


def listed(items: list[str], limit: int = 8) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def to_ours(layout: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state under our names; the tensors are the same. Raises CheckpointError naming keys that do not belong."""
    return {new: state[old] for old, new in rename(layout, state).items()}


def to_published(layout: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state under its published names; the tensors are the same. Raises CheckpointError like `to_ours`."""
    return {new: state[old] for old, new in rename(layout, state, back=True).items()}


def part(state: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """The tensors of one network of several, such as `strag` or `motion_encoder` of the layout `strag`."""
    prefix = f"{network}."
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
