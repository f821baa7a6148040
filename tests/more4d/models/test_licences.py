from pathlib import Path

import pytest
from more4d.models.licences import LICENCES, OWN, read_licence, write_licences


def test_a_network_has_the_licence_that_its_own_folder_says(tmp_path: Path) -> None:
    write_licences(tmp_path, {"strag": "CC BY-NC 4.0"})
    (tmp_path / "other").mkdir()
    assert read_licence("strag", tmp_path / "strag.safetensors") == "CC BY-NC 4.0"
    assert read_licence("depth", tmp_path / "depth.safetensors") == OWN
    assert read_licence("strag", tmp_path / "other" / "strag.safetensors") == OWN == "Apache-2.0"


@pytest.mark.parametrize("text", ["{", "[]", '{"strag": 1}'])
def test_what_is_no_table_of_licences_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / LICENCES).write_text(text)
    with pytest.raises(ValueError, match=r"licences\.json must hold a licence for each network"):
        read_licence("strag", tmp_path / "strag.safetensors")
