"""Claims about more4d.curation.records."""

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from more4d.curation.records import escape_formula, iter_records, write_csv


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "%0A", "|calc"])
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(text: str) -> None:
    assert escape_formula(text) == "'" + text


@pytest.mark.parametrize("value", ["A dog", "", "1.5", "a=b", -1, -0.5, None])
def test_other_cells_are_as_they_were(value: object) -> None:
    assert escape_formula(value) == value


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_is_written_is_read_again_whatever_it_holds(cells: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write_csv(path, ["a", "b"], [{"a": "x" + a, "b": "y" + b, "c": 1} for a, b in cells])
        rows = list(iter_records(path, {"a": "a", "b": "b"}, "utf-8"))
    found = [(row.values["a"][1:], row.values["b"][1:], row.problem) for row in rows]
    assert found == [(a, b, "") for a, b in cells]


def test_tabs_part_the_fields_of_a_tsv(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb\n1,5\t2\n")
    (found,) = iter_records(tmp_path / "t.tsv", {"x": "a"}, "utf-8")
    assert found.values == {"x": "1,5"}


def test_reading_a_table_leaves_the_field_limit_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "x" * 200_000 + "\n1\n")
    bad, good = iter_records(tmp_path / "t.csv", {"a": "a"}, "utf-8")
    assert "larger than field limit" in bad.problem and good.values == {"a": "1"}
    assert csv.field_size_limit() == 131_072
