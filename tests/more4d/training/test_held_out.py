import pytest
import torch
from more4d.data.sample import Sample
from more4d.geometry.motion import MotionScale
from more4d.models.architectures import Architecture
from more4d.models.bundle import Models
from more4d.models.vae import MotionVAE
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.held_out import HeldOutMotions, HeldOutViews
from more4d.training.validation import CodecValidation, ValidationSettings, row_sums
from torch import Tensor


def test_motions_are_those_that_the_cache_could_have_held(models: Models, samples: list[Sample]) -> None:
    scale = models.vae.config.motion_camera
    bare, full = (DirectLatents(models, samples, decoded=decoded, dtype="float32") for decoded in (False, True))
    held_out = HeldOutMotions(bare, list(reversed(samples)), scale)
    indices = torch.tensor([2, 0])
    found, expected = held_out.batch(indices), full.batch(indices)
    assert found.keys() == expected.keys() | {"depth"}
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert torch.equal(found["depth"][1], torch.from_numpy(samples[0].depth))
    assert (held_out.size, held_out.ids, held_out.buckets) == (3, bare.ids, bare.buckets)
    assert held_out.sample(2).id == samples[2].id


def test_views_are_those_that_the_cache_could_have_held(models: Models, samples: list[Sample]) -> None:
    bare, full = (DirectViews(models, samples, decoded=decoded, dtype="float32") for decoded in (False, True))
    indices = torch.arange(bare.size)
    found, expected = HeldOutViews(bare, samples).batch(indices), full.batch(indices)
    assert bare.size == 4 and found.keys() == expected.keys() | {"render"}
    assert all(torch.allclose(found[key].float(), expected[key].float(), atol=1e-6) for key in expected)
    covered = ~found["holes"][:, None].expand_as(found["video"])
    assert torch.equal(found["render"][:1][covered[:1]], found["video"][:1][covered[:1]])


def test_a_sample_without_truth_is_refused_before_any_work(models: Models, samples: list[Sample]) -> None:
    bare = DirectLatents(models, samples, decoded=False)
    with pytest.raises(ValueError, match=r"1 of 3 held-out samples, scene-00002 for one, are not in the dataset"):
        HeldOutMotions(bare, samples[:2], "sample")
    with pytest.raises(ValueError, match=r"measures on motion, unit, visible, which DirectLatents does not hold"):
        CodecValidation(models.vae, bare, ValidationSettings(), None, fps=8.0)

    class Nameless:
        size = 3

        def batch(self, indices: Tensor) -> dict[str, Tensor]:
            return {}

    with pytest.raises(ValueError, match="Nameless does not name its samples"):
        HeldOutMotions(Nameless(), samples, "sample")


def test_errors_in_metres_do_not_depend_on_the_units_of_motion(
    architecture: Architecture, samples: list[Sample]
) -> None:
    """Metres for every point alike, as in the ablation, tell no depth: the dataset's own is taken."""
    source, metric = Plain([sample.id for sample in samples]), (0.5, 0.25, 2.0)
    scales: list[MotionScale] = ["sample", metric]
    batches = [HeldOutMotions(source, samples, scale).batch(torch.arange(3)) for scale in scales]
    for row in range(3):
        found = [row_sums(torch.zeros_like(batch["motion"]), batch, row) for batch in batches]
        assert found[0] == pytest.approx(found[1], rel=1e-4)
        assert found[0]["moving_count"] > 0 and found[0]["model_moving_error"] > 0
    vae = MotionVAE(architecture.motion_vae.model_copy(update={"motion_camera": metric}))
    without = Plain(source.ids, HeldOutMotions(source, samples, metric), "depth")
    with pytest.raises(ValueError, match="measures on depth, which Plain does not hold"):
        CodecValidation(vae, without, ValidationSettings(), None, fps=8.0)


class Plain:
    """Rows that hold nothing, or those of another source without one field."""

    def __init__(self, ids: list[str], source: HeldOutMotions | None = None, without: str = "") -> None:
        self.ids, self.size, self.source, self.without = ids, len(ids), source, without

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        rows = {} if self.source is None else self.source.batch(indices)
        return {key: value for key, value in rows.items() if key != self.without}
