// What tile.py does to one chunk's products, on a CPU and in one pass a visit; and rows' lengths.
//
// The same operations as there, but for exp, which is rounded a little differently (at most one
// unit in the last place off), and for sums: samples' in float32 over SPAN rows, then in float64
// in the rows' order, so that they do not depend on the number of threads. No torch headers: a C
// interface, mirrored in native_tile.py.

#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "native_types.h"

struct Tile {
    int64_t rows, batch, threads;
    const void* product;          // [rows, batch]
    const float* inverse_norm;    // [rows]
    const int64_t* own_row;       // [batch], outside [0, rows) where the class is elsewhere; or null
    const int64_t* competing;     // [2, batch]: rows a sample competes with; or null
    const float* threshold;       // [batch], above it a logit z is hard: a + b z + c z^2; or null
    const float* sigmoid_bias;    // of a sigmoid loss; or null
    float constant, linear, square;
    float scale;
    Type type;
};

namespace {

constexpr int64_t SPAN = 64;
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// 2^n * e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; in two factors, so that what is larger
// or smaller than any normal number becomes infinity or a denormal one.
inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float whole = std::rint(x * 1.44269504f);
    float r = std::fma(whole, -0.693359375f, x);
    r = std::fma(whole, 2.12194440e-4f, r);
    float power = 1.9875691500e-4f;
    power = std::fma(power, r, 1.3981999507e-3f);
    power = std::fma(power, r, 8.3334519073e-3f);
    power = std::fma(power, r, 4.1665795894e-2f);
    power = std::fma(power, r, 1.6666665459e-1f);
    power = std::fma(power, r, 5.0000001201e-1f);
    power = std::fma(power, r * r, r) + 1.0f;
    const int32_t n = int32_t(whole), half = n >> 1;
    return power * bits_as<float>((half + 127) << 23) * bits_as<float>((n - half + 127) << 23);
}

// e^-|x|, of which sigmoid and softplus are made without loss at either end.
inline float decay(float x) { return exponential(-std::fabs(x)); }

inline float sigmoid(float x, float decayed) {
    return (x < 0.0f ? decayed : 1.0f) / (1.0f + decayed);
}

// log(1 + e^x) = max(x, 0) + log(1 + d), the latter as 2 atanh(d / (2 + d)), an odd series.
inline float softplus(float x, float decayed) {
    const float r = decayed / (2.0f + decayed), square = r * r;  // at most 1/9
    float series = 1.0f / 15;
    series = std::fma(series, square, 1.0f / 13);
    series = std::fma(series, square, 1.0f / 11);
    series = std::fma(series, square, 1.0f / 9);
    series = std::fma(series, square, 1.0f / 7);
    series = std::fma(series, square, 1.0f / 5);
    series = std::fma(series, square, 1.0f / 3);
    series = std::fma(series, square, 1.0f);
    return (x > 0.0f ? x : 0.0f) + 2.0f * r * series;
}

// One thread's view of a tile: a row's logits at a time, and who has its own class there.
class Span {
public:
    Span(const Tile& tile, int64_t first)
        : tile_(tile), first_(first), last_(std::min(first + SPAN, tile.rows)) {
        for (int64_t i = 0; tile.own_row && i < tile.batch; ++i)
            if (tile.own_row[i] >= first_ && tile.own_row[i] < last_)
                own_.emplace_back(tile.own_row[i], i);
        std::sort(own_.begin(), own_.end());
    }

    int64_t first() const { return first_; }
    int64_t last() const { return last_; }

    // The row's products, in `product`, and its logits.
    void logits(int64_t row, float* __restrict product, float* __restrict logit) const {
        const float factor = tile_.inverse_norm[row] * tile_.scale;
        widen(tile_.product, tile_.type, row * tile_.batch, tile_.batch, product);
        for (int64_t i = 0; i < tile_.batch; ++i) logit[i] = product[i] * factor;
    }

    // Classes a sample does not compete with weigh nothing.
    void leave_range(int64_t row, float* __restrict logit) const {
        if (!tile_.competing) return;
        const int64_t* __restrict start = tile_.competing;
        const int64_t* __restrict stop = tile_.competing + tile_.batch;
        for (int64_t i = 0; i < tile_.batch; ++i)
            logit[i] = row >= start[i] && row < stop[i] ? logit[i] : NEVER;
    }

