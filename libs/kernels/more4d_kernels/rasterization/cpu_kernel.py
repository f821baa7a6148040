"""The compiled kernels of the CPU rasterizer: `project` and `scatter` chunks of Gaussians, `blend` a stretch of tiles.

Conventions are those of reference.py. Every function that another one here calls lives in this file, because
numba's cache notices changes of this file alone. What blending reads of a Gaussian is a row of `splats`:

    u, v        centre, in pixels
    curve       half the inverse of the column variance that is left once the row is known
    shear       columns by which the centre of a row moves for each row
    fall        half the inverse of the row variance
    limit       the largest exponent that gives an alpha of 1/255
    x0 x1 y0 y1 first and last + 1 of the columns and rows that it may touch

so that alpha = opacity exp(-(curve (dx - shear dy)^2 + fall dy^2)), an exponent that no rounding makes negative.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Boxes = NDArray[np.uint16]
Counts = NDArray[np.int64]
Entries = NDArray[np.uint64]
Whole = int | np.integer
Triple = tuple[np.float32, np.float32, np.float32]

TILE_WIDTH, TILE_HEIGHT = 64, 32
# Gaussians are counted and dealt out in chunks of this many, whoever works on them.
CHUNK = 8192
SPLAT = 10
OPACITY, DEPTH, FIELDS = 10, 14, 15
# What a caller is told of a Gaussian: centre, the inverse covariance's three entries, depth, and two radii, integers.
PROJECTION = 8
LARGEST_RADIUS = np.float32(1e9)

MAX_ALPHA = np.float32(0.999)
MIN_ALPHA = np.float32(1 / 255)
MIN_TRANSMITTANCE = np.float32(1e-4)
# No Gaussian reaches further than this many standard deviations.
REACH = np.float32(3.33)
# A box ends where alpha falls below 1/255, plus a little for rounding: its pixels are tested again.
BOX_SLACK = np.float32(0.02)
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
INFINITY = np.float32(np.inf)

# A tile being blended: planes of transmittance, red, green, blue and depth, in one array with constant distances and
# unsigned indices, or LLVM cannot tell the planes apart and leaves the loop over a span scalar. A span of LANES
# pixels may begin anywhere, so rows are as much longer than the tile.
LANES = 8
STRIDE = TILE_WIDTH + LANES
PLANES = 5
PLANE = np.uint64(TILE_HEIGHT * STRIDE)
# Which parts of a tile are opaque is kept as 64 bits, one a block, looked at again every so many spans.
BLOCK_HEIGHT = 4
ACROSS, DOWN = TILE_WIDTH // LANES, TILE_HEIGHT // BLOCK_HEIGHT
FIRST_COLUMN = np.uint64(sum(1 << row * ACROSS for row in range(DOWN)))
PATIENCE = 2048


@numba.njit(nogil=True, cache=True, error_model="numpy")
def project(
    first_chunk: int,
    last_chunk: int,
    means: Floats,
    quats: Floats,
    scales: Floats,
    opacities: Floats,
    colors: Floats,
    view: Floats,
    lens: Floats,
    splats: Floats,
    boxes: Boxes,
    depths: Floats,
    counts: Counts,
) -> None:
    """Fill the rows of `splats`, `boxes` (in tiles; empty where no pixel is touched) and `depths` (0 where not drawn).

    `counts` [chunks, tiles], zero so far, gets the Gaussians of each chunk in each tile. `lens` is cpu.py's. Every test
    is written so that NaN fails it.
    """
    near, far, eps2d, wide, high = lens[8], lens[9], lens[10], lens[11], lens[12]
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    opacity, limit, reach = ZERO, ZERO, ZERO
    for g in range(first_chunk * CHUNK, min(last_chunk * CHUNK, len(means))):
        depths[g] = ZERO
        boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3] = 0, 0, 0, 0
        x, y, z = _to_camera(means, g, view)
        if not (
            z >= near and z <= far and opacities[g] >= MIN_ALPHA and _is_finite(g, means, quats, opacities, colors)
        ):
            continue
        # A logarithm costs as much as all the rest, and neighbours are often equally opaque.
        if opacities[g] != opacity:
            opacity = opacities[g]
            limit = max(ZERO, min(HALF * REACH * REACH, np.float32(math.log(opacity / MIN_ALPHA))))
            reach = np.float32(math.sqrt(TWO * limit))
        nearness = ONE / z
        slope_x, slope_y = x * nearness, y * nearness
        a, b, c = _covariance(quats, scales, g, view, lens, slope_x, slope_y, nearness)
        a, c = a + eps2d, c + eps2d
        flatness = ONE / c
        shear = b * flatness
        rest = a - b * shear
        if not (rest > ZERO and a < INFINITY and c < INFINITY):
            continue
        u, v = fx * slope_x + cx, fy * slope_y + cy
        radius_x, radius_y = np.float32(reach * math.sqrt(a)), np.float32(reach * math.sqrt(c))
        if not (u + radius_x > ZERO and u - radius_x < wide and v + radius_y > ZERO and v - radius_y < high):
            continue
        depths[g] = z
        splats[g, 0], splats[g, 1] = u, v
        splats[g, 2], splats[g, 3], splats[g, 4], splats[g, 5] = HALF / rest, shear, HALF * flatness, limit
        x0, x1 = _pixels(u, radius_x, wide)
        y0, y1 = _pixels(v, radius_y, high)
        splats[g, 6], splats[g, 7], splats[g, 8], splats[g, 9] = x0, x1, y0, y1
        if x1 > x0 and y1 > y0:
            boxes[g, 0], boxes[g, 1] = x0 // TILE_WIDTH, (x1 - 1) // TILE_WIDTH + 1
            boxes[g, 2], boxes[g, 3] = y0 // TILE_HEIGHT, (y1 - 1) // TILE_HEIGHT + 1
    # Apart from projecting, whose long chains of arithmetic would each wait for the last one's count.
    columns = (np.int32(wide) + TILE_WIDTH - 1) // TILE_WIDTH
    for g in range(first_chunk * CHUNK, min(last_chunk * CHUNK, len(means))):
        chunk = g // CHUNK
        for row in range(boxes[g, 2], boxes[g, 3]):
            for column in range(boxes[g, 0], boxes[g, 1]):
                counts[chunk, row * columns + column] += 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def tell(start: int, stop: int, splats: Floats, depths: Floats, told: Floats, radii: Ints) -> None:
    """Fill rows of `told` [N, PROJECTION] for Gaussians start..stop, zeros for those not drawn; `radii` is its memory."""
    for g in range(start, stop):
        if depths[g] == ZERO:
            for k in range(PROJECTION):
                told[g, k] = ZERO
            continue
        curve, shear, fall, twice_limit = splats[g, 2], splats[g, 3], splats[g, 4], TWO * splats[g, 5]
        told[g, 0], told[g, 1], told[g, 5] = splats[g, 0], splats[g, 1], depths[g]
        told[g, 2], told[g, 3] = TWO * curve, -TWO * shear * curve
        told[g, 4] = TWO * (fall + curve * shear * shear)
        rows = HALF / fall
        columns = HALF / curve + shear * shear * rows
        radii[g, 6] = np.int32(min(np.ceil(np.sqrt(twice_limit * columns)), LARGEST_RADIUS))
        radii[g, 7] = np.int32(min(np.ceil(np.sqrt(twice_limit * rows)), LARGEST_RADIUS))


@numba.njit(nogil=True, cache=True, forceinline=True)
def _is_finite(g: int, means: Floats, quats: Floats, opacities: Floats, colors: Floats) -> bool:
    """Whether all but the scales are finite (a scale that is not shows in the covariance)."""
    place = ZERO * (means[g, 0] + means[g, 1] + means[g, 2])
    turn = ZERO * (quats[g, 0] + quats[g, 1] + quats[g, 2] + quats[g, 3])
    look = ZERO * (colors[g, 0] + colors[g, 1] + colors[g, 2] + opacities[g])
    return bool(place + turn + look == ZERO)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _to_camera(means: Floats, g: int, view: Floats) -> Triple:
    """The Gaussian's centre in the camera's frame; no fused multiply-add, so the oracle finds the same depth."""
    mx, my, mz = means[g, 0], means[g, 1], means[g, 2]
    x = view[0, 0] * mx + view[0, 1] * my + view[0, 2] * mz + view[0, 3]
    y = view[1, 0] * mx + view[1, 1] * my + view[1, 2] * mz + view[1, 3]
    z = view[2, 0] * mx + view[2, 1] * my + view[2, 2] * mz + view[2, 3]
    return x, y, z


@numba.njit(nogil=True, cache=True, forceinline=True)
def _covariance(
    quats: Floats,
    scales: Floats,
    g: int,
    view: Floats,
    lens: Floats,
    slope_x: np.float32,
    slope_y: np.float32,
    nearness: np.float32,
) -> Triple:
    """The 2D covariance (xx, xy, yy) in pixels squared, of the projection's linearisation.

    It is taken at most 0.15 of the image outside of it, as in gsplat.
    """
    tx, ty = min(max(slope_x, lens[4]), lens[5]), min(max(slope_y, lens[6]), lens[7])
    fx, fy = lens[0] * nearness, lens[1] * nearness
    if scales[g, 0] == scales[g, 1] and scales[g, 1] == scales[g, 2]:
        # A ball has no axes; view's rows times each other stand for them, as no one promised that it is a rotation.
        fx, fy = fx * scales[g, 0], fy * scales[g, 0]
        xx, xy, xz, yy, yz, zz = lens[13], lens[14], lens[15], lens[16], lens[17], lens[18]
        a = fx * fx * (xx - tx * (TWO * xz - tx * zz))
        b = fx * fy * (xy - tx * yz - ty * (xz - tx * zz))
        return a, b, fy * fy * (yy - ty * (TWO * yz - ty * zz))
    a, b, c = ZERO, ZERO, ZERO
    w, x, y, z = _unit(quats, g)
    columns = (
        (ONE - TWO * (y * y + z * z), TWO * (x * y + w * z), TWO * (x * z - w * y)),
        (TWO * (x * y - w * z), ONE - TWO * (x * x + z * z), TWO * (y * z + w * x)),
        (TWO * (x * z + w * y), TWO * (y * z - w * x), ONE - TWO * (x * x + y * y)),
    )
    for k in range(3):
        ax, ay, az = _turn(view, columns[k], scales[g, k])
        across, down = fx * (ax - tx * az), fy * (ay - ty * az)
        a += across * across
        b += across * down
        c += down * down
    return a, b, c


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _unit(quats: Floats, g: int) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """The quaternion (w, x, y, z) at length one; one that is zero stays so, and turns nothing."""
    w, x, y, z = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
    length = np.float32(math.sqrt(w * w + x * x + y * y + z * z))
    shrink = ONE / length if length > np.float32(1e-12) else ONE
    return w * shrink, x * shrink, y * shrink, z * shrink


@numba.njit(nogil=True, cache=True)
def _turn(view: Floats, axis: Triple, scale: np.float32) -> Triple:
    """A principal axis times its standard deviation, in the camera's frame."""
    x, y, z = axis[0] * scale, axis[1] * scale, axis[2] * scale
    return (
        view[0, 0] * x + view[0, 1] * y + view[0, 2] * z,
        view[1, 0] * x + view[1, 1] * y + view[1, 2] * z,
        view[2, 0] * x + view[2, 1] * y + view[2, 2] * z,
    )


