"""The compiled kernels of the CPU rasterizer: `project` a stretch of Gaussians, `blend` a band of tile rows.

Conventions are those of reference.py. Every function that another one here calls lives in this file, because
numba's cache notices changes of this file alone. A projected Gaussian is a row of `table` (u, v, the three
entries of the inverse covariance, opacity, red, green, blue, depth) and the box of pixels it may touch, in
`boxes` (first column, last + 1, first row, last + 1; empty when it is not drawn).
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

TILE = 16
COLUMNS = 10
CONIC, OPACITY, RGB, DEPTH = 2, 5, 6, 9

MAX_ALPHA = np.float32(0.999)
MIN_ALPHA = np.float32(1 / 255)
MIN_TRANSMITTANCE = np.float32(1e-4)
# A box ends where alpha falls below 1/255, plus a little for rounding: its pixels are tested again.
BOX_SLACK = np.float32(0.02)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

# A tile being blended: for each of its rows, 16 transmittances, then 16 reds, greens, blues and depths. One array
# with constant distances and unsigned indices, or LLVM cannot tell the planes apart and leaves the loop scalar.
PLANES = 5
LANES = np.uint64(TILE)
ROW = PLANES * TILE
# How many Gaussians to blend between two looks at whether the tile is opaque.
PATIENCE = 64


@numba.njit(nogil=True, cache=True)
def project(
    start: int,
    stop: int,
    means: Floats,
    quats: Floats,
    scales: Floats,
    opacities: Floats,
    colors: Floats,
    view: Floats,
    K: Floats,
    limits: Floats,
    width: int,
    height: int,
    table: Floats,
    boxes: Ints,
    radii: Ints,
) -> None:
    """Fill rows start..stop of `table`, `boxes` and `radii`, zero so far, of the Gaussians that are drawn.

    `limits` holds the near plane, the far plane and eps2d. Every test is written so that NaN fails it.
    """
    near, far, eps2d = limits[0], limits[1], limits[2]
    wide, high = np.float32(width), np.float32(height)
    axes = np.empty((3, 3), np.float32)
    for g in range(start, stop):
        x, y, z = _to_camera(means, g, view)
        opacity = opacities[g]
        if not (z >= near and z <= far and opacity >= MIN_ALPHA):
            continue
        slope_x, slope_y = x / z, y / z
        _camera_axes(quats, scales, g, view, axes)
        a, b, c = _covariance(axes, slope_x, slope_y, z, K, wide, high)
        a, c = a + eps2d, c + eps2d
        determinant = a * c - b * b
        if not determinant > ZERO:
            continue
        u, v = K[0, 0] * slope_x + K[0, 2], K[1, 1] * slope_y + K[1, 2]
        extend = min(np.float32(3.33), math.sqrt(np.float32(2) * math.log(opacity / MIN_ALPHA)))
        radius_x, radius_y = np.float32(extend * math.sqrt(a)), np.float32(extend * math.sqrt(c))
        if not (u + radius_x > ZERO and u - radius_x < wide and v + radius_y > ZERO and v - radius_y < high):
            continue
        radii[g, 0], radii[g, 1] = _whole(radius_x), _whole(radius_y)
        boxes[g, 0], boxes[g, 1] = _pixels(u, radius_x, wide)
        boxes[g, 2], boxes[g, 3] = _pixels(v, radius_y, high)
        table[g, 0], table[g, 1] = u, v
        table[g, 2], table[g, 3], table[g, 4] = c / determinant, -b / determinant, a / determinant
        table[g, 5], table[g, 9] = opacity, z
        table[g, 6], table[g, 7], table[g, 8] = colors[g, 0], colors[g, 1], colors[g, 2]


@numba.njit(nogil=True, cache=True)
def _to_camera(means: Floats, g: int, view: Floats) -> tuple[np.float32, np.float32, np.float32]:
    """The Gaussian's centre in the camera's frame; no fused multiply-add, so the oracle finds the same depth."""
    mx, my, mz = means[g, 0], means[g, 1], means[g, 2]
    x = view[0, 0] * mx + view[0, 1] * my + view[0, 2] * mz + view[0, 3]
    y = view[1, 0] * mx + view[1, 1] * my + view[1, 2] * mz + view[1, 3]
    z = view[2, 0] * mx + view[2, 1] * my + view[2, 2] * mz + view[2, 3]
    return x, y, z


@numba.njit(nogil=True, cache=True)
def _pixels(centre: np.float32, radius: np.float32, side: np.float32) -> tuple[np.int32, np.int32]:
    """First and last + 1 of the pixels with their own centre, j + 0.5, within `radius`, inside the image."""
    # Clamped as floats: a splat that fills the view may reach further than an integer.
    first = max(ZERO, np.ceil(centre - radius - HALF - BOX_SLACK))
    last = min(side, np.floor(centre + radius + HALF + BOX_SLACK))
    return np.int32(first), np.int32(last)


@numba.njit(nogil=True, cache=True)
def _whole(radius: np.float32) -> np.int32:
    """gsplat's radius: rounded up to whole pixels."""
    return np.int32(min(np.ceil(radius), np.float32(1e9)))


