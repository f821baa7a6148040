import socket

import numpy as np
import pytest
from more4d.geometry.paths import CAMERA_NAMES
from more4d.inference.photos import photos


def test_there_are_six_real_photos_or_more_each_with_prompt_cameras_and_credit() -> None:
    found = photos()
    assert len(found) >= 6
    assert len({photo.name for photo in found}) == len(found)
    for photo in found:
        assert photo.prompt and set(photo.cameras) <= set(CAMERA_NAMES) and photo.cameras
        assert photo.credit.source and photo.credit.attribution and photo.credit.licence


def test_photos_come_from_installed_packages_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a photo must not be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for photo in photos():
        picture = photo.load()
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 256