@numba.njit(nogil=True, cache=True, forceinline=True)
def _pixels(centre: np.float32, radius: np.float32, side: np.float32) -> tuple[np.int32, np.int32]:
    """First and last + 1 of the pixels with their own centre, j + 0.5, within `radius`, inside the image."""
    # Clamped as floats: a splat that fills the view may reach further than an integer.
    low = min(max(centre - radius - HALF - BOX_SLACK, ZERO), side)
    high = min(max(centre + radius + HALF + BOX_SLACK, ZERO), side)
    first = np.int32(low)
    # Rounded up; math.ceil is a call.
    return np.int32(first + (np.float32(first) < low)), np.int32(high)


@numba.njit(nogil=True, cache=True)
def lay_out(counts: Counts) -> Counts:
    """Where each tile's entries start, [tiles + 1]; turns `counts` into where each chunk's begin within them."""
    chunks, tiles = counts.shape
    starts = np.zeros(tiles + 1, np.int64)
    for chunk in range(chunks):
        for tile in range(tiles):
            starts[tile + 1] += counts[chunk, tile]
    starts = np.cumsum(starts)
    places = starts.copy()
    for chunk in range(chunks):
        for tile in range(tiles):
            count = counts[chunk, tile]
            counts[chunk, tile] = places[tile]
            places[tile] += count
    return starts


