// What DRConv's sources share: the layer's sizes, its tables packed for products, a sample's pixels
// by region, and the product of a tile of rows with a panel of columns.

#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "vectors.h"

// A convolution from `inputs` to `outputs` channels in each group, with `regions` filters a sample.
// A filter is a sum of `terms` tables, the same for all regions or, if `own`, each region's own.
// A table or a factor is one for all taps of the kernel, or one for each.
struct Layer {
    int64_t batch, regions, terms, own, table_taps, coefficient_taps;
    int64_t groups, inputs, outputs;  // channels of one group
    int64_t height, width, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_height, stride_width, pad_height, pad_width;
    int64_t threads;

    int64_t taps() const { return kernel_height * kernel_width; }
    int64_t in_pixels() const { return height * width; }
    int64_t out_pixels() const { return out_height * out_width; }
    int64_t in_channels() const { return groups * inputs; }
    int64_t out_channels() const { return groups * outputs; }
    int64_t tables() const { return own ? regions : 1; }
    int64_t factors() const { return terms * coefficient_taps; }
};

namespace {

constexpr int64_t COLUMNS = 2 * LANES;  // of a panel
constexpr int TILE = LANES == 16 ? 12 : 6;  // rows whose sums fit the registers
constexpr int64_t DEPTH = 128;              // numbers of a row that lie together
constexpr int TOGETHER = 8;                 // filters made at a time
constexpr int64_t MOST_REGIONS = 256;     // a pixel's region is kept as a byte
constexpr int64_t STREAMED_BYTES = 8 << 20;
constexpr int64_t BANK_BYTES = 512 << 10;   // of filters in a core's cache

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

// to[r] (+)= sum over j < terms of factors[r][j * step] * from[j * between], each of `count`.
template <int R>
inline void add_up_of(const float* from, int64_t between, int64_t terms,
                      const float* const* factors, int64_t step, float* const* to, int64_t count,
                      bool more) {
    for (int64_t p = 0; p < count; p += COLUMNS) {
        Pair sum[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] = more ? Pair::of(to[r] + p) : Pair{};
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

// Which pixel of the image a tap of the kernel sees at a pixel of the output; -1: none.
class Places {
public:
    explicit Places(const Layer& layer)
        : pixels_(layer.out_pixels()), from_(layer.taps() * layer.out_pixels()) {
        for (int64_t tap = 0; tap < layer.taps(); ++tap)
            for (int64_t u = 0; u < pixels_; ++u) {
                const int64_t y = u / layer.out_width * layer.stride_height - layer.pad_height +
                                  tap / layer.kernel_width;
                const int64_t x = u % layer.out_width * layer.stride_width - layer.pad_width +
                                  tap % layer.kernel_width;
                const bool inside = y >= 0 && y < layer.height && x >= 0 && x < layer.width;
                from_[tap * pixels_ + u] = inside ? int32_t(y * layer.width + x) : -1;
            }
    }
    const int32_t* of(int64_t tap) const { return &from_[tap * pixels_]; }

private:
    int64_t pixels_;
    std::vector<int32_t> from_;
};

// Pixels of one band of a sample, sorted by region and in order within each.
struct Band {
    const int32_t* pixels;
    const int64_t* starts;

    int64_t count(int64_t region) const { return starts[region + 1] - starts[region]; }
    // At most `most` pixels of one region at a time: work(region, pixels, how many).
    template <class Work>
    void for_each_run(int64_t regions, int64_t most, Work work) const {
        for (int64_t t = 0; t < regions; ++t)
            for (int64_t first = starts[t]; first < starts[t + 1]; first += most)
                work(t, pixels + first, std::min(most, starts[t + 1] - first));
    }
};

// The pixels of all samples, sorted band by band: a band's numbers stay in a core's cache.
class Regions {
public:
    Regions(const Layer& layer, int64_t pixels_of_band)
        : layer_(layer), band_(std::min(pixels_of_band, layer.out_pixels())),
          bands_((layer.out_pixels() + band_ - 1) / band_),
          pixels_(layer.batch * layer.out_pixels()),
          starts_(layer.batch * bands_ * (layer.regions + 1)) {}

    int64_t bands() const { return bands_; }
    int64_t first(int64_t band) const { return band * band_; }
    int64_t last(int64_t band) const {
        return std::min((band + 1) * band_, layer_.out_pixels());
    }
    void sort(const uint8_t* mask, int64_t b, int64_t band) {
        const uint8_t* region = mask + b * layer_.out_pixels();
        int64_t* start = &starts_[(b * bands_ + band) * (layer_.regions + 1)];
        int32_t* pixels = &pixels_[b * layer_.out_pixels() + first(band)];
        for (int64_t u = first(band); u < last(band); ++u) ++start[region[u] + 1];
        for (int64_t t = 0; t < layer_.regions; ++t) start[t + 1] += start[t];
        int64_t next[MOST_REGIONS];
        std::copy_n(start, layer_.regions, next);
        for (int64_t u = first(band); u < last(band); ++u) pixels[next[region[u]]++] = int32_t(u);
    }
    void sort_all(const uint8_t* mask) {
#pragma omp parallel for schedule(static) num_threads(layer_.threads)
        for (int64_t item = 0; item < layer_.batch * bands_; ++item)
            sort(mask, item / bands_, item % bands_);
    }
    Band of(int64_t b, int64_t band) const {
        return {&pixels_[b * layer_.out_pixels() + first(band)],
                &starts_[(b * bands_ + band) * (layer_.regions + 1)]};
    }

private:
    const Layer& layer_;
    int64_t band_, bands_;
    std::vector<int32_t> pixels_;
    std::vector<int64_t> starts_;
};

// Asks for numbers that will be read (0) or written (1) soon.
template <int WRITE>
inline void fetch(const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i, WRITE, 2);
}

// The tables, [own, terms, groups * outputs, inputs, taps], as panels for products with the input's
// numbers and, for gradients, with the output's; short blocks of columns are filled up with zeros.
class Tables {
public:
    Tables(const Layer& layer, const float* table, bool forward, bool backward)
        : layer_(layer), depth_(layer.table_taps * layer.inputs) {
        const int64_t all = layer.tables() * layer.groups * layer.terms;
        if (forward) forward_.reset(new float[all * out_blocks() * depth_ * COLUMNS]);
        if (backward)
            backward_.reset(
                new float[all * layer.table_taps * in_blocks() * layer.outputs * COLUMNS]);
#pragma omp parallel for schedule(static) num_threads(layer.threads)
        for (int64_t item = 0; item < all; ++item) {
            const int64_t own = item / layer.groups / layer.terms;
            const int64_t group = item / layer.terms % layer.groups, term = item % layer.terms;
            const float* from =
                table + ((own * layer.terms + term) * layer.groups + group) * layer.outputs * depth_;
            if (forward) pack_forward(from, own, group, term);
            if (backward) pack_backward(from, own, group, term);
        }
    }

    int64_t out_blocks() const { return blocks_of(layer_.outputs); }
    int64_t in_blocks() const { return blocks_of(layer_.inputs); }
    // [terms, table taps, inputs, COLUMNS] of a block of output channels.
    int64_t place(int64_t own, int64_t group, int64_t block, int64_t term) const {
        return (((own * layer_.groups + group) * out_blocks() + block) * layer_.terms + term) *
               depth_ * COLUMNS;
    }
    float* forward(int64_t own, int64_t group, int64_t block, int64_t term) const {
        return forward_.get() + place(own, group, block, term);
    }
    // [terms, outputs, COLUMNS] of a tap and a block of input channels.
    float* backward(int64_t own, int64_t group, int64_t tap, int64_t block, int64_t term) const {
        tap = layer_.table_taps == 1 ? 0 : tap;
        const int64_t index =
            ((own * layer_.groups + group) * layer_.table_taps + tap) * in_blocks() + block;
        return backward_.get() + (index * layer_.terms + term) * layer_.outputs * COLUMNS;
    }

private:
    void pack_forward(const float* from, int64_t own, int64_t group, int64_t term) const {
        for (int64_t block = 0; block < out_blocks(); ++block) {
            float* to = forward(own, group, block, term);
            for (int64_t tap = 0; tap < layer_.table_taps; ++tap)
                for (int64_t i = 0; i < layer_.inputs; ++i, to += COLUMNS)
                    for (int64_t c = 0; c < COLUMNS; ++c) {
                        const int64_t o = block * COLUMNS + c;
                        to[c] = o < layer_.outputs ? from[at(o, i, tap)] : 0.0f;
                    }
        }
    }
    void pack_backward(const float* from, int64_t own, int64_t group, int64_t term) const {
        for (int64_t tap = 0; tap < layer_.table_taps; ++tap)
            for (int64_t block = 0; block < in_blocks(); ++block) {
                float* to = backward(own, group, tap, block, term);
                for (int64_t o = 0; o < layer_.outputs; ++o, to += COLUMNS)
                    for (int64_t c = 0; c < COLUMNS; ++c) {
                        const int64_t i = block * COLUMNS + c;
                        to[c] = i < layer_.inputs ? from[at(o, i, tap)] : 0.0f;
                    }
            }
    }
    int64_t at(int64_t o, int64_t i, int64_t tap) const {
        return (o * layer_.inputs + i) * layer_.table_taps + tap;
    }

    const Layer& layer_;
    int64_t depth_;
    std::unique_ptr<float[]> forward_, backward_;
};

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

// Filters of a few blocks of columns, made for every sample in the same place.
class Bank {
public:
    Bank(const Layer& layer, const Tables& tables, int64_t depth, int64_t blocks)
        : layer_(layer), tables_(tables), panel_(depth * COLUMNS),
          filters_(new float[layer.regions * blocks * panel_]) {}

    static int64_t blocks_at_once(const Layer& layer, int64_t depth, int64_t blocks) {
        const int64_t bytes = 4 * layer.regions * depth * COLUMNS;
        return std::max<int64_t>(1, std::min(blocks, BANK_BYTES / bytes));
    }
    const float* of(int64_t region, int64_t place = 0) const { return at(region, place); }

    // `factors` are a sample's: [regions, terms, taps of factors].
    void begin(const float* factors) {
        factors_ = factors;
        std::fill_n(made_, layer_.regions, false);
    }
    // Panels of [taps * inputs, COLUMNS] of the regions that a band has, for blocks of outputs.
    void make(const Band& band, int64_t group, int64_t first_block, int64_t last_block) {
        const int64_t taps = layer_.taps(), piece = layer_.inputs * COLUMNS;
        const bool whole = layer_.coefficient_taps == 1 && layer_.table_taps == taps;
        need([&](int64_t t) { return band.count(t) > 0; });
        for (int64_t block = first_block; block < last_block; ++block)
            for (int64_t tap = 0; tap < (whole ? 1 : taps); ++tap) {
                const int64_t offset = layer_.table_taps == 1 ? 0 : tap * piece;
                fill(tap, layer_.table_taps * piece, whole ? taps * piece : piece,
                     [&](int64_t own) { return tables_.forward(own, group, block, 0) + offset; },
                     [&](int64_t t) { return at(t, block - first_block) + tap * piece; });
            }
    }
    // Panels of [outputs, COLUMNS] of all regions, for a tap and blocks of inputs.
    void make_backward(int64_t group, int64_t tap, int64_t first_block, int64_t last_block) {
        need([](int64_t) { return true; });
        for (int64_t block = first_block; block < last_block; ++block)
            fill(tap, panel_, panel_,
                 [&](int64_t own) { return tables_.backward(own, group, tap, block, 0); },
                 [&](int64_t t) { return at(t, block - first_block); });
    }

private:
    float* at(int64_t region, int64_t place) const {
        return filters_.get() + (place * layer_.regions + region) * panel_;
    }
    template <class Wanted>
    void need(Wanted wanted) {
        number_ = 0;
        for (int64_t t = 0; t < layer_.regions; ++t)
            if (!made_[t] && wanted(t)) {
                made_[t] = true;
                needed_[number_++] = t;
            }
    }
    template <class Source, class Target>
    void fill(int64_t tap, int64_t between, int64_t count, Source source, Target target) {
        const int64_t most = layer_.own ? 1 : TOGETHER;
        for (int64_t first = 0; first < number_; first += most) {
            const int64_t together = std::min(most, number_ - first);
            const float* factors[TOGETHER];
            float* to[TOGETHER];
            for (int64_t r = 0; r < together; ++r) {
                const int64_t region = needed_[first + r];
                factors[r] = factors_ + region * layer_.factors() +
                             (layer_.coefficient_taps == 1 ? 0 : tap);
                to[r] = target(region);
            }
            add_up(together, source(layer_.own ? needed_[first] : 0), between, layer_.terms,
                   factors, layer_.coefficient_taps, to, count, false);
        }
    }

    const Layer& layer_;
    const Tables& tables_;
    int64_t panel_;
    std::unique_ptr<float[]> filters_;
    const float* factors_ = nullptr;
    bool made_[MOST_REGIONS];
    int64_t needed_[MOST_REGIONS], number_ = 0;
};

}  // namespace