@numba.njit(nogil=True, cache=True)
def _camera_axes(quats: Floats, scales: Floats, g: int, view: Floats, axes: Floats) -> None:
    """The principal axes times their standard deviations, in the camera's frame, as the columns of `axes`."""
    w, x, y, z = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if length > np.float32(1e-12):
        w, x, y, z = w / length, x / length, y / length, z / length
    two = np.float32(2)
    for row in range(3):
        r0, r1, r2 = view[row, 0], view[row, 1], view[row, 2]
        axes[row, 0] = scales[g, 0] * (
            r0 * (ONE - two * (y * y + z * z)) + r1 * (two * (x * y + w * z)) + r2 * (two * (x * z - w * y))
        )
        axes[row, 1] = scales[g, 1] * (
            r0 * (two * (x * y - w * z)) + r1 * (ONE - two * (x * x + z * z)) + r2 * (two * (y * z + w * x))
        )
        axes[row, 2] = scales[g, 2] * (
            r0 * (two * (x * z + w * y)) + r1 * (two * (y * z - w * x)) + r2 * (ONE - two * (x * x + y * y))
        )


@numba.njit(nogil=True, cache=True)
def _covariance(
    axes: Floats,
    slope_x: np.float32,
    slope_y: np.float32,
    z: np.float32,
    K: Floats,
    wide: np.float32,
    high: np.float32,
) -> tuple[np.float32, np.float32, np.float32]:
    """The 2D covariance (xx, xy, yy) in pixels squared.

    The linearisation is taken at most 0.15 of the image outside of it, as in gsplat.
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin = np.float32(0.15)
    tx = min(max(slope_x, -(cx + margin * wide) / fx), (wide - cx + margin * wide) / fx)
    ty = min(max(slope_y, -(cy + margin * high) / fy), (high - cy + margin * high) / fy)
    a, b, c = ZERO, ZERO, ZERO
    for k in range(3):
        across = fx / z * (axes[0, k] - tx * axes[2, k])
        down = fy / z * (axes[1, k] - ty * axes[2, k])
        a += across * across
        b += across * down
        c += down * down
    return a, b, c


@numba.njit(nogil=True, cache=True)
def blend(
    first_row: int, last_row: int, table: Floats, boxes: Ints, behind: Floats, image: Floats, alpha: Floats
) -> None:
    """Fill the pixels of tile rows first_row..last_row of `image` [H, W, 3 or 4] and `alpha` [H, W, 1]."""
    height, width = alpha.shape[0], alpha.shape[1]
    columns = (width + TILE - 1) // TILE
    order = _nearest_first(table, boxes, first_row * TILE, last_row * TILE)
    starts, members = _bin(order, boxes, first_row, last_row, columns)
    tile = np.empty(TILE * ROW, np.float32)
    for row in range(first_row, last_row):
        for column in range(columns):
            number = (row - first_row) * columns + column
            top, left = row * TILE, column * TILE
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            _open_tile(tile, bottom - top, right - left)
            _blend_tile(members[starts[number] : starts[number + 1]], table, boxes, top, left, tile)
            _store_tile(tile, top, left, bottom, right, behind, image, alpha)


@numba.njit(nogil=True, cache=True)
def _nearest_first(table: Floats, boxes: Ints, top: int, bottom: int) -> Ints:
    """Indices of the Gaussians that touch rows top..bottom, by depth, ties by index: three stable counting passes."""
    count = 0
    for g in range(len(boxes)):
        if boxes[g, 1] > boxes[g, 0] and boxes[g, 3] > top and boxes[g, 2] < bottom and boxes[g, 3] > boxes[g, 2]:
            count += 1
    depths, order = np.empty(count, np.float32), np.empty(count, np.int32)
    count = 0
    for g in range(len(boxes)):
        if boxes[g, 1] > boxes[g, 0] and boxes[g, 3] > top and boxes[g, 2] < bottom and boxes[g, 3] > boxes[g, 2]:
            depths[count], order[count] = table[g, DEPTH], g
            count += 1
    # Positive floats sort like their bits.
    keys = depths.view(np.uint32)
    other_keys, other_order = np.empty_like(keys), np.empty_like(order)
    for shift in (0, 11, 22):
        places = np.zeros(2049, np.int64)
        for i in range(count):
            places[((keys[i] >> shift) & 2047) + 1] += 1
        places = np.cumsum(places)
        for i in range(count):
            digit = (keys[i] >> shift) & 2047
            other_keys[places[digit]], other_order[places[digit]] = keys[i], order[i]
            places[digit] += 1
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return order


@numba.njit(nogil=True, cache=True)
def _bin(order: Ints, boxes: Ints, first_row: int, last_row: int, columns: int) -> tuple[NDArray[np.int64], Ints]:
    """For each tile of the band, where its Gaussians start in `members`, and the members in `order`'s order."""
    starts = np.zeros((last_row - first_row) * columns + 1, np.int64)
    for g in order:
        for row in range(max(boxes[g, 2] // TILE, first_row), min((boxes[g, 3] - 1) // TILE + 1, last_row)):
            for column in range(boxes[g, 0] // TILE, (boxes[g, 1] - 1) // TILE + 1):
                starts[(row - first_row) * columns + column + 1] += 1
    starts = np.cumsum(starts)
    members, place = np.empty(starts[-1], np.int32), starts.copy()
    for g in order:
        for row in range(max(boxes[g, 2] // TILE, first_row), min((boxes[g, 3] - 1) // TILE + 1, last_row)):
            for column in range(boxes[g, 0] // TILE, (boxes[g, 1] - 1) // TILE + 1):
                tile = (row - first_row) * columns + column
                members[place[tile]] = g
                place[tile] += 1
    return starts, members


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _decay(sigma: np.float32) -> np.float32:
    """exp(-sigma) for sigma in [0, 8], to 1e-5 of itself: exp(-sigma / 32) by its series, squared five times.

    Without libm and without integers, so the loop around it becomes vector instructions.
    """
    x = (sigma if sigma < np.float32(8) else np.float32(8)) * np.float32(1 / 32)
    series = HALF - x * (np.float32(1 / 6) - x * (np.float32(1 / 24) - x * np.float32(1 / 120)))
    power = ONE - x * (ONE - x * series)
    power *= power
    power *= power
    power *= power
    power *= power
    return power * power


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _blend_tile(members: Ints, table: Floats, boxes: Ints, top: int, left: int, tile: Floats) -> None:
    """Blend `members`, nearest first, into `tile`; a closed pixel has its final transmittance, negated.

    Whole rows of 16 pixels without a branch: pixels outside a Gaussian's box get an alpha below 1/255, so none.
    """
    for m in range(len(members)):
        if m % PATIENCE == PATIENCE - 1 and _is_opaque(tile):
            return
        g = members[m]
        opacity, red, green, blue, depth = table[g, 5], table[g, 6], table[g, 7], table[g, 8], table[g, 9]
        a, b, c = HALF * table[g, 2], table[g, 3], HALF * table[g, 4]
        du, dv = table[g, 0] - np.float32(left) - HALF, table[g, 1] - np.float32(top) - HALF
        for i in range(max(boxes[g, 2] - top, 0), min(boxes[g, 3] - top, TILE)):
            dy = dv - np.float32(i)
            b_dy, c_dy2 = b * dy, c * dy * dy
            start = np.uint64(i * ROW)
            for j in range(LANES):
                dx = du - np.float32(j)
                sigma = (a * dx + b_dy) * dx + c_dy2
                alpha = opacity * _decay(sigma)
                alpha = alpha if alpha < MAX_ALPHA else MAX_ALPHA
                alpha = alpha if alpha >= MIN_ALPHA else ZERO
                alpha = alpha if sigma >= ZERO else ZERO
                pixel = start + j
                before = tile[pixel]
                after = before * (ONE - alpha)
                weight = alpha * before if after > MIN_TRANSMITTANCE else ZERO
                tile[pixel] = after if after > MIN_TRANSMITTANCE else -abs(before)
                tile[pixel + LANES] += weight * red
                tile[pixel + LANES + LANES] += weight * green
                tile[pixel + LANES + LANES + LANES] += weight * blue
                tile[pixel + LANES + LANES + LANES + LANES] += weight * depth


@numba.njit(nogil=True, cache=True)
def _open_tile(tile: Floats, rows: int, columns: int) -> None:
    """Nothing drawn yet; what lies outside the image is closed from the start."""
    tile[:] = 0
    for i in range(TILE):
        for j in range(TILE):
            tile[i * ROW + j] = ONE if i < rows and j < columns else -ONE


@numba.njit(nogil=True, cache=True)
def _is_opaque(tile: Floats) -> bool:
    """Whether every pixel is closed."""
    most = -ONE
    for i in range(TILE):
        for j in range(TILE):
            most = max(most, tile[i * ROW + j])
    return bool(most <= ZERO)


@numba.njit(nogil=True, cache=True)
def _store_tile(
    tile: Floats, top: int, left: int, bottom: int, right: int, behind: Floats, image: Floats, alpha: Floats
) -> None:
    """The tile over its background; a fourth channel is the expected depth."""
    for i in range(top, bottom):
        for j in range(left, right):
            pixel = (i - top) * ROW + j - left
            clear = abs(tile[pixel])
            alpha[i, j, 0] = ONE - clear
            for k in range(3):
                image[i, j, k] = tile[pixel + (k + 1) * TILE] + clear * behind[k]
            if image.shape[2] == 4:
                image[i, j, 3] = tile[pixel + 4 * TILE] / max(ONE - clear, np.float32(1e-10))