@numba.njit(nogil=True, cache=True)
def scatter(
    first_chunk: int, last_chunk: int, columns: int, boxes: Boxes, depth_bits: Ints, places: Counts, entries: Entries
) -> None:
    """Enter the Gaussians, by index, into every tile of their box: 32 bits of depth, then 32 of index."""
    for g in range(first_chunk * CHUNK, min(last_chunk * CHUNK, len(boxes))):
        # Positive floats sort like their bits.
        entry = np.uint64(depth_bits[g]) << np.uint64(32) | np.uint64(g)
        chunk = g // CHUNK
        for row in range(boxes[g, 2], boxes[g, 3]):
            for column in range(boxes[g, 0], boxes[g, 1]):
                tile = row * columns + column
                entries[places[chunk, tile]] = entry
                places[chunk, tile] += 1


@numba.njit(nogil=True, cache=True)
def nearest_first(entries: Entries, scratch: Entries) -> Entries:
    """`entries` by their depth, equal ones in the order they had, in either of the arrays: counting sorts of 8 bits."""
    if len(entries) < 2:
        return entries
    scratch = scratch[: len(entries)]
    half, byte = np.uint64(32), np.uint64(255)
    nearest = np.min(entries) >> half
    span = (np.max(entries) >> half) - nearest
    places = np.empty(256, np.int64)
    shift = np.uint64(0)
    # Depths within a tile are close, so two or three passes do.
    while span >> shift > 0:
        places[:] = 0
        for entry in entries:
            places[((entry >> half) - nearest) >> shift & byte] += 1
        total = 0
        for digit in range(256):
            total, places[digit] = total + places[digit], total
        for entry in entries:
            digit = ((entry >> half) - nearest) >> shift & byte
            scratch[places[digit]] = entry
            places[digit] += 1
        entries, scratch = scratch, entries
        shift += np.uint64(8)
    return entries


