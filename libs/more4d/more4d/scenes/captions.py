"""Sentences that say what moves, and where to."""

import re

import numpy as np

from more4d.scenes.spec import GroundSpec, ObjectSpec

VERBS = {
    "walk": "walks",
    "run": "runs",
    "survey": "looks around",
    "roll": "rolls",
    "bounce": "bounces",
    "slide": "slides",
}
DIRECTION_WORDS = {
    "left": "to the left",
    "right": "to the right",
    "towards": "towards the camera",
    "away": "away from the camera",
    "none": "",
}
GROUND_WORDS = {
    "checker": "on a checkered floor",
    "stripes": "on a striped floor",
    "grass": "on the grass",
    "sand": "on the sand",
    "stone": "on stone ground",
    "tiles": "on a tiled floor",
}
SLOW, QUICK = 0.38, 0.57
"""Speeds (m/s) below and above which balls and boxes get a speed word."""

_SWAPS = {"left": "right", "right": "left", "towards": "away from", "away from": "towards"}
_PATTERN = re.compile(r"\b(left|right|towards|away from)\b")


def swap_direction(caption: str) -> str:
    """The caption with left and right exchanged, and towards and away from; its own inverse."""
    return _PATTERN.sub(lambda match: _SWAPS[match.group()], caption)


def object_phrase(thing: ObjectSpec, speed_word: bool = True) -> str:
    """A clause such as "a red ball rolls slowly to the right"."""
    noun = thing.kind if thing.colour == "" else f"{thing.colour} {thing.kind}"
    article = "an" if noun[0] in "aeiou" else "a"
    words = [article, noun, VERBS[thing.action], _speed_word(thing) if speed_word else ""]
    return " ".join(word for word in [*words, DIRECTION_WORDS[thing.direction]] if word)


def write_caption(objects: tuple[ObjectSpec, ...], ground: GroundSpec, rng: np.random.Generator) -> str:
    """One sentence about the objects, now and then with the ground they are on."""
    sentence = " and ".join(object_phrase(thing) for thing in objects)
    if rng.random() < 0.3:
        sentence += " " + GROUND_WORDS[ground.kind]
    return sentence


def _speed_word(thing: ObjectSpec) -> str:
    if thing.kind == "fox":
        return ""
    if thing.speed < SLOW:
        return "slowly"
    return "quickly" if thing.speed > QUICK else ""
