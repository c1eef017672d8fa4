// DRConv's gradients where regions share tables: of the guide, the coefficients and, 1x1, the image.
//
// A pixel's output gradient times a table turned round, T_j' dY, is made once and used three times.
// Against what the pixel sees it is the table's score, <T_j' dY, x>. Scores times a region's
// coefficients add up to the guide's q (arXiv:2003.12243, eq. 7), and over a region's pixels to the
// gradient of its coefficients. T_j' dY times the coefficients of the pixel's own region add up to
// the image's gradient. A guide made from the image by a weight adds its part while both are at
// hand, so its numbers' gradient is never written.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include "drconv_gradients.h"

namespace {

constexpr int64_t LOTS = 32;  // at least, of pixels, whose sums are added up at the end

// One thread's way through lots of pixels.
class Scores {
public:
    Scores(const Layer& layer, const Gradients& given, const Tables& tables, const Places& places)
        : layer_(layer), given_(given), tables_(tables), places_(places),
          most_(rows_at_once(layer.outputs)), pitch_(pitch(layer)), rows_(layer.outputs, most_),
          seen_(most_ * pitch_), image_(adds_image() ? most_ * pitch_ : 0),
          weight_(given.guide_weight ? layer.regions * pitch_ : 0),
          sums_(most_ * layer.terms * LANES), scores_(most_ * layer.terms),
          d_guide_(most_ * layer.regions), factors_(most_) {
        for (int64_t t = 0; given.guide_weight && t < layer.regions; ++t)
            copy(given.guide_weight + t * layer.in_channels(), layer.in_channels(),
                 &weight_[t * pitch_]);
    }

    // Between rows of an image's numbers, the last of which may be read a panel at a time.
    static int64_t pitch(const Layer& layer) {
        return blocks_of(layer.in_channels()) * COLUMNS + COLUMNS;
    }
    static int64_t at_once(const Layer& layer) { return rows_at_once(layer.outputs); }

    // Adds to [regions, terms] and, if the guide is made by a weight, [regions, pitch].
    void run(int64_t b, int64_t first, int64_t last, float* d_coefficient, float* d_weight) {
        for (; first < last; first += most_) {
            const int64_t count = std::min(most_, last - first);
            make_scores(b, first, count);
            for (int64_t i = 0; i < count; ++i) choose(b, first + i, i, d_coefficient);
            if (given_.guide_weight) mix(count, d_weight);
            if (adds_image()) write(b, first, count);
        }
    }

private:
    bool adds_image() const { return given_.d_image && layer_.taps() == 1; }

