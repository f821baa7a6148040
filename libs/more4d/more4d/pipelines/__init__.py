"""From image and text to trajectories, and from a render with holes to a video: pipelines as diffusers has them."""

from more4d.pipelines.trajectories import TrajectoryPipeline, TrajectoryPipelineOutput
from more4d.pipelines.views import ViewPipeline, ViewPipelineOutput

__all__ = ["TrajectoryPipeline", "TrajectoryPipelineOutput", "ViewPipeline", "ViewPipelineOutput"]
