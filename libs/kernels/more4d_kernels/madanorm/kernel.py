"""Triton kernels of `madanorm` and `modulated_norm`: every row is read once and written once.

A row of D values lies in registers as a pair of powers of two, MAIN + TAIL >= D > MAIN: 5120 is 4096 + 1024, without
the 3072 idle lanes of one block of 8192. All arithmetic is in fp32. A program works on a strip of rows that share
their modulation: `count` rows from `first`, `step` apart. In a video that is one position in several frames, in a
prefix (or without motion, in the whole sequence) a few rows that follow each other.

y = xhat · factor + offset, with m = 1 + gate · motion_scale and n = gate · motion_shift (1 and 0 in a prefix):
factor = (1 + time_scale) · m, offset = time_shift · m + n; in the paper's form factor = gate · motion_scale (1 in a
prefix), offset = n.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false
# tl.range is iterable in kernels only.

import triton
import triton.language as tl


@triton.jit
def load_row(pointer, upto, MAIN: tl.constexpr, TAIL: tl.constexpr):
    """A row's columns before `upto` in fp32 as (main, tail), zeros after."""
    main, tail = tl.arange(0, MAIN), MAIN + tl.arange(0, TAIL)
    first = tl.load(pointer + main, mask=main < upto, other=0.0)
    rest = tl.load(pointer + tail, mask=tail < upto, other=0.0)
    return first.to(tl.float32), rest.to(tl.float32)


@triton.jit
def store_row(pointer, row, upto, MAIN: tl.constexpr, TAIL: tl.constexpr):
    main, tail = tl.arange(0, MAIN), MAIN + tl.arange(0, TAIL)
    tl.store(pointer + main, row[0].to(pointer.dtype.element_ty), mask=main < upto)
    tl.store(pointer + tail, row[1].to(pointer.dtype.element_ty), mask=tail < upto)


@triton.jit
def add_to(pointer, row, again, D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr):
    """Add to this program's own row in memory, or begin it where not `again`.

    It rests in the GPU's cache from one strip to the next: in registers it would crowd out the frames' sums.
    """
    tl.debug_barrier()
    store_row(pointer, add(row, load_row(pointer, tl.where(again, D, 0), MAIN, TAIL)), D, MAIN, TAIL)


@triton.jit
def rounded(row, pointer):
    """The row as a store to `pointer` keeps it."""
    kind = pointer.dtype.element_ty
    return row[0].to(kind).to(tl.float32), row[1].to(kind).to(tl.float32)


@triton.jit
def zeros(MAIN: tl.constexpr, TAIL: tl.constexpr):
    return tl.zeros((MAIN,), tl.float32), tl.zeros((TAIL,), tl.float32)


@triton.jit
def add(a, b):
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def times(a, b):
    return a[0] * b[0], a[1] * b[1]


@triton.jit
def one_more(a):
    return a[0] + 1.0, a[1] + 1.0


@triton.jit
def times_number(a, number):
    return a[0] * number, a[1] * number


@triton.jit
def total(a):
    return tl.sum(a[0], axis=0) + tl.sum(a[1], axis=0)


@triton.jit
def centred(row, mean, D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr):
    """The row minus its mean, still zero past its end."""
    tail = MAIN + tl.arange(0, TAIL)
    return row[0] - mean, tl.where(tail < D, row[1] - mean, 0.0)


@triton.jit
def motion_rows(
    motion_scale, motion_shift, gate, video, TIME: tl.constexpr, D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr
):  # fmt: skip
    """m and n of one position: what multiplies and what is added; 1 and 0 where not `video`."""
    opened = load_row(gate, tl.where(video, D, 0), MAIN, TAIL)
    m = times(opened, load_row(motion_scale, tl.where(video, D, 0), MAIN, TAIL))
    n = times(opened, load_row(motion_shift, tl.where(video, D, 0), MAIN, TAIL))
    if TIME:
        return one_more(m), n
    plain = tl.where(video, 0.0, 1.0)
    return (m[0] + plain, m[1] + plain), n


