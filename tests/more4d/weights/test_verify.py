import json
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d.models.architectures import ARCHITECTURES, Architecture
from more4d.models.bundle import Models
from more4d.models.conversion import to_published
from more4d.models.lora import LowRank, write_lora
from more4d.models.motion_encoder import MaskedAutoencoder
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.weights.expected import expected_tensors, to_our_names
from more4d.weights.registry import Weight, read_registry
from more4d.weights.verify import Verdict, compare, verify_weight
from safetensors.torch import save_file
from torch import Tensor

from tests.more4d.weights.conftest import weight

ROOT = Path(__file__).parents[3]
KEYS = ROOT / "tests" / "parity" / "keys"
FILE = "model.safetensors"


def _dit(**changes: Any) -> Weight:
    return weight(**({"layout": "wan_dit", "network": "vism", "file": [{"path": FILE}]} | changes))


@pytest.fixture
def dit(models: Models) -> dict[str, Tensor]:
    """The test networks' ViSM transformer as Wan publishes one."""
    return to_published("wan_dit", models.vism.state_dict())


def _verdict(state: dict[str, Tensor], store: Path, architecture: Architecture, **changes: Any) -> Verdict:
    (store / "toy").mkdir(exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, store / "toy" / FILE)
    return verify_weight(_dit(**changes), store, architecture=architecture)


def test_the_right_file_verifies_and_is_measured(
    dit: dict[str, Tensor], tmp_path: Path, architecture: Architecture
) -> None:
    verdict = _verdict(dit, tmp_path, architecture)
    assert verdict.fits, verdict.problems
    size, digest = verdict.measured[FILE]
    assert size == (tmp_path / "toy" / FILE).stat().st_size and len(digest) == 64
    assert any("for ViSMTransformer" in note for note in verdict.notes)


def test_missing_extra_misshapen_and_mixed_tensors_are_each_named(
    dit: dict[str, Tensor], tmp_path: Path, architecture: Architecture
) -> None:
    def problem(state: dict[str, Tensor]) -> str:
        return "; ".join(_verdict(state, tmp_path, architecture).problems)

    missing = {k: v for k, v in dit.items() if k != "head.modulation"}
    assert problem(missing) == "missing scale_shift_table"
    assert "extra.weight" in problem(dit | {"extra.weight": torch.zeros(2)})
    assert "is (24, 9), not (24,)" in problem(dit | {"patch_embedding.bias": torch.zeros(24, 9)})
    assert "mixed types" in problem(dit | {"head.modulation": dit["head.modulation"].half()})
    integers = {"patch_embedding.bias": torch.zeros(24, dtype=torch.int32)}
    assert "patch_embedding.bias is torch.int32" in problem(dit | integers)


def test_a_truncated_file_and_another_preset_are_named(
    dit: dict[str, Tensor], tmp_path: Path, architecture: Architecture
) -> None:
    assert "wrong shape" in "; ".join(_verdict(dit, tmp_path, ARCHITECTURES["tiny"]).problems)
    path = tmp_path / "toy" / FILE
    path.write_bytes(path.read_bytes()[:-100])
    (problem,) = verify_weight(_dit(), tmp_path, architecture=architecture).problems
    assert FILE in problem and "truncated" in problem


def test_a_pickle_with_code_in_it_is_not_opened(tmp_path: Path, architecture: Architecture) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "toy").mkdir()
    torch.save({"x": Evil()}, tmp_path / "toy" / "toy.pth")
    (problem,) = verify_weight(_dit(file=[{"path": "toy.pth"}]), tmp_path, architecture=architecture).problems
    assert "toy.pth holds Python objects" in problem
    assert not (tmp_path / "ran").exists()


def test_missing_wrong_size_and_wrong_hash_are_told_apart(
    dit: dict[str, Tensor], tmp_path: Path, architecture: Architecture
) -> None:
    assert "is missing" in verify_weight(_dit(), tmp_path, architecture=architecture).problems[0]
    recorded = _verdict(dit, tmp_path, architecture, file=[{"path": FILE, "sha256": "0" * 64}])
    assert "the registry says 0000" in recorded.problems[0]
    sized = _dit(file=[{"path": FILE, "bytes": 7}])
    assert "bytes, not 7" in verify_weight(sized, tmp_path, architecture=architecture).problems[0]


def test_the_motion_vae_folder_verifies_as_one_network(tmp_path: Path, architecture: Architecture) -> None:
    config = MotionVAEConfig(codec=architecture.motion_vae.codec, vae={"base_dim": 4})
    networks = architecture.model_copy(update={"motion_vae": config})
    published = to_published("motion_vae_folder", MotionVAE(config).state_dict())
    files = []
    for part in ("encoder_prompt", "decoder_prompt", "vae"):
        files.append({"path": f"VAE/{part}/pytorch_model.bin"})
        (tmp_path / "toy" / "VAE" / part).mkdir(parents=True)
        state = {k.removeprefix(f"{part}."): v for k, v in published.items() if k.startswith(f"{part}.")}
        torch.save(state, tmp_path / "toy" / files[-1]["path"])
    folder = _dit(layout="motion_vae_folder", network="motion_vae", file=files)
    assert verify_weight(folder, tmp_path, architecture=networks).problems == []