    // Hard negatives' changed logits, and the slope by which gradients pass through.
    void modulate(float* __restrict logit, float* __restrict slope) const {
        const float a = tile_.constant, b = tile_.linear, c = tile_.square;
        for (int64_t i = 0; i < tile_.batch; ++i) {
            const float z = logit[i];
            const bool hard = z > tile_.threshold[i];
            slope[i] = hard ? z * (2 * c) + b : 1.0f;
            logit[i] = hard ? (z * c + b) * z + a : z;
        }
    }

    // Calls write(i) for each sample i whose own class is this row. Rows come in order.
    template <class Write>
    void own(int64_t row, Write write) {
        for (; next_ < own_.size() && own_[next_].first == row; ++next_) write(own_[next_].second);
    }

private:
    const Tile& tile_;
    int64_t first_, last_;
    std::vector<std::pair<int64_t, int64_t>> own_;
    size_t next_ = 0;
};

template <class Work>
void for_each_span(const Tile& tile, Work work) {
    const int64_t spans = (tile.rows + SPAN - 1) / SPAN;
    const int threads = tile.rows * tile.batch < GRAIN ? 1 : int(tile.threads);
#pragma omp parallel num_threads(threads)
    {
        // Product, logit, slope and sum of one row of samples each.
        std::unique_ptr<float[]> buffers(new float[4 * tile.batch]);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < spans; ++index) {
            Span span(tile, index * SPAN);
            work(index, span, buffers.get());
        }
    }
}

}  // namespace

// Adds a chunk's negatives to [batch] each of: sums of exp(logit - shift) (or, of a sigmoid loss, of
// softplus(logit - bias), and of sigmoids), largest logits, and, with a `conflict_logit`, counts of
// larger ones.
extern "C" void sum_tile(const Tile* tile, const float* shift, const float* conflict_logit,
                         double* total, double* highest, double* conflicts, double* sigmoids) {
    const int64_t batch = tile->batch, spans = (tile->rows + SPAN - 1) / SPAN;
    const bool of_sigmoid = tile->sigmoid_bias;
    const float bias = of_sigmoid ? *tile->sigmoid_bias : 0.0f;
    std::vector<float> sums(spans * batch), largest(spans * batch, NEVER);
    std::vector<float> shares(of_sigmoid ? spans * batch : 0);
    std::vector<float> counts(conflict_logit ? spans * batch : 0);
    for_each_span(*tile, [&](int64_t index, Span& span, float* buffers) {
        float* product = buffers;
        float* __restrict logit = buffers + batch;
        float* __restrict sum = sums.data() + index * batch;
        float* __restrict high = largest.data() + index * batch;
        for (int64_t row = span.first(); row < span.last(); ++row) {
            span.logits(row, product, logit);
            span.own(row, [&](int64_t i) { logit[i] = NEVER; });
            span.leave_range(row, logit);
            for (int64_t i = 0; i < batch; ++i)  // not a number stays, as in torch
                high[i] = logit[i] > high[i] || logit[i] != logit[i] ? logit[i] : high[i];
            if (conflict_logit) {
                float* __restrict count = counts.data() + index * batch;
                for (int64_t i = 0; i < batch; ++i) count[i] += logit[i] > *conflict_logit;
            }
            if (of_sigmoid) {
                float* __restrict share = shares.data() + index * batch;
                for (int64_t i = 0; i < batch; ++i) {
                    const float x = logit[i] - bias, decayed = decay(x);
                    sum[i] += softplus(x, decayed);
                    share[i] += sigmoid(x, decayed);
                }
                continue;
            }
            if (tile->threshold) span.modulate(logit, buffers + 2 * batch);
            for (int64_t i = 0; i < batch; ++i) sum[i] += exponential(logit[i] - shift[i]);
        }
    });
    for (int64_t index = 0; index < spans; ++index)
        for (int64_t i = 0; i < batch; ++i) {
            const double high = largest[index * batch + i];
            total[i] += sums[index * batch + i];
            highest[i] = high > highest[i] || high != high ? high : highest[i];
            if (conflict_logit) conflicts[i] += counts[index * batch + i];
            if (of_sigmoid) sigmoids[i] += shares[index * batch + i];
        }
}

