// DRConv's tables, packed for products, and the filters that they add up to.

#pragma once

#include "drconv_parts.h"

namespace {

constexpr int64_t BANK_BYTES = 512 << 10;  // of filters in a core's cache

// The tables, [own, terms, groups * outputs, inputs, taps], as panels for products with the input's
// numbers and, for gradients, with the output's; short blocks of columns are filled up with zeros.
// A panel's worth of numbers lies between tables, so that equal places of all have room in a cache.
class Tables {
public:
    Tables(const Layer& layer, const float* table, bool forward, bool backward)
        : layer_(layer), depth_(layer.table_taps * layer.inputs) {
        const int64_t all = layer.tables() * layer.groups * layer.terms;
        if (forward) forward_.reset(new float[all * out_blocks() * between()]);
        if (backward)
            backward_.reset(
                new float[all * layer.table_taps * in_blocks() * between_backward()]);
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
    int64_t between() const { return (depth_ + 1) * COLUMNS; }
    int64_t between_backward() const { return (layer_.outputs + 1) * COLUMNS; }
    // [terms, table taps, inputs, COLUMNS] of a block of output channels.
    int64_t place(int64_t own, int64_t group, int64_t block, int64_t term) const {
        return (((own * layer_.groups + group) * out_blocks() + block) * layer_.terms + term) *
               between();
    }
    float* forward(int64_t own, int64_t group, int64_t block, int64_t term) const {
        return forward_.get() + place(own, group, block, term);
    }
    // [terms, outputs, COLUMNS] of a tap and a block of input channels.
    float* backward(int64_t own, int64_t group, int64_t tap, int64_t block, int64_t term) const {
        tap = layer_.table_taps == 1 ? 0 : tap;
        const int64_t index =
            ((own * layer_.groups + group) * layer_.table_taps + tap) * in_blocks() + block;
        return backward_.get() + (index * layer_.terms + term) * between_backward();
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

// Filters of a few blocks of columns, made for every sample in the same place.
class Bank {
public:
    Bank(const Layer& layer, const Tables& tables, int64_t depth, int64_t blocks)
        : layer_(layer), tables_(tables), panel_((depth + 1) * COLUMNS),
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
                fill(tap, tables_.between(), whole ? taps * piece : piece,
                     [&](int64_t own) { return tables_.forward(own, group, block, 0) + offset; },
                     [&](int64_t t) { return at(t, block - first_block) + tap * piece; });
            }
    }
    // Panels of [outputs, COLUMNS] of all regions, for a tap and blocks of inputs.
    void make_backward(int64_t group, int64_t tap, int64_t first_block, int64_t last_block) {
        need([](int64_t) { return true; });
        for (int64_t block = first_block; block < last_block; ++block)
            fill(tap, tables_.between_backward(), layer_.outputs * COLUMNS,
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
