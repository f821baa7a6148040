"""Pictures and videos as the pages show them: enlarged, holes striped, tracks drawn, as data URLs or base64.

Shape letters: T frames, H height, W width, N points.
"""

import base64
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from more4d.data.video import encode_video
from more4d.report.model import Image

Video = NDArray[np.uint8]
"""[T,H,W,3] RGB."""
VIDEO_WIDTH = 384
PANEL_WIDTH = 288
MAX_TRACKS = 90
_TIME_STOPS = np.array([[92, 107, 250], [237, 84, 153], [255, 209, 77]], dtype=np.float64)
"""Early, middle, late; the viewer's trails use the same."""
_STRIPES = np.array([[38, 44, 54], [58, 66, 80]], dtype=np.uint8)
_STRIPE_PIXELS = 8


def image_url(image: Image, *, width: int | None = None, quality: int = 88) -> str:
    """The image as a data URL (WebP), enlarged or shrunk to `width` pixels."""
    data = image_bytes(image if width is None else resize(image[None], width)[0], quality)
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


def image_bytes(image: Image, quality: int = 88) -> bytes:
    """A WebP file of the image."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def video_base64(video: Video, fps: float) -> str:
    """The frames as a base64 mp4 (H.264, yuv420p) that every browser plays."""
    return base64.b64encode(encode_video(video, fps, crf=23)).decode("ascii")


def resize(video: Video, width: int) -> Video:
    """[T,H,W,3] at `width` pixels, both sides even as yuv420p needs."""
    height = _even(video.shape[1] * width / video.shape[2])
    kind = cv2.INTER_AREA if width < video.shape[2] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (_even(width), height), interpolation=kind) for frame in video])


def stripe_holes(video: Video, covered: NDArray[np.bool_], width: int) -> Video:
    """[T,H,W,3] at `width` pixels; where `covered` [T,H,W] is False, grey stripes say that nothing is known."""
    large = resize(video, width)
    height = large.shape[1]
    row, column = np.indices((height, large.shape[2]))
    stripes = _STRIPES[(row + column) // _STRIPE_PIXELS % 2]
    kept = [cv2.resize(c.astype(np.uint8), large.shape[2:0:-1], interpolation=cv2.INTER_NEAREST) for c in covered]
    return np.where(np.stack(kept)[..., None].astype(bool), large, stripes)


def depth_range(depth: NDArray[np.floating]) -> tuple[float, float] | None:
    """The depths in metres that depth_panel shows brightest and darkest; None where nothing is known."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    if not known.size:
        return None
    low, high = np.exp(np.percentile(np.log(known), [1, 99]))
    return float(low), float(high)


def depth_panel(depth: NDArray[np.floating], width: int = PANEL_WIDTH) -> Image:
    """[H,W] metres as colours, near bright, on a logarithmic scale; black where there is no depth."""
    known = np.isfinite(depth) & (depth > 0)
    shown = depth_range(depth)
    if shown is None:
        return np.zeros((_even(depth.shape[0] * width / depth.shape[1]), width, 3), np.uint8)
    low, high = np.log(shown)
    logs = np.log(np.where(known, depth, depth[known].max()))
    nearness = 1 - np.clip((logs - low) / max(high - low, 1e-6), 0, 1)
    coloured = cv2.applyColorMap((nearness * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
    return resize(np.where(known[..., None], coloured, 0).astype(np.uint8)[None], width)[0]


def tracks_panel(
    image: Image,
    points: NDArray[np.floating],
    visibility: NDArray[np.bool_],
    intrinsics: NDArray[np.floating],
    width: int = PANEL_WIDTH,
) -> Image:
    """The dimmed first frame with the longest tracks drawn over it, coloured from early to late.

    points [T,H,W,3] in the camera of frame 0, visibility [T,H,W], intrinsics [3,3] of `image` [H,W,3].
    """
    canvas = (resize(image[None], width)[0] * 0.55).astype(np.uint8)
    scale = width / image.shape[1]
    pixels_TN2, seen_TN = _projected(points, visibility, intrinsics)
    for n in _longest_tracks(pixels_TN2):
        _draw_track(canvas, pixels_TN2[:, n] * scale, seen_TN[:, n])
    return canvas


def _projected(
    points: NDArray[np.floating], visibility: NDArray[np.bool_], intrinsics: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels [T,N,2] of every second point of every second row, and whether each is seen [T,N]."""
    thin = points[:, ::2, ::2].reshape(len(points), -1, 3).astype(np.float64)
    seen = visibility[:, ::2, ::2].reshape(len(points), -1) & (thin[..., 2] > 1e-6) & np.isfinite(thin).all(-1)
    depth = np.where(seen, thin[..., 2], 1.0)[..., None]
    focal, centre = np.diag(intrinsics)[:2], intrinsics[:2, 2]
    return np.where(seen[..., None], thin[..., :2] / depth * focal + centre, 0.0), seen


def _longest_tracks(pixels_TN2: NDArray[np.float64]) -> list[int]:
    """Of the tracks longer than a pixel, at most `MAX_TRACKS`, evenly over the picture."""
    length = np.linalg.norm(pixels_TN2 - pixels_TN2[0], axis=-1).max(0)
    moved = np.flatnonzero(length > 1.0)
    return [int(n) for n in moved[:: max(1, -(-len(moved) // MAX_TRACKS))]]


def _draw_track(canvas: Image, pixels_T2: NDArray[np.float64], seen_T: NDArray[np.bool_]) -> None:
    for t in range(len(pixels_T2) - 1):
        if seen_T[t] and seen_T[t + 1]:
            ends = [tuple(int(x) for x in np.round(p * 16)) for p in pixels_T2[t : t + 2]]
            cv2.line(canvas, ends[0], ends[1], time_colour(t / (len(pixels_T2) - 1)), 1, cv2.LINE_AA, shift=4)


def time_colour(share: float) -> tuple[int, int, int]:
    """RGB of a moment: 0 the first frame, 1 the last."""
    position = min(max(share, 0.0), 1.0) * (len(_TIME_STOPS) - 1)
    low = min(int(position), len(_TIME_STOPS) - 2)
    red, green, blue = _TIME_STOPS[low] + (position - low) * (_TIME_STOPS[low + 1] - _TIME_STOPS[low])
    return round(red), round(green), round(blue)


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))
