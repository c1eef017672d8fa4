// What DRConv's gradients are made from and written to, and the guide's softmax.

#pragma once

#include <cmath>

#include "drconv_filters.h"

struct Gradients {
    const float* image;
    const float* out;          // the output's gradient
    const uint8_t* mask;
    const float* coefficient;  // [batch, regions, terms, coefficient taps]
    const float* table;
    const float* guide;        // with these strides, and its gradient with the same ones
    int64_t guide_sample, guide_region, guide_pixel;
    // Null where nobody asks: of the image (zeros, to be added to), guide, coefficients and tables.
    float* d_image;
    float* d_guide;
    float* d_coefficient;
    float* d_table;
};

namespace {

// d loss / d guide of a pixel from q, the gradient of each region's weight: the softmax's slope.
inline void through_softmax(const Layer& layer, const Gradients& given, int64_t b, int64_t u,
                     const float* q) {
    const int64_t start = b * given.guide_sample + u * given.guide_pixel;
    float weight[MOST_REGIONS], highest = given.guide[start], total = 0, mean = 0;
    for (int64_t t = 0; t < layer.regions; ++t)
        highest = std::max(highest, given.guide[start + t * given.guide_region]);
    for (int64_t t = 0; t < layer.regions; ++t) {
        weight[t] = std::exp(given.guide[start + t * given.guide_region] - highest);
        total += weight[t];
    }
    for (int64_t t = 0; t < layer.regions; ++t) {
        weight[t] /= total;
        mean += weight[t] * q[t];
    }
    for (int64_t t = 0; t < layer.regions; ++t)
        given.d_guide[start + t * given.guide_region] = weight[t] * (q[t] - mean);
}

}  // namespace

// Those of coefficients and tables.
void drconv_filter_gradients(const Layer& layer, const Gradients& given);
