from pathlib import Path

from more4d.evaluation.held_out import Size, held_out_scenes, training_clips


def test_held_out_scenes_are_not_training_scenes_and_follow_the_seed(fox_file: Path) -> None:
    size = Size(frames=5, height=32, width=48, fps=8.0)
    scenes = list(held_out_scenes(7, 3, 2, size, workers=1))
    assert [scene.seed for scene in scenes] == [10**9 + 7 * 10**5 + i for i in range(3)]
    assert [len(scene.views) for scene in scenes] == [1, 1, 0]
    assert len({name for scene in scenes for name in scene.views}) == 2
    (clip,) = training_clips(1, size, workers=1)
    assert clip.points.shape == scenes[0].points.shape
    assert clip.truth.moving.any()