    void make_scores(int64_t b, int64_t first, int64_t count) {
        const uint8_t* region = given_.mask + b * layer_.out_pixels() + first;
        for (int64_t i = 0; i < count; ++i)
            factors_[i] = given_.coefficient + (b * layer_.regions + region[i]) * layer_.terms;
        std::fill_n(sums_.begin(), count * layer_.terms * LANES, 0.0f);
        std::fill(image_.begin(), image_.end(), 0.0f);
        for (int64_t tap = 0; tap < layer_.taps(); ++tap) {
            see(b, tap, first, count);
            for (int64_t group = 0; group < layer_.groups; ++group) {
                const float* out = given_.out + group * layer_.outputs +
                                   (b * layer_.out_pixels() + first) * layer_.out_channels();
                for (int64_t i = 0; i < count; ++i)
                    rows_.put(i, 0, out + i * layer_.out_channels(), layer_.outputs);
                for (int64_t block = 0; block < tables_.in_blocks(); ++block)
                    for (int64_t j = 0; j < layer_.terms; ++j)
                        score(tables_.backward(0, group, tap, block, j), j, count,
                              group * layer_.inputs + block * COLUMNS);
            }
        }
        for (int64_t i = 0; i < count * layer_.terms; ++i) scores_[i] = sum(load(&sums_[i * LANES]));
    }
    // What pixels see at a tap, zeros outside of the image.
    void see(int64_t b, int64_t tap, int64_t first, int64_t count) {
        const int64_t channels = layer_.in_channels();
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = places_.of(tap)[first + i];
            float* to = &seen_[i * pitch_];
            if (at < 0)
                std::fill_n(to, channels, 0.0f);
            else
                copy(given_.image + (b * layer_.in_pixels() + at) * channels, channels, to);
        }
    }
    // Columns past the last of a group are zero in the panel, and add zeros.
    void score(const float* panel, int64_t j, int64_t count, int64_t column) {
        for_each_tile(count, [&](auto size, int64_t row) {
            Pair made[size] = {};
            multiply(rows_.at(row), rows_.between(), panel, layer_.outputs, made);
#pragma GCC unroll 16
            for (int i = 0; i < size; ++i) {
                const Pair with = Pair::of(&seen_[(row + i) * pitch_ + column]);
                float* to = &sums_[((row + i) * layer_.terms + j) * LANES];
                store(to, load(to) + made[i].low * with.low + made[i].high * with.high);
            }
            if (image_.empty()) return;
#pragma GCC unroll 16
            for (int i = 0; i < size; ++i) {
                float* to = &image_[(row + i) * pitch_ + column];
                Pair total = Pair::of(to);
                total.add(factors_[row + i][j], made[i]);
                total.write(to);
            }
        });
    }
    void choose(int64_t b, int64_t u, int64_t i, float* d_coefficient) {
        const float* score = &scores_[i * layer_.terms];
        const int64_t region = given_.mask[b * layer_.out_pixels() + u];
        float q[MOST_REGIONS];
        for (int64_t t = 0; t < layer_.regions; ++t) {
            const float* factor = given_.coefficient + (b * layer_.regions + t) * layer_.terms;
            q[t] = 0;
            for (int64_t j = 0; j < layer_.terms; ++j) q[t] += factor[j] * score[j];
        }
        for (int64_t j = 0; j < layer_.terms; ++j)
            d_coefficient[region * layer_.terms + j] += score[j];
        if (given_.guide_weight)
            through_softmax(layer_, given_, b, u, q, &d_guide_[i * layer_.regions], 1);
        else
            through_softmax(layer_, given_, b, u, q, given_.d_guide + given_.guide_at(b, u),
                            given_.guide_region);
    }
    // The guide's weight between its numbers and the image.
    void mix(int64_t count, float* d_weight) {
        const int64_t width = pitch_ - COLUMNS;
        const float* factors[TOGETHER];
        float* to[TOGETHER];
        for (int64_t i = 0; adds_image() && i < count; i += TOGETHER) {
            const int64_t now = std::min<int64_t>(TOGETHER, count - i);
            for (int64_t r = 0; r < now; ++r) {
                factors[r] = &d_guide_[(i + r) * layer_.regions];
                to[r] = &image_[(i + r) * pitch_];
            }
            add_up(now, weight_.data(), pitch_, layer_.regions, factors, 1, to, width, true);
        }
        for (int64_t t = 0; t < layer_.regions; t += TOGETHER) {
            const int64_t now = std::min<int64_t>(TOGETHER, layer_.regions - t);
            for (int64_t r = 0; r < now; ++r) {
                factors[r] = &d_guide_[t + r];
                to[r] = d_weight + (t + r) * pitch_;
            }
            add_up(now, seen_.data(), pitch_, count, factors, layer_.regions, to, width, true);
        }
    }
    void write(int64_t b, int64_t first, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = places_.of(0)[first + i];
            if (at >= 0)
                copy(&image_[i * pitch_], layer_.in_channels(),
                     given_.d_image + (b * layer_.in_pixels() + at) * layer_.in_channels());
        }
    }

    const Layer& layer_;
    const Gradients& given_;
    const Tables& tables_;
    const Places& places_;
    int64_t most_, pitch_;
    Rows rows_;
    std::vector<float> seen_, image_, weight_, sums_, scores_, d_guide_;
    std::vector<const float*> factors_;
};

}  // namespace

void drconv_scores(const Layer& layer, const Gradients& given) {
    const Tables tables(layer, given.table, false, true);
    const Places places(layer);
    const int64_t pixels = layer.out_pixels(), chunk = Scores::at_once(layer);
    const int64_t chunks = (pixels + chunk - 1) / chunk;
    const int64_t parts = std::min(chunks, (LOTS + layer.batch - 1) / layer.batch);
    const int64_t lots = layer.batch * parts, factors = layer.regions * layer.terms;
    const int64_t weights = given.guide_weight ? layer.regions * Scores::pitch(layer) : 0;
    std::vector<float> d_factors(lots * factors), d_weights(lots * weights);
#pragma omp parallel num_threads(layer.threads)
    {
        Scores scores(layer, given, tables, places);
#pragma omp for schedule(dynamic)
        for (int64_t lot = 0; lot < lots; ++lot) {
            const int64_t part = lot % parts;
            scores.run(lot / parts, chunks * part / parts * chunk,
                       std::min(chunks * (part + 1) / parts * chunk, pixels),
                       &d_factors[lot * factors], d_weights.data() + lot * weights);
        }
    }
    for (int64_t lot = 0; given.d_coefficient && lot < lots; ++lot)
        for (int64_t i = 0; i < factors; ++i) {
            float* to = given.d_coefficient + lot / parts * factors + i;
            *to = d_factors[lot * factors + i] + (lot % parts ? *to : 0.0f);
        }
    for (int64_t t = 0; given.guide_weight && t < layer.regions; ++t)
        for (int64_t c = 0; c < layer.in_channels(); ++c) {
            float total = 0;
            for (int64_t lot = 0; lot < lots; ++lot)
                total += d_weights[lot * weights + t * Scores::pitch(layer) + c];
            given.d_guide_weight[t * layer.in_channels() + c] = total;
        }
}
