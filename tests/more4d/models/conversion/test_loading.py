from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError, load_published, reading, to_published
from more4d.models.motion_encoder import TINY, MaskedAutoencoder
from more4d.models.strag import STraGTransformer
from more4d.models.vism import ViSMTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

Change = Callable[[dict[str, Tensor]], object]


def equal(network: nn.Module, other: nn.Module) -> bool:
    mine, theirs = network.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in theirs)


def run(network: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 36, 2, 4, 6), (1, 7, 16), (1, 5, 20)
    video, text, image = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    with torch.no_grad():
        return network(video, torch.tensor([37.0]), text, image)


def test_a_loaded_network_is_the_saved_one(file: Path, shards: Path, vism: ViSMTransformer) -> None:
    for path in (file, shards):
        with torch.device("meta"):
            empty = ViSMTransformer.from_config(vism.config)
        loaded = load_published(empty.eval(), path, "wan_dit")
        assert equal(loaded, vism)
        assert torch.equal(run(loaded), run(vism))


def test_a_loaded_network_can_be_trained_and_outlives_its_file(file: Path, empty: ViSMTransformer) -> None:
    loaded = load_published(empty, file, "wan_dit")
    file.unlink()
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        loaded.patch_embedding.weight.add_(1)
    loaded.requires_grad_(False)


def test_loading_into_a_network_with_weights_keeps_which_are_trained(file: Path, vism: ViSMTransformer) -> None:
    other = ViSMTransformer.from_config(vism.config)
    other.requires_grad_(False).proj_out.requires_grad_(True)
    load_published(other, file, "wan_dit")
    assert equal(other, vism)
    assert [name for name, p in other.named_parameters() if p.requires_grad] == ["proj_out.weight", "proj_out.bias"]


def test_what_was_read_is_the_networks_own_before_the_next_is_read(
    shards: Path, empty: ViSMTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = reading.ShardedState.read, []

    def watched(state: reading.ShardedState, name: str, dtype: torch.dtype | None = None) -> Tensor:
        loaded = [p.data_ptr() for p in empty.parameters() if not p.is_meta]
        assert sorted(loaded) == sorted(tensor.data_ptr() for tensor in seen)
        seen.append(read(state, name, dtype))
        return seen[-1]

    monkeypatch.setattr(reading.ShardedState, "read", watched)
    load_published(empty, shards, "wan_dit", dtype=torch.bfloat16)
    assert len(seen) == len(empty.state_dict())


def test_the_rotary_tables_are_made_although_no_file_holds_them(file: Path, vism: ViSMTransformer) -> None:
    with torch.device("meta"):
        empty = ViSMTransformer.from_config(vism.config)
        assert empty.rope.freqs_cos.is_meta
        loaded = load_published(empty, file, "wan_dit", dtype=torch.bfloat16)
    assert torch.equal(loaded.rope.freqs_cos, vism.rope.freqs_cos)
    assert torch.equal(loaded.rope.freqs_sin, vism.rope.freqs_sin)


def test_a_buffer_that_nothing_fills_is_named(file: Path, empty: ViSMTransformer) -> None:
    empty.register_buffer("table", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(ValueError, match="table of ViSMTransformer are in no checkpoint"):
        load_published(empty, file, "wan_dit")


def test_another_dtype_is_the_rounding_of_the_file(file: Path, empty: ViSMTransformer, vism: ViSMTransformer) -> None:
    loaded = load_published(empty, file, "wan_dit", dtype=torch.bfloat16)
    assert equal(loaded, vism.to(torch.bfloat16))
    assert run(loaded, torch.bfloat16).isfinite().all()


def test_without_a_dtype_the_files_own_stays(state: dict[str, Tensor], empty: ViSMTransformer, tmp_path: Path) -> None:
    save_file({k: v.to(torch.bfloat16) for k, v in state.items()}, tmp_path / "x.safetensors")
    loaded = load_published(empty, tmp_path / "x.safetensors", "wan_dit")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_mixed_dtypes_are_refused_unless_one_is_given(
    state: dict[str, Tensor], empty: ViSMTransformer, tmp_path: Path
) -> None:
    save_file(state | {"head.head.bias": state["head.head.bias"].half()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"mixes dtypes .*1 in float16: proj_out.bias.*give the dtype"):
        load_published(empty, tmp_path / "x.safetensors", "wan_dit")
    assert all(p.is_meta for p in empty.parameters())
    loaded = load_published(empty, tmp_path / "x.safetensors", "wan_dit", dtype=torch.float32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.head.bias"), r"1 missing: proj_out.bias 64 \("),
        (lambda s: s.update({"blocks.7.modulation": s["blocks.0.modulation"].clone()}),
         r"1 extra: blocks.7.scale_shift_table 1x6x24 \(the file is 24 wide with 3 blocks, the network 24 wide with 2"),
        (lambda s: s.update({"head.head.bias": torch.zeros(63)}), r"1 of another shape: proj_out.bias is 63, not 64"),
        (lambda s: s.update({"patch_embedding.weight": torch.zeros(24, 48, 1, 2, 2)}),
         r"patch_embedding.weight is 24x48x1x2x2, not 24x36x1x2x2"),
        (lambda s: s.update({"vace_blocks.0.norm.bias": torch.zeros(3)}),
         r"layout wan_dit \(.*\) has no vace_blocks.0.norm.bias: another kind of checkpoint"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    change: Change, message: str, state: dict[str, Tensor], empty: ViSMTransformer, tmp_path: Path
) -> None:
    change(state)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_published(empty, tmp_path / "x.safetensors", "wan_dit")
    assert all(p.is_meta for p in empty.parameters())


def test_a_wrong_preset_is_told_by_width_and_depth(file: Path, vism: ViSMTransformer) -> None:
    with torch.device("meta"):
        wider = ViSMTransformer.from_config({**vism.config, "num_attention_heads": 4, "num_layers": 3})
    with pytest.raises(CheckpointError, match="the file is 24 wide with 2 blocks, the network 48 wide with 3 blocks"):
        load_published(wider, file, "wan_dit")


def test_a_wrong_layout_is_told_by_the_keys_and_an_unknown_one_by_the_list(file: Path, empty: ViSMTransformer) -> None:
    with pytest.raises(CheckpointError, match="layout wan_vae .* has no .* and 7[0-9] more: another kind"):
        load_published(empty, file, "wan_vae")
    with pytest.raises(CheckpointError, match="no layout 'dit'; the layouts are wan_dit, strag, wan_vae"):
        load_published(empty, file, "dit")


def test_the_released_strag_fills_the_transformer_and_the_motion_encoder_inside(tmp_path: Path) -> None:
    small = dict(num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, motion_dim=8)
    made = nn.ModuleDict({"strag": STraGTransformer(**small), "motion_encoder": MaskedAutoencoder(TINY)})
    with torch.device("meta"):
        empty = nn.ModuleDict({"strag": STraGTransformer(**small), "motion_encoder": MaskedAutoencoder(TINY)})
    published = to_published("strag", made.state_dict())
    assert sum(key.startswith("omnimae_extractor.") for key in published) == len(made["motion_encoder"].state_dict())
    save_file(published, tmp_path / "x.safetensors")
    assert equal(load_published(empty, tmp_path / "x.safetensors", "strag"), made)
