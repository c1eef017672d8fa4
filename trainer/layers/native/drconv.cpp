// DRConv on a CPU: a convolution whose filters differ between samples and between the regions of an
// image, at the cost of one convolution.
//
// The pixels of a band of an image are sorted by region. For a few blocks of output channels the
// filters of all regions are made from the tables, as panels that stay in a core's cache; each
// region's pixels are multiplied with its panels, and the next sample's filters take their place.
// What is added up, and in which order, depends on shapes alone and not on the number of threads. No
// torch headers: a C interface, mirrored in drconv.py. Images are [batch, height, width, channels].

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include "drconv_filters.h"

namespace {

constexpr int64_t BAND_BYTES = 128 << 10;  // of an image's numbers in a core's cache
constexpr int GUIDES = 8;                  // regions whose numbers are made at a time
constexpr int GUIDED = 4;                  // pixels likewise

typedef float Guides __attribute__((vector_size(4 * GUIDES), aligned(4), may_alias));

int64_t pixels_of_band(const Layer& layer) {
    return std::max<int64_t>(256, BAND_BYTES / (4 * layer.in_channels()));
}

// Which region each pixel belongs to: from numbers given, or from products with a guide's weights.
class Guide {
public:
    Guide(const Layer& layer, const float* weight)
        : layer_(layer), blocks_((layer.regions + GUIDES - 1) / GUIDES),
          packed_(weight ? blocks_ * layer.in_channels() * GUIDES : 0) {
        for (int64_t t = 0; weight && t < layer.regions; ++t)
            for (int64_t c = 0; c < layer.in_channels(); ++c)
                packed_[((t / GUIDES) * layer.in_channels() + c) * GUIDES + t % GUIDES] =
                    weight[t * layer.in_channels() + c];
    }

    // Writes the regions, and unless null the numbers, of pixels first, ..., last - 1 of a sample.
    void choose(const float* image, int64_t first, int64_t last, float* numbers,
                uint8_t* mask) const {
        float passing[GUIDED * MOST_REGIONS];
        for (int64_t u = first; u < last; u += GUIDED) {
            const int64_t now = std::min<int64_t>(GUIDED, last - u);
            float* logit = numbers ? numbers + u * layer_.regions : passing;
            for (int64_t block = 0; block < blocks_; ++block)
                if (now == GUIDED)
                    products<GUIDED>(image + u * layer_.in_channels(), block, logit);
                else
                    for (int64_t i = 0; i < now; ++i)
                        products<1>(image + (u + i) * layer_.in_channels(), block,
                                    logit + i * layer_.regions);
            for (int64_t i = 0; i < now; ++i)
                mask[u + i] = highest(logit + i * layer_.regions, 1, layer_.regions);
        }
    }

    // The place of the highest number, the first of equal ones.
    static uint8_t highest(const float* logit, int64_t step, int64_t regions) {
        float most = logit[0];
        int best = 0;
        for (int t = 1; t < regions; ++t) {
            const float next = logit[t * step];
            best = next > most ? t : best;
            most = next > most ? next : most;
        }
        return uint8_t(best);
    }

private:
    template <int SIZE>
    void products(const float* image, int64_t block, float* logit) const {
        const int64_t channels = layer_.in_channels();
        const float* weight = packed_.data() + block * channels * GUIDES;
        Guides sum[SIZE] = {}, odd[SIZE] = {};
        int64_t c = 0;
        for (; c + 1 < channels; c += 2, weight += 2 * GUIDES) {
            const Guides column = *reinterpret_cast<const Guides*>(weight);
            const Guides next = *reinterpret_cast<const Guides*>(weight + GUIDES);
#pragma GCC unroll 4
            for (int i = 0; i < SIZE; ++i) {
                sum[i] += image[i * channels + c] * column;
                odd[i] += image[i * channels + c + 1] * next;
            }
        }
        if (c < channels)
            for (int i = 0; i < SIZE; ++i)
                odd[i] += image[i * channels + c] * *reinterpret_cast<const Guides*>(weight);
#pragma GCC unroll 4
        for (int i = 0; i < SIZE; ++i) sum[i] += odd[i];
        const int64_t count = std::min<int64_t>(GUIDES, layer_.regions - block * GUIDES);
        for (int i = 0; i < SIZE; ++i)
            std::memcpy(logit + i * layer_.regions + block * GUIDES, &sum[i], 4 * count);
    }

    const Layer& layer_;
    int64_t blocks_;
    std::vector<float> packed_;
};

void pack_patch(const Layer& layer, const Places& places, const float* image, int64_t pixel,
                int64_t row, Rows& rows) {
    for (int64_t tap = 0; tap < layer.taps(); ++tap) {
        const int64_t from = places.of(tap)[pixel];
        const float* start = from < 0 ? nullptr : image + from * layer.in_channels();
        rows.put(row, tap * layer.inputs, start, layer.inputs);
    }
}

}  // namespace

