import subprocess
import sys
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest
from more4d import cli
from more4d.inference.generate import Request
from more4d.inference.scene import Scene, read_scene
from more4d.scenes import render_scene, sample_scene
from more4d.training.base_scenes import held_out_seeds

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo file of 90x120 pixels."""
    v, u = np.indices((90, 120))
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.stack([u, v, u + v], -1).astype(np.uint8))
    return path


def _generate(*arguments: object) -> int:
    """The exit code of `more4d generate`."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_generate_writes_a_scene_folder_that_inspect_understands(
    photo: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "scene"
    arguments = ["--image", photo, "--prompt", "a patch moves", "--camera", "spiral", "--camera", "static"]
    assert _generate(*arguments, "--out", out, "--checkpoint", checkpoint, "--seed", 4, "--render-scale", 2) == 0
    scene = read_scene(out)
    assert (scene.seed, scene.prompt, set(scene.views)) == (4, "a patch moves", {"spiral", "static"})
    assert scene.image.shape == (64, 96, 3)
    assert len(scene.models) == 7
    assert "scene hash" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["scene", "inspect", str(out)])
    assert stop.value.code == 0
    assert "camera spiral: at least" in capsys.readouterr().out


def _bad_inputs(photo: Path, folder: Path) -> dict[str, tuple[dict[str, object], str]]:
    text = folder / "notes.txt"
    text.write_text("no picture")
    (folder / "taken").mkdir()
    return {
        "not an image": ({"--image": text}, "not an image"),
        "no such image": ({"--image": folder / "none.png"}, "no such file"),
        "empty prompt": ({"--prompt": " "}, "prompt is empty"),
        "unknown camera": ({"--camera": "sideways"}, "the cameras are static"),
        "missing checkpoint": ({"--checkpoint": folder / "nowhere"}, "make tiny-base"),
        "out exists": ({"--out": folder / "taken"}, "exists; choose another"),
        "bad intrinsics": ({"--intrinsics": "1,2,3"}, "four numbers"),
        "bad depth": ({"--depth": text}, "not .txt"),
        "no number": ({"--steps": "many"}, "--steps"),
        "unknown option": ({"--quality": "high"}, "--quality"),
    }


@pytest.mark.parametrize(
    "case",
    ["not an image", "no such image", "empty prompt", "unknown camera", "missing checkpoint", "out exists",
     "bad intrinsics", "bad depth", "no number", "unknown option"],
)  # fmt: skip
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    case: str, photo: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, reason = _bad_inputs(photo, tmp_path)[case]
    good: dict[str, object] = {"--image": photo, "--prompt": "a patch moves", "--camera": "static"}
    options = good | {"--out": tmp_path / "scene", "--checkpoint": checkpoint} | changes
    before = sorted(tmp_path.rglob("*"))
    assert _generate(*(word for pair in options.items() for word in pair)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1 and reason in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_option_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert _generate("--prompt", "a patch moves") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_force_replaces_a_scene_and_nothing_else(photo: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--image", photo, "--prompt", "a patch moves", "--camera", "static", "--checkpoint", checkpoint]
    arguments += ["--render-scale", 1, "--no-complete", "--out", tmp_path / "scene"]
    assert _generate(*arguments) == 0
    assert _generate(*arguments, "--seed", 1) == 2
    assert read_scene(tmp_path / "scene").seed == 0
    assert _generate(*arguments, "--seed", 1, "--force") == 0
    assert read_scene(tmp_path / "scene").seed == 1


def test_the_command_line_starts_without_loading_the_networks() -> None:
    code = "import sys, more4d.cli; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    """The first frame of a held-out scene in which one ball rolls left."""
    specs = (sample_scene(seed) for seed in held_out_seeds(0, 200))
    spec = next(s for s in specs if (s.kind, s.direction) == ("ball", "left") and "rolls" in s.caption)
    path = tmp_path / "ball.png"
    cv2.imwrite(str(path), render_scene(spec, frames=1, height=64, width=96).video[0][..., ::-1])
    return path


def test_the_shipped_base_moves_what_the_prompt_says_to_where_it_says(ball: Path, tmp_path: Path) -> None:
    def made(prompt: str, name: str) -> Scene:
        options = ["--prompt", prompt, "--camera", "static", "--render-scale", 1, "--no-complete"]
        assert (
            _generate(
                "--image", ball, *options, "--checkpoint", ROOT / cli.DEFAULT_CHECKPOINT, "--out", tmp_path / name
            )
            == 0
        )
        return read_scene(tmp_path / name)

    left, right = made("a ball rolls to the left", "left"), made("a ball rolls to the right", "right")
    moving = np.linalg.norm(left.points[-1] - left.points[0], axis=-1) > 0.05 * left.depth
    assert 0.005 < moving.mean() < 0.3
    assert (left.points[-1] - left.points[0])[moving, 0].mean() < 0
    assert (right.points[-1] - right.points[0])[moving, 0].mean() > 0


def test_the_command_line_has_the_defaults_of_the_request() -> None:
    options = signature(cli.generate).parameters
    for name in ("seed", "steps", "guidance", "camera_amount", "motion_smoothing", "render_scale", "complete"):
        assert options[name].default == getattr(Request, name), name