@triton.jit
def forward_kernel(
    x, update, update_gate, time_scale, time_shift, motion_scale, motion_shift, gate,
    y, total_out, mean_out, rstd_out,
    x_batch, x_row, update_batch, update_row, update_gate_batch, update_gate_row,
    time_scale_batch, time_scale_row, time_shift_batch, time_shift_row,
    motion_scale_batch, motion_scale_row, motion_shift_batch, motion_shift_row,
    tokens, positions, frames, prefix, eps,
    D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, STRIP: tl.constexpr, STAGES: tl.constexpr,
    TIME: tl.constexpr, PER_TOKEN: tl.constexpr, MOTION: tl.constexpr,
    UPDATE: tl.constexpr, UPDATE_GATE: tl.constexpr, UPDATE_GATE_PER_TOKEN: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    program = tl.program_id(0)
    strips = positions * tl.cdiv(frames, STRIP)
    video = program < strips
    position = tl.where(video, program % tl.maximum(positions, 1), 0)
    frame = (program // tl.maximum(positions, 1)) * STRIP
    plain = (program - strips) * STRIP
    first = tl.where(video, prefix + frame * positions + position, plain)
    step = tl.where(video, positions, 1)
    count = tl.minimum(STRIP, tl.where(video, frames - frame, prefix - plain))

    x += batch * x_batch
    time_scale += batch * time_scale_batch
    time_shift += batch * time_shift_batch
    if MOTION:
        m, n = motion_rows(
            motion_scale + batch * motion_scale_batch + position.to(tl.int64) * motion_scale_row,
            motion_shift + batch * motion_shift_batch + position.to(tl.int64) * motion_shift_row,
            gate, video, TIME, D, MAIN, TAIL,
        )  # fmt: skip
    else:
        m, n = one_more(zeros(MAIN, TAIL)), zeros(MAIN, TAIL)
    factor, offset = m, n
    if TIME and not PER_TOKEN:
        factor = times(one_more(load_row(time_scale, D, MAIN, TAIL)), m)
        offset = add(times(load_row(time_shift, D, MAIN, TAIL), m), n)
    if UPDATE:
        update += batch * update_batch
        update_gate += batch * update_gate_batch
        opening = one_more(zeros(MAIN, TAIL))
        if UPDATE_GATE and not UPDATE_GATE_PER_TOKEN:
            opening = load_row(update_gate, D, MAIN, TAIL)

    for i in tl.range(count, num_stages=STAGES):
        # Rows times widths pass 2**31 for long clips.
        row = (first + i * step).to(tl.int64)
        value = load_row(x + row * x_row, D, MAIN, TAIL)
        if UPDATE:
            added = load_row(update + row * update_row, D, MAIN, TAIL)
            if UPDATE_GATE_PER_TOKEN:
                added = times(added, load_row(update_gate + row * update_gate_row, D, MAIN, TAIL))
            elif UPDATE_GATE:
                added = times(added, opening)
            # Normalised as it will be read again: the backward finds this row, not the unrounded sum.
            value = rounded(add(value, added), total_out)
            store_row(total_out + (batch * tokens + row) * D, value, D, MAIN, TAIL)
        mean = total(value) / D
        value = centred(value, mean, D, MAIN, TAIL)
        rstd = tl.rsqrt(total(times(value, value)) / D + eps)
        value = times_number(value, rstd)
        if PER_TOKEN:
            value = times(value, one_more(load_row(time_scale + row * time_scale_row, D, MAIN, TAIL)))
            value = add(value, load_row(time_shift + row * time_shift_row, D, MAIN, TAIL))
        value = add(times(value, factor), offset)
        tl.store(mean_out + batch * tokens + row, mean)
        tl.store(rstd_out + batch * tokens + row, rstd)
        store_row(y + (batch * tokens + row) * D, value, D, MAIN, TAIL)


@triton.jit
def rows_of(strip, video, program, programs, positions, frames, prefix):
    """A strip's position, first row, distance from row to row and number of rows: a position's, or of the prefix."""
    position = tl.where(video, program + strip * programs, 0).to(tl.int64)
    first = tl.where(video, prefix + position, program)
    step = tl.where(video, positions, programs).to(tl.int64)
    return position, first, step, tl.where(video, frames, tl.cdiv(prefix - program, programs))


@triton.jit
def through_norm(given, xhat, rstd, D: tl.constexpr):
    """The gradient of a row from that of its xhat."""
    along = total(times(given, xhat)) / D
    level = total(given) / D
    return (given[0] - level - xhat[0] * along) * rstd, (given[1] - level - xhat[1] * along) * rstd


@triton.jit
def through_time(
    given, xhat, factor, product, time_scale, time_shift, dtime_scale, dtime_shift,
    MOTION: tl.constexpr, D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """The gradient of a row's xhat, and the sum for motion_scale, where the timestep has a row for each token."""
    scale = one_more(load_row(time_scale, D, MAIN, TAIL))
    if MOTION:
        timed = add(times(xhat, scale), load_row(time_shift, D, MAIN, TAIL))
        product = add(product, times(given, timed))
    given = times(given, factor)
    store_row(dtime_scale, times(given, xhat), D, MAIN, TAIL)
    store_row(dtime_shift, given, D, MAIN, TAIL)
    return times(given, scale), product


@triton.jit
def share_out(
    product, plain_sum, motion_scale, motion_shift, gate, time_scale, time_shift, dmotion_scale, dmotion_shift, dgate,
    upto, again,
    D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, PER_SAMPLE: tl.constexpr,
):  # fmt: skip
    """Gradients of a position's motion rows and its share of the gate's, from the sums over its frames.

    Returns the two sums times m: its share of what belongs to the timestep. A prefix has `upto` 0 in place of D.
    """
    opened = load_row(gate, D, MAIN, TAIL)
    through = product
    if PER_SAMPLE:
        scale = one_more(load_row(time_scale, D, MAIN, TAIL))
        shift = load_row(time_shift, D, MAIN, TAIL)
        through = add(times(scale, product), times(shift, plain_sum))
    store_row(dmotion_scale, times(opened, through), upto, MAIN, TAIL)
    store_row(dmotion_shift, times(opened, plain_sum), upto, MAIN, TAIL)
    moved = load_row(motion_scale, upto, MAIN, TAIL)
    shifted = load_row(motion_shift, upto, MAIN, TAIL)
    add_to(dgate, add(times(moved, through), times(shifted, plain_sum)), again, D, MAIN, TAIL)
    m = one_more(times(opened, moved))
    return times(m, product), times(m, plain_sum)


@triton.jit
def backward_kernel(
    dy, dtotal, x, update, update_gate, time_scale, time_shift, motion_scale, motion_shift, gate, mean_in, rstd_in,
    dx, dupdate, dupdate_gate, dtime_scale, dtime_shift, dmotion_scale, dmotion_shift, dgate,
    dy_batch, dy_row, dtotal_batch, dtotal_row,
    x_batch, x_row, update_batch, update_row, update_gate_batch, update_gate_row,
    time_scale_batch, time_scale_row, time_shift_batch, time_shift_row,
    motion_scale_batch, motion_scale_row, motion_shift_batch, motion_shift_row,
    tokens, positions, frames, prefix, programs,
    D: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, STAGES: tl.constexpr,
    TIME: tl.constexpr, PER_TOKEN: tl.constexpr, MOTION: tl.constexpr,
    UPDATE_GATE: tl.constexpr, DTOTAL: tl.constexpr,
):  # fmt: skip
    """Gradients of every input, without atomics: `programs` of them share a sample, each with a row of its own in the
    partial sums (`dgate` and, where there is one row a sample, `dtime_scale`, `dtime_shift`, `dupdate_gate`).

    A program takes whole positions, all frames of one after the other, so that what frames share is summed in
    registers; its last strip is its share of the prefix.
    """
    program = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    x += batch * x_batch
    dy, dtotal = dy + batch * dy_batch, dtotal + batch * dtotal_batch
    update, update_gate = update + batch * update_batch, update_gate + batch * update_gate_batch
    time_scale, time_shift = time_scale + batch * time_scale_batch, time_shift + batch * time_shift_batch
    motion_scale, motion_shift = motion_scale + batch * motion_scale_batch, motion_shift + batch * motion_shift_batch

    own = (batch * programs + program) * D
    videos = tl.cdiv(positions - program, programs)
    for strip in range(videos + 1):
        video = strip < videos
        position, first, step, count = rows_of(strip, video, program, programs, positions, frames, prefix)
        factor = one_more(zeros(MAIN, TAIL))
        if MOTION:
            rows = motion_scale + position * motion_scale_row, motion_shift + position * motion_shift_row
            factor, _ = motion_rows(rows[0], rows[1], gate, video, TIME, D, MAIN, TAIL)
        if TIME and not PER_TOKEN:
            factor = times(one_more(load_row(time_scale, D, MAIN, TAIL)), factor)
        product, plain_sum, update_sum = zeros(MAIN, TAIL), zeros(MAIN, TAIL), zeros(MAIN, TAIL)
        for i in tl.range(count, num_stages=STAGES):
            row = first + i * step
            out = (batch * tokens + row) * D
            rstd = tl.load(rstd_in + batch * tokens + row)
            # Past the row's end xhat is not zero, but all that it is multiplied by is.
            value = load_row(x + row * x_row, D, MAIN, TAIL)
            mean = tl.load(mean_in + batch * tokens + row)
            xhat = (value[0] - mean) * rstd, (value[1] - mean) * rstd
            given = load_row(dy + row * dy_row, D, MAIN, TAIL)
            plain_sum = add(plain_sum, given)
            if PER_TOKEN:
                given, product = through_time(
                    given, xhat, factor, product, time_scale + row * time_scale_row, time_shift + row * time_shift_row,
                    dtime_scale + out, dtime_shift + out, MOTION, D, MAIN, TAIL,
                )  # fmt: skip
            else:
                product = add(product, times(given, xhat))
                given = times(given, factor)
            change = through_norm(given, xhat, rstd, D)
            if DTOTAL:
                change = add(change, load_row(dtotal + row * dtotal_row, D, MAIN, TAIL))
            store_row(dx + out, change, D, MAIN, TAIL)
            if UPDATE_GATE:
                opening = load_row(update_gate, D, MAIN, TAIL)
                store_row(dupdate + out, times(change, opening), D, MAIN, TAIL)
                pulled = times(change, load_row(update + row * update_row, D, MAIN, TAIL))
                update_sum = add(update_sum, pulled)
        again = strip > 0
        if MOTION:
            place = (batch * positions + position) * D
            product, plain_sum = share_out(
                product, plain_sum, motion_scale + position * motion_scale_row,
                motion_shift + position * motion_shift_row, gate, time_scale, time_shift,
                dmotion_scale + place, dmotion_shift + place, dgate + own, tl.where(video, D, 0), again,
                D, MAIN, TAIL, TIME and not PER_TOKEN,
            )  # fmt: skip
        if TIME and not PER_TOKEN:
            add_to(dtime_scale + own, product, again, D, MAIN, TAIL)
            add_to(dtime_shift + own, plain_sum, again, D, MAIN, TAIL)
        if UPDATE_GATE:
            add_to(dupdate_gate + own, update_sum, again, D, MAIN, TAIL)
