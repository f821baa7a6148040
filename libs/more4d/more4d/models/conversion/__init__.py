"""Published checkpoints into our networks and back: names, safe reading, exact fitting, loading without a second copy."""

from more4d.models.conversion.base import strag_from_wan_control
from more4d.models.conversion.converting import convert_file
from more4d.models.conversion.fitting import require_fit
from more4d.models.conversion.loading import load_published
from more4d.models.conversion.names import LAYOUTS, CheckpointError, Layout, part, rename, to_ours, to_published
from more4d.models.conversion.reading import outlines, read_ours, read_published

__all__ = [
    "LAYOUTS",
    "CheckpointError",
    "Layout",
    "convert_file",
    "load_published",
    "outlines",
    "part",
    "read_ours",
    "read_published",
    "rename",
    "require_fit",
    "strag_from_wan_control",
    "to_ours",
    "to_published",
]
