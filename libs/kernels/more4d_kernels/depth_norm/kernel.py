"""Triton kernels of `normalize_motion` and `denormalize_motion`: every frame is read once and written once.

A program works on a block of pixels, frame after frame, with the first frame's points in registers. Points lie
interleaved (x y z x y z ..), motion as three planes. A row of a [GROUPS, 4] tile is four neighbouring pixels: their
twelve numbers are three loads of four neighbours each, put in order in registers, and their part of a plane is one
store of four neighbours. All arithmetic is in fp32. `left` is how many pixels there are from the block's first on.
"""

# What @triton.jit compiles is Triton's language, whose values have no Python types.
# ruff: noqa: ANN001, ANN201
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def tile(GROUPS: tl.constexpr, STEP: tl.constexpr):
    """Places [GROUPS, 4]: four neighbours a row, rows STEP apart."""
    return STEP * tl.arange(0, GROUPS)[:, None] + tl.arange(0, 4)[None, :]


@triton.jit
def load_plane(pointer, left, GROUPS: tl.constexpr):
    """A block of one plane in fp32, zeros past its end."""
    place = tile(GROUPS, 4)
    return tl.load(pointer + place, mask=place < left, other=0.0).to(tl.float32)


@triton.jit
def store_plane(pointer, value, left, GROUPS: tl.constexpr):
    place = tile(GROUPS, 4)
    tl.store(pointer + place, value.to(pointer.dtype.element_ty), mask=place < left)


