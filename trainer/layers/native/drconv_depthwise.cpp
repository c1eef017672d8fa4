// DRConv with one filter a channel, on a CPU: each pixel reads its region's taps where they lie.
//
// A sample's filters are a table of [regions, taps, channels], made in one place for every sample.
// Backward goes once over the pixels: the products of the output's gradient with what a tap sees are
// the filters' gradient, and against the tables the guide's.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include "drconv_gradients.h"

namespace {

constexpr int64_t LOTS = 16;  // of samples whose gradients are added up apart

// The tables as [own, terms, table taps, channels], channels filled up to whole panels; and filters.
class Channels {
public:
    Channels(const Layer& layer, const float* table)
        : layer_(layer), width_(blocks_of(layer.groups) * COLUMNS),
          packed_(layer.tables() * layer.terms * layer.table_taps * width_) {
        for (int64_t i = 0; i < layer.tables() * layer.terms; ++i)
            for (int64_t c = 0; c < layer.groups; ++c)
                for (int64_t tap = 0; tap < layer.table_taps; ++tap)
                    packed_[(i * layer.table_taps + tap) * width_ + c] =
                        table[(i * layer.groups + c) * layer.table_taps + tap];
    }

    int64_t width() const { return width_; }
    int64_t filter() const { return layer_.taps() * width_; }
    int64_t size() const { return int64_t(packed_.size()); }
    int64_t table_size() const { return layer_.table_taps * width_; }
    int64_t tap_of_table(int64_t tap) const { return layer_.table_taps == 1 ? 0 : tap * width_; }
    // The first table of a region.
    int64_t first(int64_t region) const {
        return (layer_.own ? region : 0) * layer_.terms * table_size();
    }
    const float* tables() const { return packed_.data(); }

    // All regions' filters of a sample with these factors.
    void make(const float* factors, float* filters) const {
        const int64_t most = layer_.own ? 1 : TOGETHER;
        for (int64_t t = 0; t < layer_.regions; t += most)
            for (int64_t tap = 0; tap < layer_.taps(); ++tap) {
                const int64_t together = std::min(most, layer_.regions - t);
                const float* of[TOGETHER];
                float* to[TOGETHER];
                for (int64_t r = 0; r < together; ++r) {
                    of[r] = factors + (t + r) * layer_.factors() +
                            (layer_.coefficient_taps == 1 ? 0 : tap);
                    to[r] = filters + (t + r) * filter() + tap * width_;
                }
                add_up(together, tables() + first(t) + tap_of_table(tap), table_size(),
                       layer_.terms, of, layer_.coefficient_taps, to, width_, false);
            }
    }

private:
    const Layer& layer_;
    int64_t width_;
    std::vector<float> packed_;
};

// sums[r] = sum over taps and channels of out * image * with[r], for R filters or tables at a time.
template <int R>
void against(const Layer& layer, const Places& places, int64_t u, const float* image,
             const float* out, const float* with, int64_t between, bool taps, int64_t width,
             float* sums) {
    Vector total[R] = {};
    for (int64_t tap = 0; tap < layer.taps(); ++tap) {
        const int64_t at = places.of(tap)[u];
        if (at < 0) continue;
        const float* seen = image + at * layer.groups;
        const float* by = with + (taps ? tap * width : 0);
        for (int64_t c = 0; c < layer.groups; c += LANES) {
            const Vector product = load_some(seen + c, layer.groups - c) * load(out + c);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) total[r] += product * load(by + r * between + c);
        }
    }
    for (int r = 0; r < R; ++r) sums[r] = sum(total[r]);
}

}  // namespace