@numba.njit(nogil=True, cache=True)
def blend(
    first_tile: int,
    last_tile: int,
    splats: Floats,
    opacities: Floats,
    colors: Floats,
    depths: Floats,
    starts: Counts,
    entries: Entries,
    behind: Floats,
    image: Floats,
    alpha: Floats,
) -> None:
    """Fill the pixels of tiles first_tile..last_tile of `image` [H, W, 3 or 4] and `alpha` [H, W, 1]."""
    height, width = alpha.shape[0], alpha.shape[1]
    columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    most = np.max(starts[first_tile + 1 : last_tile + 1] - starts[first_tile:last_tile])
    scratch, members = np.empty(most, np.uint64), np.empty((most, FIELDS), np.float32)
    tile = np.empty(PLANES * TILE_HEIGHT * STRIDE, np.float32)
    for number in range(first_tile, last_tile):
        top, left = number // columns * TILE_HEIGHT, number % columns * TILE_WIDTH
        bottom, right = min(top + TILE_HEIGHT, height), min(left + TILE_WIDTH, width)
        listed = entries[starts[number] : starts[number + 1]]
        _gather(listed, splats, opacities, colors, depths, members)
        order = nearest_first(listed, scratch)
        _open_tile(tile, bottom - top, right - left)
        _blend_tile(order, members, top, left, tile, image.shape[2] == 4)
        _store_tile(tile, top, left, bottom, right, behind, image, alpha)


