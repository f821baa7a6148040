from pathlib import Path

import pytest
from more4d.stages.base import VideoSpec
from more4d.stages.base_scenes import VIEW_CAMERAS, BaseScenesParams, plan_jobs
from pydantic import ValidationError

VIDEO = VideoSpec(frames=13, height=64, width=96, fps=8)


def test_extra_views_are_spread_evenly_and_cameras_take_turns() -> None:
    jobs = plan_jobs(range(100, 140), 20, VIDEO, Path("Fox.gltf"))
    views = [job.view for job in jobs if job.view is not None]
    assert [job.seed for job in jobs] == list(range(100, 140))
    assert [job.view is not None for job in jobs] == [False, True] * 20
    assert {name: views.count(name) for name in VIEW_CAMERAS} == dict.fromkeys(VIEW_CAMERAS, 4)
    assert all(job.view is None for job in plan_jobs(range(5), 0, VIDEO, Path("Fox.gltf")))


def test_more_views_than_scenes_are_refused() -> None:
    with pytest.raises(ValidationError, match="views=3 is more than scenes=2"):
        BaseScenesParams(scenes=2, views=3)