extern "C" void drconv_depthwise_forward(const Layer* given, const float* image, const float*,
                                         float*, const uint8_t* mask, const float* coefficient,
                                         const float* table, const float* bias, float* out) {
    const Layer& layer = *given;
    const Channels channels(layer, table);
    const Places places(layer);
    const int64_t pixels = layer.out_pixels(), width = layer.groups;
    const int64_t parts = std::min(pixels, (layer.threads + layer.batch - 1) / layer.batch);
#pragma omp parallel num_threads(layer.threads)
    {
        std::unique_ptr<float[]> filters(new float[layer.regions * channels.filter()]);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < layer.batch * parts; ++item) {
            const int64_t b = item / parts, part = item % parts;
            channels.make(coefficient + b * layer.regions * layer.factors(), filters.get());
            const float* from = image + b * layer.in_pixels() * width;
            for (int64_t u = pixels * part / parts; u < pixels * (part + 1) / parts; ++u) {
                const float* filter = &filters[mask[b * pixels + u] * channels.filter()];
                float* to = out + (b * pixels + u) * width;
                for (int64_t c = 0; c < width; c += COLUMNS) {
                    Pair total{};
                    if (bias) total = Pair::some(bias + c, width - c);
                    for (int64_t tap = 0; tap < layer.taps(); ++tap) {
                        const int64_t at = places.of(tap)[u];
                        if (at < 0) continue;
                        const Pair seen = Pair::some(from + at * width + c, width - c);
                        const Pair by = Pair::of(filter + tap * channels.width() + c);
                        total.low += seen.low * by.low;
                        total.high += seen.high * by.high;
                    }
                    total.write(to + c, width - c);
                }
            }
        }
    }
}

namespace {

// One thread's way through a lot of samples.
class Backward {
public:
    Backward(const Layer& layer, const Gradients& given, const Channels& channels,
             const Places& places)
        : layer_(layer), given_(given), channels_(channels), places_(places),
          filters_(layer.regions * channels.filter()), d_filters_(filters_.size()),
          out_(channels.width()), q_(std::max(layer.regions, layer.terms)),
          by_table_(layer.terms) {}

    void sample(int64_t b, float* d_table) {
        const float* factors = given_.coefficient + b * layer_.regions * layer_.factors();
        const int64_t pixels = layer_.out_pixels(), width = layer_.groups;
        channels_.make(factors, filters_.data());
        std::fill(d_filters_.begin(), d_filters_.end(), 0.0f);
        for (int64_t u = 0; u < pixels; ++u) {
            copy(given_.out + (b * pixels + u) * width, width, out_.data());
            pixel(b, u, given_.mask[b * pixels + u]);
            if (given_.d_guide) guide(b, u, factors);
        }
        for (int64_t t = 0; t < layer_.regions; ++t)
            for (int64_t tap = 0; tap < layer_.taps(); ++tap)
                spread(b, t, tap, factors, d_table);
    }

private:
    void pixel(int64_t b, int64_t u, int64_t region) {
        const int64_t width = layer_.groups, start = b * layer_.in_pixels() * width;
        for (int64_t tap = 0; tap < layer_.taps(); ++tap) {
            const int64_t at = places_.of(tap)[u];
            if (at < 0) continue;
            const int64_t place = region * channels_.filter() + tap * channels_.width();
            const float* __restrict seen = given_.image + start + at * width;
            const float* __restrict out = out_.data();
            float* __restrict d_filter = &d_filters_[place];
            for (int64_t c = 0; c < width; ++c) d_filter[c] += out[c] * seen[c];
            if (!given_.d_image) continue;
            const float* __restrict filter = &filters_[place];
            float* __restrict d_image = given_.d_image + start + at * width;
            for (int64_t c = 0; c < width; ++c) d_image[c] += out[c] * filter[c];
        }
    }