@numba.njit(nogil=True, cache=True)
def _gather(
    entries: Entries, splats: Floats, opacities: Floats, colors: Floats, depths: Floats, members: Floats
) -> None:
    """Copy what the tile needs, and let its entries point there.

    Before they are sorted: by index, neighbours on the screen are often neighbours in memory.
    """
    half = np.uint64(32)
    for m in range(len(entries)):
        g = np.uint32(entries[m])
        entries[m] = entries[m] >> half << half | np.uint64(m)
        for k in range(SPLAT):
            members[m, k] = splats[g, k]
        members[m, OPACITY] = opacities[g]
        for k in range(3):
            members[m, OPACITY + 1 + k] = colors[g, k]
        members[m, DEPTH] = depths[g]


@numba.njit(nogil=True, cache=True)
def _blend_tile(order: Entries, members: Floats, top: int, left: int, tile: Floats, deep: bool) -> None:
    """Blend `members` into `tile`, nearest first; a closed pixel has its final transmittance, negated."""
    open_blocks = _open_blocks(tile)
    spans = 0
    for entry in order:
        m = np.uint32(entry)
        x0, x1 = max(np.int32(members[m, 6]) - left, 0), min(np.int32(members[m, 7]) - left, TILE_WIDTH)
        y0, y1 = max(np.int32(members[m, 8]) - top, 0), min(np.int32(members[m, 9]) - top, TILE_HEIGHT)
        if not open_blocks & _blocks(x0, x1, y0, y1):
            continue
        spans += (y1 - y0) * ((x1 - x0 - 1) // LANES + 1)
        if spans > PATIENCE:
            spans = 0
            open_blocks = _open_blocks(tile)
            if not open_blocks:
                return
        u, v = members[m, 0] - np.float32(left) - HALF, members[m, 1] - np.float32(top) - HALF
        shear, fall = members[m, 3], members[m, 4]
        for row in range(y0, y1):
            dy = v - np.float32(row)
            centre, from_row = u - shear * dy, fall * dy * dy
            if x1 - x0 <= LANES:
                _blend_span(row, x0, centre, from_row, members, m, tile, deep)
                continue
            open_columns = open_blocks >> np.uint64(row // BLOCK_HEIGHT * ACROSS)
            for column in range(x0 // LANES, (x1 - 1) // LANES + 1):
                if open_columns >> np.uint64(column) & np.uint64(1):
                    _blend_span(row, column * LANES, centre, from_row, members, m, tile, deep)


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath={"contract"})
def _blend_span(
    row: int,
    first: Whole,
    centre: np.float32,
    from_row: np.float32,
    members: Floats,
    m: Whole,
    tile: Floats,
    deep: bool,
) -> None:
    """Blend a Gaussian into LANES pixels from column `first` on, without a branch: an alpha below 1/255 is none."""
    curve, limit, opacity = members[m, 2], members[m, 5], members[m, OPACITY]
    red, green, blue, depth = members[m, 11], members[m, 12], members[m, 13], members[m, DEPTH]
    offset, start = centre - np.float32(first), np.uint64(row * STRIDE + first)
    for j in range(np.uint64(LANES)):
        dx = offset - np.float32(j)
        exponent = curve * dx * dx + from_row
        alpha = min(opacity * _decay(exponent), MAX_ALPHA)
        alpha = alpha if exponent <= limit else ZERO
        pixel = start + j
        before = tile[pixel]
        weight = before * alpha
        after = before - weight
        weight = weight if after > MIN_TRANSMITTANCE else ZERO
        tile[pixel] = after if after > MIN_TRANSMITTANCE else -abs(before)
        tile[pixel + PLANE] += weight * red
        tile[pixel + PLANE + PLANE] += weight * green
        tile[pixel + PLANE + PLANE + PLANE] += weight * blue
        if deep:
            tile[pixel + PLANE + PLANE + PLANE + PLANE] += weight * depth


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath={"contract"})
def _decay(x: np.float32) -> np.float32:
    """exp(-x) for x in [0, 5.55], to 2.5e-5 of itself: the best polynomial for exp(-x / 8), squared three times.

    Without libm and without integers, so the loop around it becomes vector instructions.
    """
    cubic = np.float32(0.0077874735) + x * (np.float32(-0.000312148419) + x * np.float32(7.22594268e-06))
    root = ONE + x * (np.float32(-0.124984927) + x * cubic)
    root *= root
    root *= root
    return root * root


@numba.njit(nogil=True, cache=True, forceinline=True)
def _blocks(x0: Whole, x1: Whole, y0: Whole, y1: Whole) -> np.uint64:
    """The bits of the blocks that a box, not empty, touches."""
    one, first = np.uint64(1), y0 // BLOCK_HEIGHT * ACROSS
    columns = (one << np.uint64((x1 - 1) // LANES + 1)) - (one << np.uint64(x0 // LANES))
    bits = ((y1 - 1) // BLOCK_HEIGHT + 1) * ACROSS - first
    return columns * (FIRST_COLUMN >> np.uint64(64 - bits) << np.uint64(first))


@numba.njit(nogil=True, cache=True)
def _open_blocks(tile: Floats) -> np.uint64:
    """The bits of the blocks in which a pixel is open."""
    found = np.uint64(0)
    for block in range(ACROSS * DOWN):
        most = -ONE
        for i in range(BLOCK_HEIGHT):
            start = np.uint64((block // ACROSS * BLOCK_HEIGHT + i) * STRIDE + block % ACROSS * LANES)
            for j in range(np.uint64(LANES)):
                most = max(most, tile[start + j])
        found |= np.uint64(most > ZERO) << np.uint64(block)
    return found


@numba.njit(nogil=True, cache=True)
def _open_tile(tile: Floats, rows: int, columns: int) -> None:
    """Nothing drawn yet; what lies outside the image is closed from the start."""
    tile[:] = ZERO
    for i in range(TILE_HEIGHT):
        for j in range(STRIDE):
            tile[i * STRIDE + j] = ONE if i < rows and j < columns else -ONE


@numba.njit(nogil=True, cache=True)
def _store_tile(
    tile: Floats, top: int, left: int, bottom: int, right: int, behind: Floats, image: Floats, alpha: Floats
) -> None:
    """The tile over its background; a fourth channel is the expected depth."""
    red, green, blue, deep = behind[0], behind[1], behind[2], image.shape[2] == 4
    for i in range(top, bottom):
        for j in range(left, right):
            pixel = np.uint64((i - top) * STRIDE + j - left)
            clear = abs(tile[pixel])
            alpha[i, j, 0] = ONE - clear
            image[i, j, 0] = tile[pixel + PLANE] + clear * red
            image[i, j, 1] = tile[pixel + PLANE + PLANE] + clear * green
            image[i, j, 2] = tile[pixel + PLANE + PLANE + PLANE] + clear * blue
            if deep:
                depth = tile[pixel + PLANE + PLANE + PLANE + PLANE]
                image[i, j, 3] = depth / max(ONE - clear, np.float32(1e-10))
