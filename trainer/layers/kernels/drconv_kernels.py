"""The kernels of a convolution by regions; `drconv.py` starts them.

A program has a tile of one region's pixels and a block of columns, and makes its part of the filter
where it needs it, in registers.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _filter(factors, tables, terms, term_factors, of_term, at, valid):
    """A block of a filter: the sum of its tables, weighed."""
    total = tl.zeros(at.shape, tl.float32)
    for j in range(terms):
        factor = tl.load(factors + j * term_factors).to(tl.float32)
        total += factor * tl.load(tables + j * of_term + at, mask=valid, other=0.0).to(tl.float32)
    return total


@triton.jit
@no_type_check
def product_kernel(
    source,
    target,
    bias,
    order,
    starts,
    places,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_out,
    of_in,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    inputs,
    outputs,
    regions,
    tiles,
    pixels,
    seen,
    groups,
    first_tap,
    taps,
    BACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of one region's pixels times a block of its filter's columns, over all taps."""
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    group = tl.program_id(2)
    # Which region the tile is of: regions' tiles follow each other.
    region = -1
    first = 0
    last = 0
    before = 0
    for t in range(regions):
        start = tl.load(starts + sample * (regions + 1) + t)
        stop = tl.load(starts + sample * (regions + 1) + t + 1)
        here = tl.cdiv(stop - start, ROWS)
        mine = (tile >= before) & (tile < before + here)
        region = tl.where(mine, t, region)
        first = tl.where(mine, start + (tile - before) * ROWS, first)
        last = tl.where(mine, stop, last)
        before += here
    if region >= 0:
        row = first + tl.arange(0, ROWS)
        pixel = tl.load(order + sample * pixels + row, mask=row < last, other=0)
        width_in = groups * inputs
        width_out = groups * outputs
        depth = outputs if BACK else inputs
        columns = inputs if BACK else outputs
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        factors = coefficient + sample * sample_factors + region * region_factors
        tables = table + region * of_own + group * outputs * of_out
        for step in range(taps):
            tap = first_tap + step
            place = tl.load(places + tap * pixels + pixel, mask=row < last, other=-1)
            from_row = pixel if BACK else place
            valid_row = (row < last) & (place >= 0)
            width = width_out if BACK else width_in
            rows_in = pixels if BACK else seen
            at = source + (sample * rows_in + from_row) * width + group * depth
            for k in range(0, depth, DEPTH):
                number = k + tl.arange(0, DEPTH)
                part = tl.load(
                    at[:, None] + number[None, :],
                    mask=valid_row[:, None] & (number < depth)[None, :],
                    other=0.0,
                )
                of_number = of_out if BACK else of_in
                of_column = of_in if BACK else of_out
                block = number[:, None] * of_number + column[None, :] * of_column
                valid = (number < depth)[:, None] & (column < columns)[None, :]
                by = _filter(
                    factors + tap * tap_factors,
                    tables + tap * of_tap,
                    terms,
                    term_factors,
                    of_term,
                    block,
                    valid,
                )
                total = tl.dot(part, by.to(part.dtype), total, input_precision="ieee")
        fits = (row < last)[:, None] & (column < columns)[None, :]
        if BACK:
            place = tl.load(places + first_tap * pixels + pixel, mask=row < last, other=-1)
            to = target + (sample * seen + place) * width_in + group * inputs
            fits = fits & (place >= 0)[:, None]
            total += tl.load(to[:, None] + column[None, :], mask=fits, other=0.0)
        else:
            to = target + (sample * pixels + pixel) * width_out + group * outputs
            if bias is not None:
                added = tl.load(bias + group * outputs + column, mask=column < columns, other=0.0)
                total += added.to(tl.float32)[None, :]
        tl.store(to[:, None] + column[None, :], total.to(target.dtype.element_ty), mask=fits)


