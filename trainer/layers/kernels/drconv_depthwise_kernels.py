"""The kernels of a depthwise convolution by regions; `drconv_depthwise.py` starts them.

A channel is multiplied once a tap, so what counts is how often numbers are read: a program reads
images where they lie, takes from the tables what its pixels' regions ask for, and sums in float32.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _filter(
    coefficient, at_factor, of_factor, table, at_table, of_table, terms, term_factors, of_term
):
    """A row's filter at one tap, [rows, channels]: the sum of its tables, weighed."""
    total = tl.zeros(at_table.shape, tl.float32)
    for j in range(terms):
        factor = tl.load(coefficient + j * term_factors + at_factor, mask=of_factor, other=0.0)
        part = tl.load(table + j * of_term + at_table, mask=of_table, other=0.0)
        total += factor.to(tl.float32)[:, None] * part.to(tl.float32)
    return total


@triton.jit
@no_type_check
def _seen(y, x, tap, height, width, KERNEL_WIDTH: tl.constexpr):
    """What the tap sees of a window that begins at (y, x), and whether it is inside the image."""
    y += tap // KERNEL_WIDTH
    x += tap % KERNEL_WIDTH
    return y * width + x, (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
@no_type_check
def _seer(y, x, tap, height, width, KERNEL_WIDTH: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X):
    """The output's pixel that sees (y, x) of the padded image by the tap, and whether there is."""
    y -= tap // KERNEL_WIDTH
    x -= tap % KERNEL_WIDTH
    there = (y >= 0) & (x >= 0) & (y % STRIDE_Y == 0) & (x % STRIDE_X == 0)
    y = y // STRIDE_Y
    x = x // STRIDE_X
    return y * width + x, there & (y < height) & (x < width)


@triton.jit
@no_type_check
def _range(region, there):
    """The lowest region of the pixels that are there, and the one behind the highest."""
    return tl.min(tl.where(there, region, 256), 0), tl.max(tl.where(there, region, -1), 0) + 1


@triton.jit
@no_type_check
def product_kernel(
    source,
    target,
    bias,
    mask,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    channels,
    tiles,
    height,
    width,
    seen_height,
    seen_width,
    taps,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    BACK: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A tile of the output; or, going back, of the image's gradient, from all pixels that saw it.

    `height` and `width` are the target's, the others the source's. Regions are patches of an image:
    a tile has few, and of each a filter is made at a tap, once for all of its pixels.
    """
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = pixel < height * width
    real = (channel < channels)[None, :]
    seen = seen_height * seen_width
    factors = coefficient + sample * sample_factors
    from_sample = source + sample * seen * channels
    if BACK:
        regions = mask + sample * seen
        y = pixel // width + PADDING_Y
        x = pixel % width + PADDING_X
    else:
        region = tl.load(mask + sample * height * width + pixel, mask=valid, other=0).to(tl.int32)
        first, end = _range(region, valid)
        y = pixel // width * STRIDE_Y - PADDING_Y
        x = pixel % width * STRIDE_X - PADDING_X
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in range(taps):
        if BACK:
            place, inside = _seer(
                y, x, tap, seen_height, seen_width, KERNEL_WIDTH, STRIDE_Y, STRIDE_X
            )
            inside = inside & valid
            region = tl.load(regions + place, mask=inside, other=0).to(tl.int32)
            first, end = _range(region, inside)
        else:
            place, inside = _seen(y, x, tap, seen_height, seen_width, KERNEL_WIDTH)
            inside = inside & valid
        at = (place * channels)[:, None] + channel[None, :]
        value = tl.load(from_sample + at, mask=inside[:, None] & real, other=0.0).to(tl.float32)
        for t in range(first, end):
            number = t + tl.arange(0, 1)
            by = _filter(
                factors + tap * tap_factors,
                number * region_factors,
                number >= 0,
                table + tap * of_tap,
                (number * of_own)[:, None] + channel[None, :],
                real,
                terms,
                term_factors,
                of_term,
            )
            total += tl.where((region == t)[:, None], by * value, 0.0)
    if bias is not None:
        total += tl.load(bias + channel[None, :], mask=real, other=0.0).to(tl.float32)
    to = target + sample * height * width * channels
    at = (pixel * channels)[:, None] + channel[None, :]
    tl.store(to + at, total.to(target.dtype.element_ty), mask=valid[:, None] & real)


@triton.jit
@no_type_check
def slope_kernel(
    gradient,
    image,
    slope,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    channels,
    numbers,
    tiles,
    height,
    width,
    seen_height,
    seen_width,
    taps,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    PIXELS: tl.constexpr,
    NUMBERS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Some filters' responses at a tile of pixels, against the output's gradient (eq. 7).

    What the gradient and the image say is read once for all of these filters, and added up over
    channels at the end.
    """
    sample = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    number = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    valid = pixel < height * width
    y = pixel // width * STRIDE_Y - PADDING_Y
    x = pixel % width * STRIDE_X - PADDING_X
    asked = number < numbers
    out = gradient + sample * height * width * channels
    what = image + sample * seen_height * seen_width * channels
    factors = coefficient + sample * sample_factors
    total = tl.zeros((NUMBERS, PIXELS, CHANNELS), tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        real = (channel < channels)[None, :]
        at = (pixel * channels)[:, None] + channel[None, :]
        back = tl.load(out + at, mask=valid[:, None] & real, other=0.0)
        for tap in range(taps):
            place, inside = _seen(y, x, tap, seen_height, seen_width, KERNEL_WIDTH)
            at = (place * channels)[:, None] + channel[None, :]
            value = tl.load(what + at, mask=(inside & valid)[:, None] & real, other=0.0)
            by = _filter(
                factors + tap * tap_factors,
                number * region_factors,
                asked,
                table + tap * of_tap,
                (number * of_own)[:, None] + channel[None, :],
                asked[:, None] & real,
                terms,
                term_factors,
                of_term,
            )
            product = back.to(tl.float32) * value.to(tl.float32)
            total += by[:, None, :] * product[None, :, :]
    to = slope + (sample * numbers + number)[:, None] * (height * width) + pixel[None, :]
    tl.store(to, tl.sum(total, 2), mask=asked[:, None] & valid[None, :])


@triton.jit
@no_type_check
def filter_kernel(
    gradient,
    image,
    d_factor,
    d_table,
    mask,
    coefficient,
    table,
    terms,
    of_own,
    of_term,
    of_tap,
    sample_factors,
    region_factors,
    term_factors,
    tap_factors,
    channels,
    batch,
    regions,
    tables,
    lots,
    height,
    width,
    seen_height,
    seen_width,
    taps,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    PIXELS: tl.constexpr,
    TERMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The gradient of each filter at one tap, and what it means for some of its factors and tables.

    Sample after sample of a lot, so that sums do not depend on who comes first: for one region
    where it has tables of its own, else for all of them.
    """
    tap = tl.program_id(0) % taps
    term_block = tl.program_id(0) // taps
    own = tl.program_id(1) % tables
    block = tl.program_id(1) // tables
    lot = tl.program_id(2)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    real = (channel < channels)[None, :]
    term = term_block * TERMS + tl.arange(0, TERMS)
    weighed = (term < terms)[:, None] & real
    at_table = (term * of_term)[:, None] + channel[None, :]
    of_table = tl.zeros((TERMS, CHANNELS), tl.float32)
    first_sample = batch * lot // lots
    for step in range(batch * (lot + 1) // lots - first_sample):
        sample = first_sample + step
        wide = sample.to(tl.int64)
        chosen = mask + wide * height * width
        out = gradient + wide * height * width * channels
        what = image + wide * seen_height * seen_width * channels
        for region in range(own, own + 1 if tables > 1 else regions):
            total = tl.zeros((PIXELS, CHANNELS), tl.float32)
            for first in range(0, height * width, PIXELS):
                pixel = first + tl.arange(0, PIXELS)
                valid = pixel < height * width
                its = valid & (tl.load(chosen + pixel, mask=valid, other=0) == region)
                # Regions are patches of an image: most tiles have none of most regions.
                if tl.max(its.to(tl.int32), 0) > 0:
                    y = pixel // width * STRIDE_Y - PADDING_Y
                    x = pixel % width * STRIDE_X - PADDING_X
                    place, inside = _seen(y, x, tap, seen_height, seen_width, KERNEL_WIDTH)
                    asked = (its & inside)[:, None] & real
                    at = (place * channels)[:, None] + channel[None, :]
                    value = tl.load(what + at, mask=asked, other=0.0)
                    at = (pixel * channels)[:, None] + channel[None, :]
                    back = tl.load(out + at, mask=asked, other=0.0)
                    total += back.to(tl.float32) * value.to(tl.float32)
            of_filter = tl.sum(total, 0)[None, :]
            factors = wide * sample_factors + region * region_factors + tap * tap_factors
            factor = tl.load(
                coefficient + factors + term * term_factors, mask=term < terms, other=0.0
            )
            of_table += factor.to(tl.float32)[:, None] * of_filter
            part = (tap * tl.cdiv(channels, CHANNELS) + block) * batch + wide
            to = d_factor + (part * regions + region) * terms + term
            by = tl.load(table + own * of_own + tap * of_tap + at_table, mask=weighed, other=0.0)
            tl.store(to, tl.sum(by.to(tl.float32) * of_filter, 1), mask=term < terms)
    part = (lot * tables + own).to(tl.int64) * terms
    to = d_table + ((part + term) * taps + tap)[:, None] * channels + channel[None, :]
    tl.store(to, of_table, mask=weighed)