@triton.jit
def apart(quartet, GROUPS: tl.constexpr):
    """The four columns [GROUPS] of a tile."""
    even, odd = tl.split(tl.reshape(quartet, (GROUPS, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def together(first, second, third, fourth, GROUPS: tl.constexpr):
    """The tile of four columns: the inverse of `apart`."""
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), (GROUPS, 4))


@triton.jit
def load_points(pointer, left, GROUPS: tl.constexpr):
    """x, y and z of a block of points in fp32, zeros past its end."""
    place = tile(GROUPS, 12)
    a = tl.load(pointer + place, mask=place < left * 3, other=0.0).to(tl.float32)
    b = tl.load(pointer + 4 + place, mask=place + 4 < left * 3, other=0.0).to(tl.float32)
    c = tl.load(pointer + 8 + place, mask=place + 8 < left * 3, other=0.0).to(tl.float32)
    x0, y0, z0, x1 = apart(a, GROUPS)
    y1, z1, x2, y2 = apart(b, GROUPS)
    z2, x3, y3, z3 = apart(c, GROUPS)
    return together(x0, x1, x2, x3, GROUPS), together(y0, y1, y2, y3, GROUPS), together(z0, z1, z2, z3, GROUPS)


@triton.jit
def store_points(pointer, x, y, z, left, GROUPS: tl.constexpr):
    x0, x1, x2, x3 = apart(x, GROUPS)
    y0, y1, y2, y3 = apart(y, GROUPS)
    z0, z1, z2, z3 = apart(z, GROUPS)
    kind = pointer.dtype.element_ty
    place = tile(GROUPS, 12)
    tl.store(pointer + place, together(x0, y0, z0, x1, GROUPS).to(kind), mask=place < left * 3)
    tl.store(pointer + 4 + place, together(y1, z1, x2, y2, GROUPS).to(kind), mask=place + 4 < left * 3)
    tl.store(pointer + 8 + place, together(z2, x3, y3, z3, GROUPS).to(kind), mask=place + 8 < left * 3)


@triton.jit
def bits_of(value):
    """The bits of |value|, which order like the values themselves; NaN and infinity are 0x7F800000 or more."""
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def first_frame(
    points, intrinsics, intrinsics_row, intrinsics_column, width, height, left, GROUPS: tl.constexpr
):  # fmt: skip
    """The first points x, y, z; whether they are valid; one unit of motion there, as at 1 m where they are not."""
    x, y, z = load_points(points, left, GROUPS)
    infinity: tl.constexpr = 0x7F800000
    keep = (bits_of(x) < infinity) & (bits_of(y) < infinity) & (bits_of(z) < infinity) & (z > 0.0)
    depth = tl.where(keep, z, 1.0)
    focal_x = tl.load(intrinsics).to(tl.float32)
    focal_y = tl.load(intrinsics + intrinsics_row + intrinsics_column).to(tl.float32)
    # Correctly rounded, here and below: so motion has the same bits on every device.
    unit_x = tl.div_rn(tl.cast(width, tl.float32), focal_x)
    unit_y = tl.div_rn(tl.cast(height, tl.float32), focal_y)
    return x, y, z, keep, depth * unit_x, depth * unit_y, depth


@triton.jit
def counted(size, keep, BINS: tl.constexpr, LOWEST: tl.constexpr, SHIFT: tl.constexpr):
    """Histogram of sizes given as bits, over the pixels to `keep`."""
    bins = tl.minimum(tl.maximum((size >> SHIFT) - LOWEST, 0), BINS - 1)
    return tl.histogram(tl.ravel(bins), BINS, mask=tl.ravel(keep))


@triton.jit
def store_statistics(maximum, counts, size, count, BINS: tl.constexpr):
    tl.store(maximum, tl.max(tl.max(size, axis=1), axis=0).to(tl.float32, bitcast=True))
    tl.store(counts + tl.arange(0, BINS), count)


@triton.jit
def normalize_kernel(
    points, intrinsics, motion, valid, maximum, counts,
    points_batch, points_frame, intrinsics_batch, intrinsics_row, intrinsics_column,
    frames, pixels, width, height, strip,
    GROUPS: tl.constexpr, STAGES: tl.constexpr, STATISTICS: tl.constexpr,
    BINS: tl.constexpr, LOWEST: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Motion and valid; with statistics each program's own row of `maximum` and `counts` [B, programs, 3, ...].

    Programs that share a block of pixels follow each other, so that its first frame is still in the GPU's cache.
    """
    strips = tl.cdiv(frames, strip)
    program, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = (program // strips).to(tl.int64) * (4 * GROUPS)
    frame = (program % strips) * strip
    left = pixels - start
    # Frames times pixels passes 2**31 for long clips.
    plane = tl.cast(frames, tl.int64) * pixels
    points += batch * points_batch + start * 3
    motion += batch * 3 * plane + start
    x0, y0, z0, keep, unit_x, unit_y, unit_z = first_frame(
        points, intrinsics + batch * intrinsics_batch, intrinsics_row, intrinsics_column, width, height, left, GROUPS
    )
    if frame == 0:
        store_plane(valid + batch * pixels + start, keep, left, GROUPS)
    if STATISTICS:
        smallest, none = tl.zeros((GROUPS, 4), tl.int32), tl.zeros((BINS,), tl.int32)
        size_x, size_y, size_z = smallest, smallest, smallest
        count_x, count_y, count_z = none, none, none
    for t in tl.range(frame, tl.minimum(frame + strip, frames), num_stages=STAGES):
        x, y, z = load_points(points + tl.cast(t, tl.int64) * points_frame, left, GROUPS)
        x = tl.where(keep, tl.div_rn(x - x0, unit_x), 0.0)
        y = tl.where(keep, tl.div_rn(y - y0, unit_y), 0.0)
        z = tl.where(keep, tl.div_rn(z - z0, unit_z), 0.0)
        out = motion + tl.cast(t, tl.int64) * pixels
        store_plane(out, x, left, GROUPS)
        store_plane(out + plane, y, left, GROUPS)
        store_plane(out + 2 * plane, z, left, GROUPS)
        if STATISTICS:
            infinity: tl.constexpr = 0x7F800000
            bits_x, bits_y, bits_z = bits_of(x), bits_of(y), bits_of(z)
            fine_x, fine_y, fine_z = keep & (bits_x < infinity), keep & (bits_y < infinity), keep & (bits_z < infinity)
            size_x = tl.maximum(size_x, tl.where(fine_x, bits_x, 0))
            size_y = tl.maximum(size_y, tl.where(fine_y, bits_y, 0))
            size_z = tl.maximum(size_z, tl.where(fine_z, bits_z, 0))
            count_x += counted(bits_x, fine_x, BINS, LOWEST, SHIFT)
            count_y += counted(bits_y, fine_y, BINS, LOWEST, SHIFT)
            count_z += counted(bits_z, fine_z, BINS, LOWEST, SHIFT)
    if STATISTICS:
        own = (batch * tl.num_programs(0) + program) * 3
        store_statistics(maximum + own, counts + own * BINS, size_x, count_x, BINS)
        store_statistics(maximum + own + 1, counts + (own + 1) * BINS, size_y, count_y, BINS)
        store_statistics(maximum + own + 2, counts + (own + 2) * BINS, size_z, count_z, BINS)


@triton.jit
def normalize_backward_kernel(
    gradient, points, intrinsics, dpoints, partial,
    gradient_batch, gradient_plane, gradient_frame, points_batch, points_frame,
    intrinsics_batch, intrinsics_row, intrinsics_column,
    frames, pixels, width, height,
    GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of points, and each program's own sums of gradient times motion in x and y [B, programs, 2]."""
    program, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = program.to(tl.int64) * (4 * GROUPS)
    left = pixels - start
    gradient += batch * gradient_batch + start
    points += batch * points_batch + start * 3
    dpoints += (batch * frames * pixels + start) * 3
    x0, y0, z0, keep, unit_x, unit_y, unit_z = first_frame(
        points, intrinsics + batch * intrinsics_batch, intrinsics_row, intrinsics_column, width, height, left, GROUPS
    )
    zero = tl.zeros((GROUPS, 4), tl.float32)
    sum_x, sum_y, sum_z = zero, zero, zero
    product_x, product_y, product_z = zero, zero, zero
    for t in tl.range(1, frames, num_stages=STAGES):
        given = gradient + tl.cast(t, tl.int64) * gradient_frame
        x, y, z = load_points(points + tl.cast(t, tl.int64) * points_frame, left, GROUPS)
        dx = tl.where(keep, load_plane(given, left, GROUPS) / unit_x, 0.0)
        dy = tl.where(keep, load_plane(given + gradient_plane, left, GROUPS) / unit_y, 0.0)
        dz = tl.where(keep, load_plane(given + 2 * gradient_plane, left, GROUPS) / unit_z, 0.0)
        store_points(dpoints + tl.cast(t, tl.int64) * pixels * 3, dx, dy, dz, left, GROUPS)
        sum_x, sum_y, sum_z = sum_x + dx, sum_y + dy, sum_z + dz
        product_x += tl.where(keep, dx * (x - x0), 0.0)
        product_y += tl.where(keep, dy * (y - y0), 0.0)
        product_z += tl.where(keep, dz * (z - z0), 0.0)
    through_depth = (product_x + product_y + product_z) / unit_z
    store_points(dpoints, -sum_x, -sum_y, -sum_z - through_depth, left, GROUPS)
    own = (batch * tl.num_programs(0) + program) * 2
    tl.store(partial + own, tl.sum(tl.sum(product_x, axis=1), axis=0))
    tl.store(partial + own + 1, tl.sum(tl.sum(product_y, axis=1), axis=0))


@triton.jit
def denormalize_kernel(
    motion, points0, intrinsics, points,
    motion_batch, motion_plane, motion_frame, points0_batch, intrinsics_batch, intrinsics_row, intrinsics_column,
    frames, pixels, width, height, strip,
    GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Points of motion."""
    strips = tl.cdiv(frames, strip)
    program, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = (program // strips).to(tl.int64) * (4 * GROUPS)
    frame = (program % strips) * strip
    left = pixels - start
    motion += batch * motion_batch + start
    points += (batch * frames * pixels + start) * 3
    x0, y0, z0, keep, unit_x, unit_y, unit_z = first_frame(
        points0 + batch * points0_batch + start * 3, intrinsics + batch * intrinsics_batch,
        intrinsics_row, intrinsics_column, width, height, left, GROUPS,
    )  # fmt: skip
    for t in tl.range(frame, tl.minimum(frame + strip, frames), num_stages=STAGES):
        given = motion + tl.cast(t, tl.int64) * motion_frame
        x = x0 + tl.where(keep, load_plane(given, left, GROUPS), 0.0) * unit_x
        y = y0 + tl.where(keep, load_plane(given + motion_plane, left, GROUPS), 0.0) * unit_y
        z = z0 + tl.where(keep, load_plane(given + 2 * motion_plane, left, GROUPS), 0.0) * unit_z
        store_points(points + tl.cast(t, tl.int64) * pixels * 3, x, y, z, left, GROUPS)


@triton.jit
def denormalize_backward_kernel(
    gradient, motion, points0, intrinsics, dmotion, dpoints0, partial,
    gradient_batch, gradient_frame, motion_batch, motion_plane, motion_frame, points0_batch,
    intrinsics_batch, intrinsics_row, intrinsics_column,
    frames, pixels, width, height, strip,
    GROUPS: tl.constexpr, STAGES: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Gradient of motion; with FIRST, where a program takes all frames, those of points0 and sums as above.

    Without FIRST motion is not read.
    """
    strips = tl.cdiv(frames, strip)
    program, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = (program // strips).to(tl.int64) * (4 * GROUPS)
    frame = (program % strips) * strip
    left = pixels - start
    plane = tl.cast(frames, tl.int64) * pixels
    gradient += batch * gradient_batch + start * 3
    motion += batch * motion_batch + start
    dmotion += batch * 3 * plane + start
    x0, y0, z0, keep, unit_x, unit_y, unit_z = first_frame(
        points0 + batch * points0_batch + start * 3, intrinsics + batch * intrinsics_batch,
        intrinsics_row, intrinsics_column, width, height, left, GROUPS,
    )  # fmt: skip
    if FIRST:
        zero = tl.zeros((GROUPS, 4), tl.float32)
        sum_x, sum_y, sum_z = zero, zero, zero
        product_x, product_y, product_z = zero, zero, zero
    for t in tl.range(frame, tl.minimum(frame + strip, frames), num_stages=STAGES):
        dx, dy, dz = load_points(gradient + tl.cast(t, tl.int64) * gradient_frame, left, GROUPS)
        out = dmotion + tl.cast(t, tl.int64) * pixels
        if FIRST:
            moved = motion + tl.cast(t, tl.int64) * motion_frame
            sum_x, sum_y, sum_z = sum_x + dx, sum_y + dy, sum_z + dz
            product_x += tl.where(keep, dx * load_plane(moved, left, GROUPS), 0.0)
            product_y += tl.where(keep, dy * load_plane(moved + motion_plane, left, GROUPS), 0.0)
            product_z += tl.where(keep, dz * load_plane(moved + 2 * motion_plane, left, GROUPS), 0.0)
        store_plane(out, tl.where(keep, dx * unit_x, 0.0), left, GROUPS)
        store_plane(out + plane, tl.where(keep, dy * unit_y, 0.0), left, GROUPS)
        store_plane(out + 2 * plane, tl.where(keep, dz * unit_z, 0.0), left, GROUPS)
    if FIRST:
        product_x, product_y = product_x * unit_x, product_y * unit_y
        through_depth = (product_x + product_y) / unit_z + product_z
        dpoints0 += (batch * pixels + start) * 3
        store_points(dpoints0, sum_x, sum_y, sum_z + through_depth, left, GROUPS)
        own = (batch * tl.num_programs(0) + program) * 2
        tl.store(partial + own, -tl.sum(tl.sum(product_x, axis=1), axis=0))
        tl.store(partial + own + 1, -tl.sum(tl.sum(product_y, axis=1), axis=0))
