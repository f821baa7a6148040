"""The real photos that the batch inference lifts: pictures inside installed packages, with our sentences and cameras."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from more4d.inference.scene import Credit

_CC0 = "CC0-1.0"
_CC_BY = "CC-BY-2.0"
_PUBLIC = "public domain"


@dataclass(frozen=True)
class Photo:
    """One photo: what is said to happen in it, from where it is looked at, and who made it."""

    name: str
    prompt: str
    cameras: tuple[str, ...]
    credit: Credit
    load: Callable[[], NDArray[np.uint8]]
    """The upright picture, uint8 [H,W,3]; nothing is downloaded."""


def photos() -> tuple[Photo, ...]:
    """Every photo, in the order in which they are shown."""
    return (
        Photo(
            "flower",
            "an orange flower rolls slowly to the left",
            ("spiral", "circle_right"),
            Credit("scikit-learn: flower.jpg", "vultilion, flickr.com/photos/vultilion/6056698931", _CC_BY),
            _sklearn("flower.jpg"),
        ),
        Photo(
            "rocket",
            "a white rocket slides slowly to the left",
            ("forward_backward", "circle_left"),
            Credit("scikit-image: rocket (launch of DSCOVR)", "SpaceX", _PUBLIC),
            _skimage("rocket"),
        ),
        Photo(
            "coffee",
            "a red cup slides slowly to the left",
            ("top_down", "circle_right"),
            Credit("scikit-image: coffee", "Rachel Michetti, Pikolo Espresso Bar", _CC0),
            _skimage("coffee"),
        ),
        Photo(
            "astronaut",
            "an astronaut walks to the right",
            ("circle_right", "spiral"),
            Credit("scikit-image: astronaut (Eileen Collins)", "NASA", _PUBLIC),
            _skimage("astronaut"),
        ),
        Photo(
            "cat",
            "a cat walks to the left",
            ("circle_left", "forward_backward"),
            Credit("scikit-image: chelsea", "Stefan van der Walt", _CC0),
            _skimage("chelsea"),
        ),
        Photo(
            "temple",
            "a red tower slides slowly to the right",
            ("circle_left", "top_down"),
            Credit("scikit-learn: china.jpg", "danielbuechele, flickr.com/photos/danielbuechele/6061409035", _CC_BY),
            _sklearn("china.jpg"),
        ),
        Photo(
            "cameraman",
            "a man walks to the left on the grass",
            ("circle_left", "static"),
            Credit("scikit-image: camera", "Lav Varshney", _CC0),
            _skimage("camera"),
        ),
    )


def _skimage(name: str) -> Callable[[], NDArray[np.uint8]]:
    def load() -> NDArray[np.uint8]:
        import skimage.data

        return _rgb(getattr(skimage.data, name)())

    return load


def _sklearn(name: str) -> Callable[[], NDArray[np.uint8]]:
    def load() -> NDArray[np.uint8]:
        from sklearn.datasets import load_sample_image

        return _rgb(load_sample_image(name))

    return load


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else np.array(image)
