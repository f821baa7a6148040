import pytest
import torch
from more4d.models.architectures import ARCHITECTURES, TINY, WAN_1_3B, WAN_14B, Architecture
from more4d.models.bundle import NETWORKS, build, build_strag, build_vism
from more4d.models.text import build_tokenizer
from pydantic import ValidationError


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_survives_its_own_json(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.name == name
    assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture


def test_an_unknown_or_impossible_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="layer"):
        Architecture.model_validate(TINY.model_dump() | {"strag": TINY.strag.model_dump() | {"layer": 3}})
    with pytest.raises(ValidationError, match="heads"):
        Architecture.model_validate(TINY.model_dump() | {"strag": TINY.strag.model_dump() | {"heads": 0}})


def test_the_tiny_checkpoint_fits_into_20_megabytes_in_half_precision() -> None:
    models = build(TINY, build_tokenizer(["a fox"], TINY.text.vocabulary))
    weights = sum(t.numel() for name in NETWORKS for t in getattr(models, name).state_dict().values())
    assert 2 * weights < 20e6


@pytest.mark.parametrize("architecture", [WAN_1_3B, WAN_14B], ids=lambda a: a.name)
def test_the_published_transformers_have_the_published_shapes(architecture: Architecture) -> None:
    one_layer = {"strag": architecture.strag.model_copy(update={"layers": 1})}
    one_layer["vism"] = one_layer["strag"]
    with torch.device("meta"):
        strag, vism = (make(architecture.model_copy(update=one_layer)) for make in (build_strag, build_vism))
    width = architecture.strag.heads * architecture.strag.head_dim
    assert strag.patch_embedding.weight.shape == (width, 64, 1, 2, 2)
    assert vism.patch_embedding.weight.shape == (width, 36, 1, 2, 2)
    assert strag.condition_embedder.text_embedder.linear_1.weight.shape == (width, 4096)
    assert strag.reference_embedding.weight.shape == (width, 16, 2, 2)
    assert strag.motion_adapter[0].weight.shape == (768, 768, 3, 3)
    assert {k for k in strag.state_dict() if "motion" not in k and "reference" not in k} == set(vism.state_dict())