// Each pixel's region, from a guide's numbers with any strides.
extern "C" void drconv_regions(const float* guide, int64_t batch, int64_t regions, int64_t pixels,
                               int64_t of_sample, int64_t of_region, int64_t of_pixel,
                               uint8_t* mask, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t u = 0; u < pixels; ++u)
            mask[b * pixels + u] =
                Guide::highest(guide + b * of_sample + u * of_pixel, of_region, regions);
}

// With a `weight` [regions, channels] of a guide that sees one pixel, for an output of the image's
// size, its numbers are written to `logit` [batch, pixels, regions], unless null, and the regions to
// `mask`; without, the mask is given.
extern "C" void drconv_forward(const Layer* given, const float* image, const float* weight,
                               float* logit, uint8_t* mask, const float* coefficient,
                               const float* table, const float* bias, float* out) {
    const Layer& layer = *given;
    const Tables tables(layer, table, true, false);
    const Places places(layer);
    const Guide guide(layer, weight);
    Regions regions(layer, pixels_of_band(layer));
    const int64_t depth = layer.taps() * layer.inputs, blocks = tables.out_blocks();
    const int64_t together = Bank::blocks_at_once(layer, depth, blocks);
    const int64_t runs = (blocks + together - 1) / together, bands = regions.bands();
    const int64_t pixels = layer.out_pixels(), in_width = layer.in_channels();
    const int64_t parts = std::min(bands, (layer.threads + layer.batch - 1) / layer.batch);
    const bool at_once = layer.groups * runs == 1;  // a band is guided and done while in the cache
    const bool streamed = may_stream(out, layer.batch * pixels, layer.out_channels()) &&
                          layer.outputs % COLUMNS == 0;
    const auto survey = [&](int64_t b, int64_t band) {
        if (weight)
            guide.choose(image + b * layer.in_pixels() * in_width, regions.first(band),
                         regions.last(band), logit ? logit + b * pixels * layer.regions : nullptr,
                         mask + b * pixels);
        regions.sort(mask, b, band);
    };
#pragma omp parallel num_threads(layer.threads)
    {
        Bank bank(layer, tables, depth, together);
        Rows rows(depth, rows_at_once(depth));
        if (!at_once) {
#pragma omp for schedule(static)
            for (int64_t item = 0; item < layer.batch * bands; ++item)
                survey(item / bands, item % bands);
        }
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < layer.batch * layer.groups * runs * parts; ++item) {
            const int64_t part = item % parts, first = item / parts % runs * together;
            const int64_t group = item / parts / runs % layer.groups;
            // Backwards: whoever read the image just before left its end in the caches.
            const int64_t b = layer.batch - 1 - item / parts / runs / layer.groups;
            const int64_t last = std::min(first + together, blocks);
            const float* sample = image + b * layer.in_pixels() * in_width;
            const float* from = sample + group * layer.inputs;
            float* to = out + b * pixels * layer.out_channels() + group * layer.outputs;
            bank.begin(coefficient + b * layer.regions * layer.factors());
            for (int64_t at = bands * part / parts; at < bands * (part + 1) / parts; ++at) {
                if (at_once) survey(b, at);
                const Band band = regions.of(b, at);
                bank.make(band, group, first, last);
                band.for_each_run(layer.regions, rows_at_once(depth), [&](int64_t t,
                                                                        const int32_t* u,
                                                                        int64_t n) {
                    for (int64_t i = 0; i < n; ++i) {
                        pack_patch(layer, places, from, u[i], i, rows);
                        if (!streamed)
                            fetch<1>(to + u[i] * layer.out_channels() + first * COLUMNS,
                                     (last - first) * COLUMNS);
                    }
                    for (int64_t block = first; block < last; ++block) {
                        const int64_t column = block * COLUMNS, left = layer.outputs - column;
                        const float* panel = bank.of(t, block - first);
                        Pair start{};
                        if (bias) start = Pair::some(bias + group * layer.outputs + column, left);
                        for_each_tile(n, [&](auto size, int64_t row) {
                            Pair sum[size];
#pragma GCC unroll 16
                            for (int i = 0; i < size; ++i) sum[i] = start;
                            multiply(rows.at(row), rows.between(), panel, depth, sum);
#pragma GCC unroll 16
                            for (int i = 0; i < size; ++i) {
                                float* place = to + u[row + i] * layer.out_channels() + column;
                                streamed ? sum[i].stream(place) : sum[i].write(place, left);
                            }
                        });
                    }
                });
            }
        }
        if (streamed) end_stream();
    }
}
