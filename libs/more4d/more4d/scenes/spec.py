"""What a rendered scene is made of: closed, frozen, JSON-able descriptions.

Level frame: at the first frame's camera, x right, y down (vertical), z forward (horizontal); metres.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Colour = tuple[float, float, float]
Action = Literal["walk", "run", "survey", "roll", "bounce", "slide"]
GroundKind = Literal["checker", "stripes", "grass", "sand", "stone", "tiles"]
BackdropKind = Literal["sky", "hills", "wall"]
Direction = Literal["left", "right", "towards", "away", "none"]


class Part(BaseModel):
    """A closed, frozen group of values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SceneConfig(Part):
    """What share of scenes shows what, and how fast time runs."""

    fps: float = Field(default=8.0, gt=0)
    fox_share: float = Field(default=0.45, ge=0, le=1)
    """Of the main objects; balls and boxes share the rest, two to one."""
    pair_share: float = Field(default=0.25, ge=0, le=1)
    """Of the scenes, those with a second object."""
    seconds: float = Field(default=1.5, gt=0)
    """How long the objects must stay in the frame."""


class CameraSpec(Part):
    """The first frame's pinhole camera, `height` metres above the ground, pitched down."""

    fov_x_degrees: float = Field(gt=5, lt=120)
    height: float = Field(gt=0)
    pitch_degrees: float = Field(gt=-60, lt=60)


class ObjectSpec(Part):
    """One moving thing: where it starts, where it goes, what it looks like."""

    kind: Literal["fox", "ball", "box"]
    action: Action
    direction: Direction
    colour: str
    start_x: float
    start_z: float
    azimuth_degrees: float
    """Where it heads: 0 right, 90 away from the camera, 180 left, 270 towards the camera."""
    speed: float = Field(ge=0)
    size: tuple[float, float, float]
    """Fox: scale (three times the same); ball: radius; box: half width, half height, half depth. Metres."""
    yaw_degrees: float
    pattern: int
    phase: float
    """Fox: seconds into the animation; else radians by which the texture is turned."""
    rate: float
    """Playback speed of a fox's animation."""
    bounce: float = Field(ge=0)
    """Height of the bounces in metres, 0 for none."""


class LightSpec(Part):
    """One directional light and an ambient share."""

    azimuth_degrees: float
    elevation_degrees: float = Field(gt=5, le=90)
    ambient: float
    diffuse: float
    tint: Colour


class GroundSpec(Part):
    """A horizontal plane with a procedural texture."""

    kind: GroundKind
    colours: tuple[Colour, Colour]
    period: float = Field(gt=0)
    angle_degrees: float
    seed: int


class BackdropSpec(Part):
    """A vertical cylinder of `radius` metres around the camera, painted as sky with hills or as a wall."""

    kind: BackdropKind
    colours: tuple[Colour, Colour, Colour]
    radius: float = Field(gt=1)
    seed: int


class SceneSpec(Part):
    """Every choice behind one scene; the same spec gives the same bytes."""

    seed: int
    caption: str
    kind: str
    direction: Direction
    """Of the first object."""
    fps: float = Field(gt=0)
    camera: CameraSpec
    light: LightSpec
    ground: GroundSpec
    backdrop: BackdropSpec
    objects: tuple[ObjectSpec, ...]

    @model_validator(mode="after")
    def _has_an_object(self) -> "SceneSpec":
        if not self.objects:
            raise ValueError("a scene needs at least one object")
        return self