def test_a_lora_must_fit_the_layers_that_it_names(models: Models, tmp_path: Path, architecture: Architecture) -> None:
    (tmp_path / "toy").mkdir()
    width = models.vism.patch_embedding.weight.shape[0]
    change = LowRank(torch.zeros(2, width), torch.zeros(width, 2), 1.0)
    path = tmp_path / "toy" / FILE
    write_lora({"blocks.0.attn1.to_q": change}, path, models.vism)
    lora = _dit(layout="vism_lora")
    assert verify_weight(lora, tmp_path, architecture=architecture).problems == []
    wrong = {"lora_unet__blocks_0_self_attn_q.lora_down.weight": torch.zeros(2, width + 1)}
    save_file(wrong, path)
    (problem,) = verify_weight(lora, tmp_path, architecture=architecture).problems
    assert "lora_unet__blocks_0_self_attn_q" in problem


def _published_headers(name: str) -> dict[str, Tensor]:
    shapes = json.loads((KEYS / f"{name}.json").read_text())["keys"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "preset", "lists"),
    [
        ("moge4d-strag", "wan-14b", {"": "strag_14b"}),
        ("wan-fun-control-14b", "wan-14b", {"": "wan_fun_control_14b"}),
        ("wan-fun-control-1.3b", "wan-1.3b", {"": "wan_fun_control_1.3b"}),
        ("wan-fun-inp-14b", "wan-14b", {"": "wan_fun_inp_14b"}),
        ("wan-fun-inp-1.3b", "wan-1.3b", {"": "wan_fun_inp_1.3b"}),
        ("wan-vae", "wan-14b", {"": "wan_vae"}),
        ("omnimae-vitb", "wan-14b", {"": "omnimae_vitb"}),
        (
            "moge4d-motion-vae",
            "wan-14b",
            {"encoder_prompt.": "trajectory_encoder", "decoder_prompt.": "trajectory_decoder", "vae.model.": "wan_vae"},
        ),
    ],
)
def test_the_published_headers_are_what_each_registered_weight_is_expected_to_hold(
    name: str, preset: str, lists: dict[str, str]
) -> None:
    registered = read_registry(ROOT / "models" / "weights.toml").by_name[name]
    headers = {prefix + k: v for prefix, keys in lists.items() for k, v in _published_headers(keys).items()}
    expected = expected_tensors(registered, ARCHITECTURES[preset])
    assert expected is not None
    assert compare(to_our_names(registered, headers), expected) == []


def test_an_encoder_in_transformers_names_is_compared_with_ours(architecture: Architecture) -> None:
    text = expected_tensors(weight(layout="transformers", network="text"), architecture)
    assert text is not None
    one_name = {k: v for k, v in text.tensors.items() if k != "encoder.embed_tokens.weight"}
    assert compare(one_name, text) == []
    clip = weight(layout="transformers", network="image_encoder")
    expected = expected_tensors(clip, architecture)
    assert expected is not None
    older = {f"vision_model.{k}": v for k, v in expected.tensors.items()}
    older["vision_model.embeddings.position_ids"] = torch.zeros(1, 5)
    assert compare(to_our_names(clip, older), expected) == []


def test_omnimae_with_its_head_verifies_from_a_pickle(tmp_path: Path, architecture: Architecture) -> None:
    state = to_published("omnimae", MaskedAutoencoder(architecture.motion_encoder).state_dict())
    (tmp_path / "toy").mkdir()
    torch.save({"model": state}, tmp_path / "toy" / "vitb.torch")
    omnimae = _dit(layout="omnimae", network="motion_encoder", file=[{"path": "vitb.torch"}])
    assert verify_weight(omnimae, tmp_path, architecture=architecture).problems == []


@pytest.mark.parametrize(("layout", "reason"), [("wan_text", "missing block.0"), ("wan_image", "missing embeddings")])
def test_wans_encoder_files_are_compared_under_wans_names(
    layout: str, reason: str, tmp_path: Path, architecture: Architecture
) -> None:
    (tmp_path / "toy").mkdir()
    torch.save({"norm.weight": torch.zeros(3)}, tmp_path / "toy" / "toy.pth")
    encoder = _dit(layout=layout, network=None, file=[{"path": "toy.pth"}])
    (problem,) = verify_weight(encoder, tmp_path, architecture=architecture).problems
    assert reason in problem
