"""A sample's header: the JSON beside its arrays, closed, so that what is read later is what it says to be."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

SCHEMA_VERSION = 2
"""What is written. Version 1 had deflated tracks, and an index a shard instead of one for all."""
READABLE = (1, 2)
MAX_POINTS = 500_000_000
"""Of a sample, over all its frames: fifty times the paper's 49x336x596."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,79}")

_Positive = Annotated[float, Field(gt=0)]
_Row = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TracksHeader(_Closed):
    """The scales that undo the quantisation of the tracks; those of schema version 1 name no codec."""

    codec: str | None = None
    camera: Annotated[list[float], Field(min_length=4, max_length=4)]
    """fx, fy, cx, cy in pixels."""
    depth_log_low: float
    depth_log_step: float
    pixels_per_step: _Positive
    log_depth_per_step: _Positive

    @field_validator("camera")
    @classmethod
    def _has_a_focal_length(cls, camera: list[float]) -> list[float]:
        if 0 in camera[:2]:
            raise ValueError("a focal length is 0")
        return camera


class ViewHeader(_Closed):
    """Whether the view has its true video."""

    truth: bool


class Header(_Closed):
    """What a sample's header says, in schema versions 1 and 2 alike; `shape` is T, H, W."""

    schema_version: int
    id: str
    caption: str
    fps: _Positive
    intrinsics: Annotated[list[_Row], Field(min_length=3, max_length=3)]
    kind: Literal["rendered", "real"]
    provenance: dict[str, Any]
    shape: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=3, max_length=3)]
    split: Literal["train", "val"]
    tracks: TracksHeader
    views: dict[str, ViewHeader]

    @field_validator("id")
    @classmethod
    def _is_a_file_name(cls, sample_id: str) -> str:
        require_id(sample_id)
        return sample_id

    @field_validator("shape")
    @classmethod
    def _fits_the_memory(cls, shape: list[int]) -> list[int]:
        if math.prod(shape) > MAX_POINTS:
            raise ValueError(f"more than {MAX_POINTS} points")
        return shape


def read_header(data: bytes) -> Header:
    """The header that these bytes hold.

    Raises ValueError, naming the sample and every field that is wrong, on another schema version, and on what is no
    header.
    """
    try:
        found = from_json(data)
    except ValueError as error:
        raise ValueError(f"a sample's header is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("a sample's header is no JSON object")
    name = f"sample {str(found.get('id'))[:80]}"
    require_schema(found, name)
    try:
        return Header.model_validate(found)
    except ValidationError as error:
        raise ValueError(f"{name}: its header is wrong: {_faults(error)}") from error


def require_id(sample_id: str) -> None:
    """Raises ValueError unless the id can be a file name: letters, digits, `_` and `-`, at most 80."""
    if not _ID.fullmatch(sample_id):
        raise ValueError(f"{sample_id!r} cannot be a sample's id: use letters, digits, _ and -, at most 80")


def require_schema(header: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless the header's schema_version is one that this code reads."""
    found = header.get("schema_version")
    if found not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ValueError(f"{name} has schema version {found}, this code reads {known}: update it")


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    told = [f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}" for fault in faults[:5]]
    return "; ".join([*told, *([f"{len(faults) - 5} more"] if len(faults) > 5 else [])])
