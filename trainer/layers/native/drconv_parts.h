// What DRConv's sources share: the layer's sizes, what taps see, and pixels by region.

#pragma once

#include <vector>

#include "products.h"

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

constexpr int64_t MOST_REGIONS = 256;  // a pixel's region is kept as a byte

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

}  // namespace