@triton.jit
@no_type_check
def slope_kernel(
    gradient,
    image,
    slope,
    places,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_out,
    of_in,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    inputs,
    outputs,
    pixels,
    seen,
    groups,
    taps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One filter's response at a tile of pixels, against the output's gradient (eq. 7)."""
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    region = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    total = tl.zeros((ROWS,), tl.float32)
    factors = coefficient + sample * sample_factors + region * region_factors
    for group in range(groups):
        tables = table + region * of_own + group * outputs * of_out
        at = gradient + (sample * pixels + pixel) * groups * outputs + group * outputs
        for tap in range(taps):
            place = tl.load(places + tap * pixels + pixel, mask=pixel < pixels, other=-1)
            inside = place >= 0
            what = image + (sample * seen + place) * groups * inputs + group * inputs
            for c in range(0, inputs, COLUMNS):
                column = c + tl.arange(0, COLUMNS)
                back = tl.zeros((ROWS, COLUMNS), tl.float32)
                for k in range(0, outputs, DEPTH):
                    number = k + tl.arange(0, DEPTH)
                    part = tl.load(
                        at[:, None] + number[None, :],
                        mask=inside[:, None] & (number < outputs)[None, :],
                        other=0.0,
                    )
                    by = _filter(
                        factors + tap * tap_factors,
                        tables + tap * of_tap,
                        terms,
                        term_factors,
                        of_term,
                        number[:, None] * of_out + column[None, :] * of_in,
                        (number < outputs)[:, None] & (column < inputs)[None, :],
                    )
                    back = tl.dot(part, by.to(part.dtype), back, input_precision="ieee")
                numbers = tl.load(
                    what[:, None] + column[None, :],
                    mask=inside[:, None] & (column < inputs)[None, :],
                    other=0.0,
                )
                total += tl.sum(back * numbers.to(tl.float32), 1)
    regions = tl.num_programs(1)
    tl.store(slope + (sample * regions + region) * pixels + pixel, total, mask=pixel < pixels)


@triton.jit
@no_type_check
def filter_kernel(
    gradient,
    image,
    d_factor,
    d_table,
    order,
    starts,
    places,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_out,
    of_in,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    inputs,
    outputs,
    to_lot,
    to_own,
    to_term,
    to_out,
    to_in,
    batch,
    regions,
    lots,
    pixels,
    seen,
    groups,
    out_blocks,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A block of each filter's gradient at one tap, and what it means for factors and tables.

    Sample after sample of a lot, so that sums do not depend on who comes first.
    """
    block = tl.program_id(0)
    tap = tl.program_id(1)
    lot = tl.program_id(2)
    column = block % out_blocks * COLUMNS + tl.arange(0, COLUMNS)
    in_blocks = tl.cdiv(inputs, DEPTH)
    number = block // out_blocks % in_blocks * DEPTH + tl.arange(0, DEPTH)
    group = block // out_blocks // in_blocks
    valid = (number < inputs)[:, None] & (column < outputs)[None, :]
    at_table = number[:, None] * of_in + (group * outputs + column)[None, :] * of_out
    to_table = number[:, None] * to_in + (group * outputs + column)[None, :] * to_out
    first_sample = batch * lot // lots
    for step in range(batch * (lot + 1) // lots - first_sample):
        sample = first_sample + step
        wide = sample.to(tl.int64)
        for region in range(regions):
            first = tl.load(starts + sample * (regions + 1) + region)
            last = tl.load(starts + sample * (regions + 1) + region + 1)
            total = tl.zeros((DEPTH, COLUMNS), tl.float32)
            for start in range(first, last, ROWS):
                row = start + tl.arange(0, ROWS)
                pixel = tl.load(order + wide * pixels + row, mask=row < last, other=0)
                place = tl.load(places + tap * pixels + pixel, mask=row < last, other=-1)
                inside = place >= 0
                what = image + (wide * seen + place) * groups * inputs + group * inputs
                numbers = tl.load(
                    what[None, :] + number[:, None],
                    mask=inside[None, :] & (number < inputs)[:, None],
                    other=0.0,
                )
                out = gradient + (wide * pixels + pixel) * groups * outputs + group * outputs
                parts = tl.load(
                    out[:, None] + column[None, :],
                    mask=inside[:, None] & (column < outputs)[None, :],
                    other=0.0,
                )
                total = tl.dot(numbers, parts, total, input_precision="ieee")
            factors = coefficient + wide * sample_factors + region * region_factors
            of_factor = (tap * tl.num_programs(0) + block) * batch + sample
            for j in range(terms):
                by = tl.load(
                    table + region * of_own + j * of_term + tap * of_tap + at_table,
                    mask=valid,
                    other=0.0,
                )
                tl.store(
                    d_factor + (of_factor * regions + region) * terms + j,
                    tl.sum(total * by.to(tl.float32)),
                )
                factor = tl.load(factors + j * term_factors + tap * tap_factors).to(tl.float32)
                to = d_table + lot * to_lot + region * to_own + j * to_term + tap + to_table
                kept = tl.load(to, mask=valid, other=0.0)
                tl.store(to, kept + factor * total, mask=valid)
