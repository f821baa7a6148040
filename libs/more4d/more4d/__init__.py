"""From one image and a sentence to a dynamic 3D scene.

The names below are those that a pipeline folder's model_index.json gives its components; each is imported when it is
first asked for, so that `import more4d` stays light.
"""

import importlib
from typing import Any

_PUBLIC = {
    "DepthNetwork": "more4d.models.depth",
    "ImageEncoder": "more4d.models.image_encoder",
    "MotionEncoder": "more4d.models.motion_encoder",
    "MotionVAE": "more4d.models.vae",
    "STraGTransformer": "more4d.models.strag",
    "TextEncoder": "more4d.models.text",
    "TrajectoryPipeline": "more4d.pipelines",
    "ViSMTransformer": "more4d.models.vism",
    "ViewPipeline": "more4d.pipelines",
    # diffusers looks for the base class beside a component to know how it is loaded.
    "ModelMixin": "diffusers",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
