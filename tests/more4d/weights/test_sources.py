from pathlib import Path

import pytest
from more4d import cli
from more4d.models.bundle import NETWORKS, VIDEO_VAE
from more4d.weights import read_registry
from more4d.weights.registry import Weight
from more4d.weights.sources import licences_of, parts_of, sources_of

ROOT = Path(__file__).parents[3]
SHIPPED = read_registry(ROOT / "models" / "weights.toml")


def _put(parts: dict[str, Weight], store: Path) -> None:
    """Empty files of the recorded sizes; sparse, so that they take no room."""
    for weight in parts.values():
        for file in weight.file:
            path = store / weight.name / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as opened:
                opened.truncate(file.bytes or 1)


def test_the_released_networks_make_the_large_presets_checkpoint(tmp_path: Path) -> None:
    parts = parts_of(SHIPPED, "wan-14b", training=False)
    assert {name: w.name for name, w in parts.items()} == {
        "motion_vae": "moge4d-motion-vae", "vism": "wan-fun-inp-14b", "text": "umt5-xxl", "image_encoder": "clip-vit-h",
        "tokenizer": "umt5-xxl-tokenizer", "strag": "moge4d-strag", "vism_lora": "moge4d-vism-lora",
        "video_vae": "wan-vae",
    }  # fmt: skip
    _put(parts, tmp_path)
    sources = sources_of(parts, tmp_path, Path("depth.safetensors"))
    assert sources.motion_vae == tmp_path / "moge4d-motion-vae" / "VAE" and sources.motion_vae.is_dir()
    assert sources.tokenizer.name == "tokenizer.json"
    for path in (
        sources.vism,
        sources.text,
        sources.image_encoder,
        sources.strag,
        sources.vism_lora,
        sources.video_vae,
    ):
        assert path is not None and path.is_file()


@pytest.mark.parametrize(("preset", "training"), [("wan-1.3b", False), ("wan-14b", True)])
def test_training_starts_from_the_base_and_so_does_a_size_without_a_release(preset: str, training: bool) -> None:
    parts = parts_of(SHIPPED, preset, training=training)
    assert "strag" not in parts
    assert parts["strag_base"].name == f"wan-fun-control-{preset.removeprefix('wan-')}"
    assert parts["omnimae"].name == "omnimae-vitb"


def test_every_network_of_a_checkpoint_has_the_licences_of_its_parts() -> None:
    released = licences_of(parts_of(SHIPPED, "wan-14b", training=False))
    assert released.keys() == {*NETWORKS, VIDEO_VAE}
    assert "CC BY-NC 4.0" in released["strag"] and released["strag"] == released["motion_encoder"]
    assert released["vism"] == "Apache-2.0, merged with MIT"
    assert (released["vae"], released["image_encoder"], released["text"], released["depth"]) == (
        "MIT", "MIT", "Apache-2.0", "Apache-2.0",
    )  # fmt: skip
    start = licences_of(parts_of(SHIPPED, "wan-1.3b", training=True))
    assert (start["strag"], start["motion_encoder"], start["vism"]) == ("Apache-2.0", "CC BY-NC 4.0", "Apache-2.0")


def test_what_is_not_fetched_is_named_and_the_tiny_preset_has_no_published_networks(tmp_path: Path) -> None:
    parts = parts_of(SHIPPED, "wan-14b", training=False)
    _put({k: v for k, v in parts.items() if k != "vism"}, tmp_path)
    with pytest.raises(FileNotFoundError, match="^wan-fun-inp-14b are not in"):
        sources_of(parts, tmp_path, Path("depth.safetensors"))
    with pytest.raises(ValueError, match="no published motion_vae is made for preset tiny"):
        parts_of(SHIPPED, "tiny", training=False)


@pytest.mark.parametrize(
    ("preset", "extra", "code", "reason"),
    [
        ("wan-14b", [], 1, "more4d weights fetch moge4d-motion-vae"),
        ("wan-14b", ["--commercial-safe"], 1, "refused: moge4d-strag"),
        ("wan-1.3b", ["--commercial-safe"], 1, "refused: omnimae-vitb"),
        ("tiny", [], 2, "no published motion_vae"),
    ],
)
def test_assemble_refuses_in_one_line(
    preset: str, extra: list[str], code: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", preset, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    registry = ["--registry", str(ROOT / "models" / "weights.toml")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", "assemble", *options, *registry, *extra])
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and not (tmp_path / "out").exists()