    // q of each region, from products with its filter, or with tables that all regions share.
    void guide(int64_t b, int64_t u, const float* factors) {
        const float* image = given_.image + b * layer_.in_pixels() * layer_.groups;
        if (layer_.own || layer_.coefficient_taps > 1) {
            products(u, image, filters_.data(), channels_.filter(), true, layer_.regions, q_);
        } else {
            products(u, image, channels_.tables(), channels_.table_size(), layer_.table_taps > 1,
                     layer_.terms, by_table_);
            for (int64_t t = 0; t < layer_.regions; ++t) {
                q_[t] = 0;
                for (int64_t j = 0; j < layer_.terms; ++j)
                    q_[t] += factors[t * layer_.factors() + j] * by_table_[j];
            }
        }
        through_softmax(layer_, given_, b, u, q_.data(), given_.d_guide + given_.guide_at(b, u),
                        given_.guide_region);
    }
    void products(int64_t u, const float* image, const float* with, int64_t between, bool taps,
                  int64_t number, std::vector<float>& sums) {
        int64_t r = 0;
        for (; r + TOGETHER <= number; r += TOGETHER)
            against<TOGETHER>(layer_, places_, u, image, out_.data(), with + r * between, between,
                              taps, channels_.width(), &sums[r]);
        for (; r < number; ++r)
            against<1>(layer_, places_, u, image, out_.data(), with + r * between, between, taps,
                       channels_.width(), &sums[r]);
    }

    void spread(int64_t b, int64_t t, int64_t tap, const float* factors, float* d_table) {
        const int64_t width = channels_.width(), offset = layer_.coefficient_taps == 1 ? 0 : tap;
        const float* d_filter = &d_filters_[t * channels_.filter() + tap * width];
        const int64_t place = channels_.first(t) + channels_.tap_of_table(tap);
        for (int64_t j = 0; j < layer_.terms; ++j) {
            const int64_t at = t * layer_.factors() + j * layer_.coefficient_taps + offset;
            const float* table = channels_.tables() + place + j * channels_.table_size();
            if (given_.d_coefficient) {
                float* to = given_.d_coefficient + b * layer_.regions * layer_.factors() + at;
                dots_of<1, 1>(&d_filter, &table, width, to, 0, 0);
            }
            if (given_.d_table) {
                float* __restrict to = d_table + place + j * channels_.table_size();
                const float factor = factors[at];
                for (int64_t c = 0; c < width; ++c) to[c] += factor * d_filter[c];
            }
        }
    }

    const Layer& layer_;
    const Gradients& given_;
    const Channels& channels_;
    const Places& places_;
    std::vector<float> filters_, d_filters_, out_, q_, by_table_;
};

}  // namespace

extern "C" void drconv_depthwise_backward(const Layer* given, const Gradients* gradients) {
    const Layer& layer = *given;
    const Channels channels(layer, gradients->table);
    const Places places(layer);
    const int64_t lots = std::min(layer.batch, LOTS);
    if (gradients->d_coefficient)
        std::fill_n(gradients->d_coefficient, layer.batch * layer.regions * layer.factors(), 0.0f);
    std::vector<float> d_tables(gradients->d_table ? lots * channels.size() : 0);
#pragma omp parallel num_threads(layer.threads)
    {
        Backward backward(layer, *gradients, channels, places);
#pragma omp for schedule(dynamic)
        for (int64_t lot = 0; lot < lots; ++lot)
            for (int64_t b = layer.batch * lot / lots; b < layer.batch * (lot + 1) / lots; ++b)
                backward.sample(b, d_tables.data() + (d_tables.empty() ? 0 : lot * channels.size()));
    }
    if (!gradients->d_table) return;
    for (int64_t lot = 1; lot < lots; ++lot)
        for (int64_t i = 0; i < channels.size(); ++i) d_tables[i] += d_tables[lot * channels.size() + i];
    for (int64_t i = 0; i < layer.tables() * layer.terms; ++i)
        for (int64_t c = 0; c < layer.groups; ++c)
            for (int64_t tap = 0; tap < layer.table_taps; ++tap)
                gradients->d_table[(i * layer.groups + c) * layer.table_taps + tap] =
                    d_tables[i * channels.table_size() + tap * channels.width() + c];
}
