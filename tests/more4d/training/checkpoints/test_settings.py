import pytest
from more4d.training.checkpoints import CheckpointSettings


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"keep_every": -1}, {"keep_lats": 2}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CheckpointSettings(**wrong)
