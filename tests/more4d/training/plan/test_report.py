import pytest
from more4d.training.plan.__main__ import main


def table(text: str) -> list[dict[str, str]]:
    """A Markdown table's rows."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_table_answers_for_every_training_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wan-1.3b", "--gpus", "4", "8", "--memory-gb", "24", "80"]) == 0
    rows = table(capsys.readouterr().out)
    assert len(rows) == 4 * 2 * 2
    assert {row["training"] for row in rows} == {"4D-STraG", "4D-STraG, LoRA", "4D-ViSM", "4D-ViSM, LoRA"}
    for row in rows:
        parts = ("weights", "gradients", "optimizer", "average", "buffers", "activations")
        assert sum(float(row[part]) for part in parts) == pytest.approx(float(row["GB on a GPU"]), abs=0.5)
        assert ("does not fit" in row["plan"]) == (float(row["GB on a GPU"]) > 0.92 * float(row["GB each"]))


def test_a_plan_can_be_asked_for_one_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--gpus", "2", "--memory-gb", "80", "--strategy", "zero2", "--average"]) == 0
    rows = table(capsys.readouterr().out)
    assert all(row["plan"].startswith("zero2, ") for row in rows)


def test_a_batch_that_cannot_be_divided_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--gpus", "2", "--batch-size", "3"]) == 2
    assert "cannot be divided among 2 ranks" in capsys.readouterr().err
