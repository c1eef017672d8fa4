// Batch normalisation with a PReLU after it, forward and backward, for channels-last maps on a CPU.
//
// Both are bound by memory, so each direction reads the map twice and writes once, and the
// normalised map is made again instead of kept. Rows (a position of an image each) are cut into
// blocks that fit a core's cache; sums of a block are taken by one thread, row after row, and those
// of the blocks added in float64 in their order: bits do not depend on the number of threads. No
// torch headers: a C interface, mirrored in norm.py.

#include <algorithm>
#include <cmath>
#include <vector>

#include "norm_map.h"

namespace {

template <class W>
struct Statistics {
    W *mean, *inverse, *variance;  // inverse is of the deviation; the variance unbiased
};

// (x - mean) * inverse * weight + bias, as x * scale + shift.
template <class W>
struct Affine {
    std::vector<W> scale, shift;
    Affine(int64_t channels, const W* mean, const W* inverse, const W* weight, const W* bias)
        : scale(channels), shift(channels) {
        for (int64_t c = 0; c < channels; ++c) {
            scale[c] = weight[c] * inverse[c];
            shift[c] = bias[c] - mean[c] * scale[c];
        }
    }
};

// Adds term(row, channel) of some rows to each channel's sum, four rows at a time.
template <class W, class Term>
inline void add_rows(int64_t rows, int64_t channels, W* sum, Term term) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c)
            sum[c] += (term(r, c) + term(r + 1, c)) + (term(r + 2, c) + term(r + 3, c));
    for (; r < rows; ++r)
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) sum[c] += term(r, c);
}

// A block's mean and sum of squared deviations of each channel, in two passes over the cache.
template <class T, class W>
void block_moments(const T* x, int64_t rows, int64_t channels, W* mean, W* squares) {
    std::fill_n(mean, channels, W(0));
    std::fill_n(squares, channels, W(0));
    add_rows(rows, channels, mean,
             [=](int64_t r, int64_t c) { return widen(x[r * channels + c]); });
    for (int64_t c = 0; c < channels; ++c) mean[c] /= W(rows);
    add_rows(rows, channels, squares, [=](int64_t r, int64_t c) {
        const W away = widen(x[r * channels + c]) - mean[c];
        return away * away;
    });
}

template <class T, class W>
void moments(const Map& map, double eps, const T* x, Statistics<W> to) {
    const Blocks blocks(map);
    const int64_t channels = map.channels;
    std::vector<W> parts(2 * blocks.count * channels);
    for_each_block(map, blocks, false, [&](int64_t block) {
        const int64_t first = blocks.first(block);
        W* part = parts.data() + 2 * block * channels;
        block_moments(x + first * channels, blocks.last(block) - first, channels, part,
                      part + channels);
    });
    std::vector<double> mean(channels), squares(channels);
    for (int64_t block = 0; block < blocks.count; ++block) {  // Chan et al.'s sum of two sets
        const double before = double(blocks.first(block)), all = double(blocks.last(block));
        const double share = (all - before) / all;
        const W* part = parts.data() + 2 * block * channels;
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) {
            const double away = double(part[c]) - mean[c];
            mean[c] += away * share;
            squares[c] += double(part[channels + c]) + away * away * (before * share);
        }
    }
    for (int64_t c = 0; c < channels; ++c) {
        to.mean[c] = W(mean[c]);
        to.inverse[c] = W(1 / std::sqrt(squares[c] / double(map.rows) + eps));
        to.variance[c] = W(squares[c] / double(map.rows - 1));
    }
}

// y = f(x * scale + shift), f being PReLU or, without slopes, nothing; y may be x.
template <bool NORM, bool SLOPED, class T, class W>
void apply(const Map& map, const W* scale, const W* shift, const W* slope, const T* x, T* y) {
    const Blocks blocks(map);
    const int64_t channels = map.channels;
    for_each_block(map, blocks, false, [&](int64_t block) {
        for (int64_t r = blocks.first(block); r < blocks.last(block); ++r) {
            const T* from = x + r * channels;
            T* to = y + r * channels;
#pragma GCC ivdep
            for (int64_t c = 0; c < channels; ++c) {
                W z = widen(from[c]);
                if (NORM) z = z * scale[c] + shift[c];
                if (SLOPED) {
                    const W below = z * slope[c];
                    z = z > 0 ? z : below;
                }
                narrow(z, to[c]);
            }
        }
    });
}

template <class T, class W>
void apply_any(const Map& map, const W* scale, const W* shift, const W* slope, const T* x, T* y) {
    if (scale && slope)
        apply<true, true>(map, scale, shift, slope, x, y);
    else if (scale)
        apply<true, false>(map, scale, shift, slope, x, y);
    else
        apply<false, true>(map, scale, shift, slope, x, y);
}

