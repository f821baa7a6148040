from pathlib import Path

import pytest
from more4d.models.architectures import ARCHITECTURES
from more4d.models.conversion import LAYOUTS
from more4d.weights.registry import CONVERTIBLE, Preset, read_registry

ROOT = Path(__file__).parents[3]


def test_the_shipped_registry_is_valid_and_names_the_presets_and_layouts_that_there_are() -> None:
    shipped = read_registry(ROOT / "models" / "weights.toml")
    assert set(Preset.__args__) == set(ARCHITECTURES)
    assert set(CONVERTIBLE) <= set(LAYOUTS)
    assert {w.layout for w in shipped.weight if w.network} <= {*CONVERTIBLE, "wan_text", "wan_image"}
    for preset in ("wan-1.3b", "wan-14b"):
        networks = {w.network for w in shipped.needed(preset)}
        assert {"strag-base", "vism", "wan_vae", "text", "image_encoder", "motion_encoder"} <= networks


def test_every_part_that_forbids_commercial_use_names_what_to_use_instead() -> None:
    shipped = read_registry(ROOT / "models" / "weights.toml")
    refusals = {w.name: w.refusal() for w in shipped.weight if w.commercial == "no"}
    assert {"unidepth-v2-vitl14", "omnimae-vitb", "delta", "inria-gaussian-rasterizer", "moge4d-strag"} <= set(refusals)
    assert "MoGe" in refusals["unidepth-v2-vitl14"] and "gsplat" in refusals["inria-gaussian-rasterizer"]
    assert "optical-flow" in refusals["delta"]
    assert all(w.refusal() == "" for w in shipped.weight if w.commercial != "no")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"'), "Extra inputs"),
        (('commercial = "yes"', 'commercial = "no"'), "terms must say why"),
        (('replacement = "toy (MIT)"', ""), "replacement must name another way"),
        (('path = "deep/toy.bin"', 'path = "../toy.bin"'), "leaves its folder"),
        (('path = "deep/toy.bin"', 'path = "toy.bin"\nsha256 = "abc"'), "sha256"),
        (('name = "forbidden"', 'name = "toy"'), "named twice"),
        (('steps = ["views"]', 'steps = ["dreams"]'), "steps"),
        (('name = "toy"', "name = toy"), "is not TOML"),
    ],
)
def test_a_wrong_entry_is_named(registry: Path, change: tuple[str, str], reason: str) -> None:
    registry.write_text(registry.read_text().replace(*change, 1))
    with pytest.raises(ValueError, match=reason):
        read_registry(registry)


def test_an_unknown_name_is_told_with_the_known_ones(registry: Path) -> None:
    with pytest.raises(ValueError, match="no weight is named none; the names are toy, forbidden"):
        read_registry(registry).named(["toy", "none"])
