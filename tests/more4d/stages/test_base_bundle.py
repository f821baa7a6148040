import json
from pathlib import Path

import pytest
import torch
from more4d.models.bundle import NETWORKS, Models
from more4d.stages.base import VideoSpec, fingerprint, run_stage
from more4d.stages.base_bundle import STAGE, BaseBundleParams

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)


def test_the_parts_become_one_checkpoint(base_workspace: Path, models: Models) -> None:
    result = run_stage(STAGE, params=BaseBundleParams(), video=VIDEO, seed=0, workers=1, root=base_workspace)
    folder = base_workspace / "models/tiny-base"
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert result.metrics["megabytes"] == pytest.approx(size / 1e6)
    data = json.loads((folder / "data.json").read_text())
    scenes = base_workspace / "infra/tiny-base/build/scenes"
    assert data == {"scenes": json.loads((scenes / "scenes.json").read_text()), "sha256": fingerprint(scenes)}
    loaded = Models.load(folder)
    assert loaded.config == models.config
    for name in NETWORKS:
        mine, theirs = getattr(models, name).state_dict(), getattr(loaded, name).state_dict()
        assert all(torch.allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-3) for key in mine)


def test_a_part_that_does_not_fit_is_refused_and_the_old_checkpoint_stays(base_workspace: Path) -> None:
    run_stage(STAGE, params=BaseBundleParams(), video=VIDEO, seed=0, workers=1, root=base_workspace)
    before = {path.name: path.read_bytes() for path in (base_workspace / "models/tiny-base").iterdir()}
    wrong = base_workspace / "infra/tiny-base/build/vism/vism.safetensors"
    wrong.write_bytes((base_workspace / "infra/tiny-base/build/strag/strag.safetensors").read_bytes())
    with pytest.raises(ValueError, match="does not fit ViSMTransformer"):
        run_stage(STAGE, params=BaseBundleParams(), video=VIDEO, seed=0, workers=1, root=base_workspace)
    assert {path.name: path.read_bytes() for path in (base_workspace / "models/tiny-base").iterdir()} == before