// Writes d loss / d (row . embedding) as `type` to `gradient`, and what multiplies each row to
// `along`. `offset`, `target` and `factor` are those of tile.Weights; a negative's own weight in a
// sigmoid loss is in `offset` too.
extern "C" void gradient_tile(const Tile* tile, const float* offset, const float* target,
                              float factor, void* gradient, Type type, float* along) {
    const int64_t batch = tile->batch;
    const bool of_sigmoid = tile->sigmoid_bias;
    const float bias = of_sigmoid ? *tile->sigmoid_bias : 0.0f;
    for_each_span(*tile, [=](int64_t, Span& span, float* buffers) {
        float* __restrict product = buffers;
        float* __restrict value = buffers + batch;
        float* __restrict slope = buffers + 2 * batch;
        for (int64_t row = span.first(); row < span.last(); ++row) {
            const float inverse = tile->inverse_norm[row], by = inverse * factor;
            span.logits(row, product, value);
            span.leave_range(row, value);
            if (of_sigmoid) {
                for (int64_t i = 0; i < batch; ++i) {
                    const float x = value[i] - bias;
                    value[i] = sigmoid(x, decay(x)) * offset[i];
                }
            } else {
                if (tile->threshold) span.modulate(value, slope);
                for (int64_t i = 0; i < batch; ++i) value[i] = exponential(value[i] + offset[i]);
                if (tile->threshold)
                    for (int64_t i = 0; i < batch; ++i) value[i] *= slope[i];
            }
            span.own(row, [&](int64_t i) { value[i] = target[i]; });
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < batch; ++i) {
                value[i] *= by;
                sum += value[i] * product[i];
            }
            along[row] = sum * inverse * inverse;
            if (type == FLOAT32) {
                std::memcpy(static_cast<float*>(gradient) + row * batch, value, 4 * batch);
            } else {
                round_bfloat16(value, batch, static_cast<uint16_t*>(gradient) + row * batch);
            }
        }
    });
}

namespace {

// A row's length, from sums of LANES squares each.
float length(const float* __restrict row, int64_t dim) {
    constexpr int64_t LANES = 64;
    float sums[LANES] = {};
    int64_t start = 0;
    for (; start + LANES <= dim; start += LANES)
        for (int64_t l = 0; l < LANES; ++l) sums[l] += row[start + l] * row[start + l];
    for (int64_t l = 0; start + l < dim; ++l) sums[l] += row[start + l] * row[start + l];
    for (int64_t half = LANES / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; ++l) sums[l] += sums[half + l];
    return std::sqrt(sums[0]);
}

}  // namespace

// Rows of a table [.., dim] kept as `type`, those of `index` or the first ones: one over their
// lengths (0 up to `shortest`), and a copy of them as float32 or bfloat16. Either may be null.
extern "C" void measure_rows(const void* table, Type type, const int64_t* index, int64_t rows,
                             int64_t dim, float shortest, float* inverse_norm, void* copy,
                             Type copy_type, int64_t threads) {
    const int count = rows * dim < GRAIN ? 1 : int(threads);
    const bool halves = copy && type == FLOAT16 && copy_type == BFLOAT16;
#pragma omp parallel num_threads(count)
    {
        std::unique_ptr<float[]> buffer(new float[dim]);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t start = (index ? index[row] : row) * dim;
            if (index && row + AHEAD < rows) foresee(table, type, index[row + AHEAD], dim);
            const float* wide = static_cast<const float*>(table) + start;
            if (type != FLOAT32 && (inverse_norm || !halves)) {
                widen(table, type, start, dim, buffer.get());
                wide = buffer.get();
            }
            if (inverse_norm) {
                const float norm = length(wide, dim);
                inverse_norm[row] = norm <= shortest ? 0.0f : 1.0f / norm;
            }
            if (halves)
                float16_to_bfloat16(static_cast<const uint16_t*>(table) + start, dim,
                                    static_cast<uint16_t*>(copy) + row * dim);
            else if (copy && copy_type == FLOAT32)
                std::memcpy(static_cast<float*>(copy) + row * dim, wide, 4 * dim);
            else if (copy)
                round_bfloat16(wide, dim, static_cast<uint16_t*>(copy) + row * dim);
        }
    }
}
