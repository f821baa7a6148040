import pytest
from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints import CheckpointStore, require_same_model

SHAPES = {"blocks.0.weight": (16, 6), "blocks.0.bias": (7,), "blocks.0.count": (), "empty": (0, 3)}


def test_the_same_network_is_accepted(store: CheckpointStore) -> None:
    found = store.latest()
    assert found is not None
    require_same_model(found, SHAPES)
    require_same_model(found, {"blocks.0.weight": (16, 6)}, prefix="ema/")


def test_another_network_is_refused_by_key_and_shape(store: CheckpointStore) -> None:
    found = store.latest()
    assert found is not None
    other = {"blocks.0.weight": (16, 8), "blocks.0.bias": (7,), "blocks.0.count": (), "blocks.1.weight": (2,)}
    with pytest.raises(CheckpointError) as caught:
        require_same_model(found, other)
    assert "1 missing: blocks.1.weight [2]; 1 extra: empty [0, 3]" in str(caught.value)
    assert "1 of another shape: blocks.0.weight is [16, 6], not [16, 8]" in str(caught.value)
