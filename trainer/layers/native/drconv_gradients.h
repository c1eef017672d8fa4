// What DRConv's gradients are made from and written to, and the guide's softmax.

#pragma once

#include "drconv_filters.h"

struct Gradients {
    const float* image;
    const float* out;          // the output's gradient
    const uint8_t* mask;
    const float* coefficient;  // [batch, regions, terms, coefficient taps]
    const float* table;
    const float* guide;        // with these strides, and its gradient with the same ones
    int64_t guide_sample, guide_region, guide_pixel;
    const float* guide_weight;  // [regions, channels]; null unless its part is to be added here
    // Null where nobody asks: of the image (zeros, to be added to, unless pixels see their own
    // place alone), guide, coefficients, tables and guide's weight.
    float* d_image;
    float* d_guide;
    float* d_coefficient;
    float* d_table;
    float* d_guide_weight;

    bool guides() const { return d_guide || guide_weight; }
    int64_t guide_at(int64_t b, int64_t u) const { return b * guide_sample + u * guide_pixel; }
};

namespace {

// e to the power of numbers that are not positive, within some units of the last place; tiny ones
// for those below -87.
inline Vector exponential(Vector power) {
    power = power < -87.0f ? Vector{} - 87.0f : power;
    const Vector shifted = power * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: to the nearest integer
    const Vector whole = shifted - 12582912.0f;
    const Vector rest = power - whole * 0.693359375f - whole * -2.12194440e-4f;
    Vector value = Vector{} + 1.98756915e-4f;  // Cephes' polynomial
    for (const float next : {1.39819995e-3f, 8.33345205e-3f, 4.16657962e-2f, 1.66666657e-1f,
                             5.00000012e-1f, 1.0f, 1.0f})
        value = value * rest + next;
    return (Vector)((Bits)value + ((Bits)shifted << 23));
}

// d loss / d guide of a pixel, to[t * step], from q, the gradient of each region's weight: the
// softmax's slope.
inline void through_softmax(const Layer& layer, const Gradients& given, int64_t b, int64_t u,
                            const float* q, float* to, int64_t step) {
    const float* number = given.guide + given.guide_at(b, u);
    float weight[MOST_REGIONS + LANES], highest = number[0], total = 0, mean = 0;
    for (int64_t t = 0; t < layer.regions; ++t) {
        weight[t] = number[t * given.guide_region];
        highest = std::max(highest, weight[t]);
    }
    std::fill_n(weight + layer.regions, LANES, highest);
    for (int64_t t = 0; t < layer.regions; t += LANES)
        store(weight + t, exponential(load(weight + t) - highest));
    for (int64_t t = 0; t < layer.regions; ++t) {
        total += weight[t];
        mean += weight[t] * q[t];
    }
    for (int64_t t = 0; t < layer.regions; ++t)
        to[t * step] = weight[t] / total * (q[t] - mean / total);
}

}  // namespace

// Where regions share tables, those of guide and coefficients, and of the image if pixels see one
// place of it.
void drconv_scores(const Layer& layer, const Gradients& given);
// Those of coefficients, if they are still to be made, and of tables.
void drconv_filter_gradients(const Layer& layer, const Gradients& given, bool coefficients);