template <bool SLOPED, class T, class W>
void norm_gradients(const Map& map, const W* mean, const W* inverse, const W* weight,
                    const W* bias, const W* slope, const T* x, const T* dy, T* dx, W* dweight,
                    W* dbias, W* dslope) {
    const Blocks blocks(map);
    const int64_t channels = map.channels;
    const Affine<W> affine(channels, mean, inverse, weight, bias);
    const W *scale = affine.scale.data(), *shift = affine.shift.data();
    constexpr int64_t SUMS = 3;
    std::vector<W> parts(SUMS * blocks.count * channels);
    for_each_block(map, blocks, false, [&](int64_t block) {
        W *plain = parts.data() + SUMS * block * channels, *along = plain + channels;
        W* below = along + channels;
        for (int64_t r = blocks.first(block); r < blocks.last(block); ++r) {
            const T *from = x + r * channels, *by = dy + r * channels;
#pragma GCC ivdep
            for (int64_t c = 0; c < channels; ++c) {
                const W value = widen(from[c]);
                W g = widen(by[c]);
                if (SLOPED) {
                    const W z = value * scale[c] + shift[c], product = z * g, less = g * slope[c];
                    below[c] += z > 0 ? W(0) : product;
                    g = z > 0 ? g : less;
                }
                plain[c] += g;
                along[c] += g * (value - mean[c]);
            }
        }
    });
    const std::vector<double> sums = total(parts, blocks.count, SUMS * channels);
    std::vector<W> constant(channels), linear(channels);
    for (int64_t c = 0; c < channels; ++c) {
        const double deviations = sums[channels + c] * inverse[c];
        dbias[c] = W(sums[c]);
        dweight[c] = W(deviations);
        if (SLOPED) dslope[c] = W(sums[2 * channels + c]);
        constant[c] = W(-sums[c] / double(map.rows) * scale[c]);
        linear[c] = W(-deviations * inverse[c] / double(map.rows) * scale[c]);
    }
    if (!dx) return;
    for_each_block(map, blocks, true, [&](int64_t block) {
        for (int64_t r = blocks.first(block); r < blocks.last(block); ++r) {
            const T *from = x + r * channels, *by = dy + r * channels;
            T* to = dx + r * channels;
#pragma GCC ivdep
            for (int64_t c = 0; c < channels; ++c) {
                const W value = widen(from[c]);
                W g = widen(by[c]);
                if (SLOPED) {
                    const W z = value * scale[c] + shift[c], less = g * slope[c];
                    g = z > 0 ? g : less;
                }
                narrow(g * scale[c] + ((value - mean[c]) * linear[c] + constant[c]), to[c]);
            }
        }
    });
}

template <class T, class W>
void prelu_gradients(const Map& map, const W* slope, const T* x, const T* dy, T* dx, W* dslope) {
    const Blocks blocks(map);
    const int64_t channels = map.channels;
    std::vector<W> parts(blocks.count * channels);
    for_each_block(map, blocks, false, [&](int64_t block) {
        W* below = parts.data() + block * channels;
        for (int64_t r = blocks.first(block); r < blocks.last(block); ++r) {
            const T *from = x + r * channels, *by = dy + r * channels;
            T* to = dx + r * channels;
#pragma GCC ivdep
            for (int64_t c = 0; c < channels; ++c) {
                const W z = widen(from[c]), g = widen(by[c]), product = z * g, less = g * slope[c];
                below[c] += z > 0 ? W(0) : product;
                narrow(z > 0 ? g : less, to[c]);
            }
        }
    });
    const std::vector<double> sums = total(parts, blocks.count, channels);
    for (int64_t c = 0; c < channels; ++c) dslope[c] = W(sums[c]);
}

}  // namespace

// Of rows [rows, channels]: mean, 1 / deviation, unbiased variance, [3, channels]; and the output.
extern "C" void norm_forward(const Map* map, double eps, const void* weight, const void* bias,
                             const void* slope, const void* x, void* statistics, void* y) {
    by_type(map->type, [&](auto number) {
        using T = decltype(number);
        using W = Wide<T>;
        const int64_t channels = map->channels;
        W* mean = static_cast<W*>(statistics);
        moments<T, W>(*map, eps, static_cast<const T*>(x),
                      {mean, mean + channels, mean + 2 * channels});
        const Affine<W> affine(channels, mean, mean + channels, static_cast<const W*>(weight),
                               static_cast<const W*>(bias));
        apply_any<T, W>(*map, affine.scale.data(), affine.shift.data(),
                        static_cast<const W*>(slope), static_cast<const T*>(x),
                        static_cast<T*>(y));
    });
}

// From the output's gradient dy that of x, which may be null, and of weight, bias and slope.
extern "C" void norm_backward(const Map* map, const void* weight, const void* bias,
                              const void* slope, const void* statistics, const void* x,
                              const void* dy, void* dx, void* dweight, void* dbias,
                              void* dslope) {
    by_type(map->type, [&](auto number) {
        using T = decltype(number);
        using W = Wide<T>;
        const W* mean = static_cast<const W*>(statistics);
        const auto run = slope ? norm_gradients<true, T, W> : norm_gradients<false, T, W>;
        run(*map, mean, mean + map->channels, static_cast<const W*>(weight),
            static_cast<const W*>(bias), static_cast<const W*>(slope), static_cast<const T*>(x),
            static_cast<const T*>(dy), static_cast<T*>(dx), static_cast<W*>(dweight),
            static_cast<W*>(dbias), static_cast<W*>(dslope));
    });
}

// y = f(x * scale + shift): scale and shift, or slope, may be null; y may be x.
extern "C" void norm_apply(const Map* map, const void* scale, const void* shift, const void* slope,
                           const void* x, void* y) {
    by_type(map->type, [&](auto number) {
        using T = decltype(number);
        using W = Wide<T>;
        apply_any<T, W>(*map, static_cast<const W*>(scale), static_cast<const W*>(shift),
                        static_cast<const W*>(slope), static_cast<const T*>(x),
                        static_cast<T*>(y));
    });
}

extern "C" void prelu_backward(const Map* map, const void* slope, const void* x, const void* dy,
                               void* dx, void* dslope) {
    by_type(map->type, [&](auto number) {
        using T = decltype(number);
        using W = Wide<T>;
        prelu_gradients<T, W>(*map, static_cast<const W*>(slope), static_cast<const T*>(x),
                              static_cast<const T*>(dy), static_cast<T*>(dx),
                              static_cast<W*>(dslope));
    });
}
