// Products of tiles of rows with panels of COLUMNS numbers a row, and sums of several.

#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t COLUMNS = 2 * LANES;      // of a panel
constexpr int TILE = LANES == 16 ? 12 : 6;  // rows whose sums fit the registers
constexpr int64_t DEPTH = 128;              // numbers of a row that lie together
constexpr int TOGETHER = 8;                 // sums made at a time
constexpr int64_t STREAMED_BYTES = 8 << 20;

inline int64_t blocks_of(int64_t number) { return (number + COLUMNS - 1) / COLUMNS; }

// COLUMNS numbers.
struct Pair {
    Vector low, high;
    static Pair of(const float* from) { return {load(from), load(from + LANES)}; }
    static Pair some(const float* from, int64_t count) {
        if (count >= COLUMNS) return of(from);
        return {load_some(from, count), load_some(from + LANES, count - LANES)};
    }
    void add(float factor, const Pair& other) {
        low += factor * other.low;
        high += factor * other.high;
    }
    void write(float* to) const {
        store(to, low);
        store(to + LANES, high);
    }
    void write(float* to, int64_t count) const {
        if (count >= COLUMNS) return write(to);
        store_some(to, low, count);
        store_some(to + LANES, high, count - LANES);
    }
    void stream(float* to) const {
        ::stream(to, low);
        ::stream(to + LANES, high);
    }
};

// Whether rows of this width are written past the caches: more than they would keep.
inline bool may_stream(const float* out, int64_t rows, int64_t width) {
    return reinterpret_cast<uintptr_t>(out) % 64 == 0 && width % 16 == 0 &&
           4 * rows * width >= STREAMED_BYTES;
}

// sum[i] += rows[i] . panel, for SIZE rows as `Rows` packs them and a panel of [depth, COLUMNS].
template <int SIZE>
inline void multiply(const float* rows, int64_t between, const float* panel, int64_t depth,
                     Pair (&sum)[SIZE]) {
    for (int64_t start = 0; start < depth; start += DEPTH, rows += between) {
        const int64_t now = std::min(DEPTH, depth - start);
        for (int64_t k = 0; k < now; ++k, panel += COLUMNS) {
            const Pair column = Pair::of(panel);
#pragma GCC unroll 16
            for (int i = 0; i < SIZE; ++i) sum[i].add(rows[i * DEPTH + k], column);
        }
    }
}

template <int SIZE = TILE, class Work>
inline void with_size(int64_t size, Work work) {
    if constexpr (SIZE > 1) {
        if (size < SIZE) return with_size<SIZE - 1>(size, work);
    }
    work(std::integral_constant<int, SIZE>{});
}

// Cuts `count` rows into tiles of nearly equal size: work(size, first).
template <class Work>
inline void for_each_tile(int64_t count, Work work) {
    const int64_t tiles = (count + TILE - 1) / TILE;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = count * tile / tiles, last = count * (tile + 1) / tiles;
        with_size(last - first, [&](auto size) { work(size, first); });
    }
}

// to[r] (+)= sum over j < terms of factors[r][j * step] * from[j * between], each of `count`. A
// function of its own: within another, GCC 12 keeps the sums in memory.
template <int R>
__attribute__((noinline)) void add_up_of(const float* from, int64_t between, int64_t terms,
                                         const float* const* factors, int64_t step,
                                         float* const* to, int64_t count, bool more) {
    for (int64_t p = 0; p < count; p += COLUMNS) {
        Pair sum[R] = {};
        if (more)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sum[r] = Pair::of(to[r] + p);
        for (int64_t j = 0; j < terms; ++j) {
            const Pair term = Pair::of(from + j * between + p);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sum[r].add(factors[r][j * step], term);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r].write(to[r] + p);
    }
}
template <int R = TOGETHER>
inline void add_up(int64_t number, const float* from, int64_t between, int64_t terms,
                   const float* const* factors, int64_t step, float* const* to, int64_t count,
                   bool more) {
    if constexpr (R > 1) {
        if (number < R)
            return add_up<R - 1>(number, from, between, terms, factors, step, to, count, more);
    }
    add_up_of<R>(from, between, terms, factors, step, to, count, more);
}

inline void copy(const float* from, int64_t count, float* to) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    for (; i < count; ++i) to[i] = from[i];
}

// Rows of numbers near each other, a tile's at once: [depth / DEPTH, rows, DEPTH].
class Rows {
public:
    Rows(int64_t depth, int64_t most)
        : most_(most), packed_(new float[(depth + DEPTH - 1) / DEPTH * most * DEPTH]) {}

    // Numbers start, start + 1, ... of a row; zeros for null.
    void put(int64_t row, int64_t start, const float* from, int64_t count) {
        while (count > 0) {
            const int64_t within = start % DEPTH, now = std::min(count, DEPTH - within);
            float* to = packed_.get() + (start / DEPTH * most_ + row) * DEPTH + within;
            if (from) {
                copy(from, now, to);
                from += now;
            } else {
                std::memset(to, 0, 4 * now);
            }
            start += now;
            count -= now;
        }
    }
    const float* at(int64_t row) const { return packed_.get() + row * DEPTH; }
    int64_t between() const { return most_ * DEPTH; }

private:
    int64_t most_;
    std::unique_ptr<float[]> packed_;
};

inline int64_t rows_at_once(int64_t depth) { return depth <= 1024 ? 4 * TILE : 2 * TILE; }

// products[a * step + b] += left[a] . right[b] over `count` numbers, for A x B of them.
template <int A, int B>
inline void dots_of(const float* const* left, const float* const* right, int64_t count, float* products,
             int64_t row_step, int64_t step) {
    Vector sums[A][B] = {};
    for (int64_t p = 0; p < count; p += LANES)
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a)
#pragma GCC unroll 4
            for (int b = 0; b < B; ++b) sums[a][b] += load(left[a] + p) * load(right[b] + p);
    for (int a = 0; a < A; ++a)
        for (int b = 0; b < B; ++b) products[a * row_step + b * step] += sum(sums[a][b]);
}

inline void dots(const std::vector<const float*>& left, const std::vector<const float*>& right,
          int64_t count, float* const* products, int64_t step) {
    for (size_t a = 0; a < left.size(); ++a) {
        size_t b = 0;
        for (; b + 4 <= right.size(); b += 4)
            dots_of<1, 4>(&left[a], &right[b], count, products[a] + b * step, 0, step);
        for (; b < right.size(); ++b)
            dots_of<1, 1>(&left[a], &right[b], count, products[a] + b * step, 0, step);
    }
}

}  // namespace
