"""TransNetV2 (Souček and Lokoč, arXiv 2008.04838), written from the paper; parameters are named as in the published file.

Suffixes: B batch, T frames, H height, W width, C channels.
"""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

HEIGHT, WIDTH = 27, 48
_FILTERS, _CELLS, _STACKS, _HIDDEN = 16, 2, 3, 1024
_DILATIONS = (1, 2, 4, 8)
_LOOKUP = 101
"""Frames that each frame is compared with, itself in the middle."""
_WINDOW, _MARGIN = 100, 25
"""Frames given at once, and how many at either end have too little context for an answer."""


class TransNetV2(nn.Module):
    """Logits that a frame is the last of its shot. Paper, figure 1 and section 3."""

    def __init__(self) -> None:
        super().__init__()
        widths = [_FILTERS * 2**i for i in range(_STACKS)]
        channels = [4 * width for width in widths]
        self.SDDCNN = nn.ModuleList(_Stack(c, w) for c, w in zip([3, *channels], widths, strict=False))
        self.frame_sim_layer = _FrameSimilarity(sum(channels))
        self.color_hist_layer = _ColourHistograms()
        area = (HEIGHT >> _STACKS) * (WIDTH >> _STACKS)
        self.fc1 = nn.Linear(channels[-1] * area + 2 * 128, _HIDDEN)
        self.cls_layer1 = nn.Linear(_HIDDEN, 1)
        # Trained beside the other to find every frame of a gradual transition; its answer is not used.
        self.cls_layer2 = nn.Linear(_HIDDEN, 1)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        """Logits [B, T] of uint8 frames [B, T, 27, 48, 3] RGB."""
        x_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
        levels = []
        for stack in self.SDDCNN:
            x_BCTHW = stack(x_BCTHW)
            levels.append(x_BCTHW)
        x_BTC = x_BCTHW.permute(0, 2, 3, 4, 1).flatten(2)
        joined = torch.cat([self.color_hist_layer(frames_BTHWC), self.frame_sim_layer(levels), x_BTC], 2)
        return self.cls_layer1(F.relu(self.fc1(joined)))[..., 0]


class _Stack(nn.Module):
    """Two DDCNN cells with a shortcut from the first, then half the height and width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        ins = [channels] + [4 * width] * (_CELLS - 1)
        self.DDCNN = nn.ModuleList(_Cell(c, width) for c in ins)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x_BCTHW))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class _Cell(nn.Module):
    """Factorised 3D convolutions with four dilations in time, side by side."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        for dilation in _DILATIONS:
            self.add_module(f"Conv3D_{dilation}", _FactorisedConv(channels, width, dilation))
        self.bn = nn.BatchNorm3d(4 * width, eps=1e-3)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        parts = [self.get_submodule(f"Conv3D_{dilation}")(x_BCTHW) for dilation in _DILATIONS]
        return self.bn(torch.cat(parts, 1))


class _FactorisedConv(nn.Module):
    """3x3 in space to twice the width, then 3 in time."""

    def __init__(self, channels: int, width: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(channels, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * width, width, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.ModuleList([space, time])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x_BCTHW))


class _FrameSimilarity(nn.Module):
    """How alike the learnt features of each frame and its 100 neighbours are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.fc = nn.Linear(_LOOKUP, 128)

    def forward(self, levels: list[Tensor]) -> Tensor:
        means_BTC = torch.cat([x_BCTHW.mean((3, 4)) for x_BCTHW in levels], 1).transpose(1, 2)
        return F.relu(self.fc(_similarities(self.projection(means_BTC))))


class _ColourHistograms(nn.Module):
    """How alike the 512-bin RGB histograms of each frame and its 100 neighbours are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_LOOKUP, 128)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        red, green, blue = (frames_BTHWC.flatten(2, 3).long() >> 5).unbind(-1)
        bins_BTP = red * 64 + green * 8 + blue
        counts = torch.zeros(*bins_BTP.shape[:2], 512, device=bins_BTP.device)
        counts.scatter_add_(2, bins_BTP, torch.ones_like(bins_BTP, dtype=counts.dtype))
        return F.relu(self.fc(_similarities(counts)))


def _similarities(x_BTC: Tensor) -> Tensor:
    """[B, T, 101]: cosine similarity of each frame with the 50 before it, itself, and the 50 after it; 0 outside."""
    unit = F.normalize(x_BTC, dim=2)
    half = _LOOKUP // 2
    padded = F.pad(unit @ unit.transpose(1, 2), (half, half))
    frames = torch.arange(x_BTC.shape[1], device=x_BTC.device)
    columns = frames[:, None] + torch.arange(_LOOKUP, device=x_BTC.device)
    return padded[:, frames[:, None], columns]


def load_transnet(path: Path) -> TransNetV2:
    """The network with the weights of a published .pth file, ready to answer.

    Raises ValueError where the file is not such weights, naming what does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no file of weights: {error}") from error
    network = TransNetV2()
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not TransNetV2's weights by name")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold TransNetV2's weights: {error}") from error
    return network.eval().requires_grad_(False)


def boundary_probabilities(network: TransNetV2, frames: Iterable[NDArray[np.uint8]]) -> Iterator[float]:
    """For each frame uint8 [27, 48, 3] RGB how sure it is the last of its shot, 0..1; at most 100 frames are held."""
    for window, count in _windows(frames):
        # Copied: the frames may be views that run backwards.
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.stack(window))[None])[0]
        yield from torch.sigmoid(logits[_MARGIN : _MARGIN + count]).tolist()


def _windows(frames: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[list[NDArray[np.uint8]], int]]:
    """Windows of 100 frames, 50 apart, and how many from the 26th on want an answer; the ends are padded by repeats."""
    step = _WINDOW - 2 * _MARGIN
    held: list[NDArray[np.uint8]] = []
    for image in frames:
        held = held or [image] * _MARGIN
        held.append(image)
        if len(held) == _WINDOW:
            yield held, step
            held = held[step:]
    while len(held) > _MARGIN:
        yield held + [held[-1]] * (_WINDOW - len(held)), min(step, len(held) - _MARGIN)
        held = held[step:]
