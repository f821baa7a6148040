import contextlib
import json
import os
from pathlib import Path

import pytest
import torch
from more4d.training.checkpoint import Progress, load_training, save_training
from torch import Tensor, nn
from torch.optim import AdamW


class Run:
    """A layer, its average and its optimizer after some steps."""

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(3, 2)
        self.optimizer = AdamW(self.module.parameters(), lr=0.1)
        for _ in range(steps):
            self.module(torch.ones(1, 3)).sum().backward()
            self.optimizer.step()
        self.ema = {key: value * 0.5 for key, value in self.module.state_dict().items()}
        self.progress = Progress(steps, [{"step": steps, "loss": 0.1 + steps}])

    def save(self, folder: Path) -> None:
        """Write the state."""
        save_training(folder, self.progress, self.module, self.ema, [self.optimizer])

    def load(self, folder: Path) -> Progress:
        """Read a state into this run."""
        return load_training(folder, self.module, self.ema, [self.optimizer])

    def tensors(self) -> list[Tensor]:
        """Weights, average and moments."""
        moments = [
            self.optimizer.state[p][k] for p in self.module.parameters() for k in ("step", "exp_avg", "exp_avg_sq")
        ]
        return [*self.module.state_dict().values(), *self.ema.values(), *moments]


def equal(one: Run, other: Run) -> bool:
    """Whether both hold the same numbers."""
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def test_what_was_saved_is_restored_in_place(tmp_path: Path) -> None:
    saved, fresh = Run(3), Run(1)
    saved.save(tmp_path)
    assert fresh.load(tmp_path) == saved.progress
    assert equal(fresh, saved)


def test_an_empty_folder_is_the_beginning(tmp_path: Path) -> None:
    fresh = Run(1)
    assert fresh.load(tmp_path / "none") == Progress(0, [])
    assert equal(fresh, Run(1))


@pytest.mark.parametrize("moment", range(6))
def test_interrupted_at_any_moment_the_old_or_the_new_state_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    Run(1).save(tmp_path)
    calls = iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.suppress(KeyboardInterrupt):
        Run(2).save(tmp_path)
    found = Run(3)
    progress = found.load(tmp_path)
    assert progress.step in (1, 2)
    assert equal(found, Run(progress.step))
    assert (progress.step == 1) == (moment < 3)


def test_files_that_the_newest_state_does_not_name_are_neither_read_nor_kept(tmp_path: Path) -> None:
    Run(1).save(tmp_path)
    (tmp_path / "step-00000099.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000002.safetensors.partial").write_bytes(b"half")
    assert Run(3).load(tmp_path).step == 1
    Run(2).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"latest.json", "step-00000002.safetensors"}


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    Run(1).save(tmp_path)
    file, latest = tmp_path / "step-00000001.safetensors", tmp_path / "latest.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"the training state in .* is damaged .*; delete it to start again"):
        Run(1).load(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        Run(1).load(tmp_path)
    file.write_bytes(whole)
    latest.write_text(latest.read_text()[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        Run(1).load(tmp_path)


def test_the_position_is_plain_json(tmp_path: Path) -> None:
    Run(1).save(tmp_path)
    state = json.loads((tmp_path / "latest.json").read_text())
    assert state == {"step": 1, "file": "step-00000001.safetensors", "history": [{"step": 1, "loss": 1.1}]}
