// The gradients of DRConv on a CPU: of the image, of the guide's numbers, of factors and tables.
//
// The image's is the forward pass with the filters turned round. The guide's needs the product of
// every pixel with every filter (arXiv:2003.12243, eqs. 7 and 8), of which only the sum against the
// output's gradient is kept; with tables that regions share, drconv_scores.cpp makes it instead.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include "drconv_gradients.h"

namespace {

int64_t pixels_of_band(const Layer& layer) {
    return std::max<int64_t>(256, (128 << 10) / (4 * layer.out_channels()));
}

// Products of packed rows of the output's gradient with a panel, against the image's numbers at a
// tap: add(row, sum of LANES) for each row.
template <class Add>
void score(const Layer& layer, const int32_t* places, const float* image, int64_t block,
           int64_t first, int64_t count, const Rows& rows, const float* panel, Add add) {
    const int64_t column = block * COLUMNS, left = layer.inputs - column;
    for_each_tile(count, [&](auto size, int64_t row) {
        Pair sum[size] = {};
        multiply(rows.at(row), rows.between(), panel, layer.outputs, sum);
#pragma GCC unroll 16
        for (int i = 0; i < size; ++i) {
            const int64_t place = places[first + row + i];
            if (place < 0) continue;
            const Pair with = Pair::some(image + place * layer.in_channels() + column, left);
            add(row + i, sum[i].low * with.low + sum[i].high * with.high);
        }
    });
}

// The image's gradient; and, if asked, the guide's from the same filters.
void image_gradient(const Layer& layer, const Gradients& given, bool guides) {
    const Tables tables(layer, given.table, false, true);
    const Places places(layer);
    Regions regions(layer, pixels_of_band(layer));
    regions.sort_all(given.mask);
    const int64_t blocks = tables.in_blocks(), pixels = layer.out_pixels();
    const int64_t together = Bank::blocks_at_once(layer, layer.outputs, blocks);
    const int64_t runs = (blocks + together - 1) / together;
    const int64_t most = rows_at_once(layer.outputs), parts = guides ? 1 : layer.groups * runs;
    const bool alone = layer.taps() == 1;  // no other tap adds to the same place
#pragma omp parallel num_threads(layer.threads)
    {
        Bank bank(layer, tables, layer.outputs, together);
        Rows rows(layer.outputs, most);
        std::vector<float> q(guides ? pixels * layer.regions : 0);
        const auto gradient = [&](int64_t b, int64_t group, int64_t first, int64_t last,
                                  int64_t tap) {
            const float* out = given.out + b * pixels * layer.out_channels() + group * layer.outputs;
            const int64_t start = b * layer.in_pixels() * layer.in_channels() + group * layer.inputs;
            const int32_t* place = places.of(tap);
            bank.begin(given.coefficient + b * layer.regions * layer.factors());
            bank.make_backward(group, tap, first, last);
            for (int64_t band = 0; given.d_image && band < regions.bands(); ++band)
                regions.of(b, band).for_each_run(
                    layer.regions, most, [&](int64_t t, const int32_t* u, int64_t n) {
                        for (int64_t i = 0; i < n; ++i)
                            rows.put(i, 0, out + u[i] * layer.out_channels(), layer.outputs);
                        for (int64_t block = first; block < last; ++block) {
                            const int64_t column = block * COLUMNS, left = layer.inputs - column;
                            float* to = given.d_image + start + column;
                            for_each_tile(n, [&](auto size, int64_t row) {
                                Pair sum[size] = {};
                                multiply(rows.at(row), rows.between(), bank.of(t, block - first),
                                         layer.outputs, sum);
#pragma GCC unroll 16
                                for (int i = 0; i < size; ++i) {
                                    const int64_t at = place[u[row + i]];
                                    if (at < 0) continue;
                                    float* target = to + at * layer.in_channels();
                                    if (!alone) sum[i].add(1.0f, Pair::some(target, left));
                                    sum[i].write(target, left);
                                }
                            });
                        }
                    });
            for (int64_t from = 0; guides && from < pixels; from += most) {
                const int64_t n = std::min(most, pixels - from);
                for (int64_t i = 0; i < n; ++i)
                    rows.put(i, 0, out + (from + i) * layer.out_channels(), layer.outputs);
                for (int64_t block = first; block < last; ++block)
                    for (int64_t t = 0; t < layer.regions; ++t)
                        score(layer, place, given.image + start, block, from, n, rows,
                              bank.of(t, block - first), [&](int64_t row, Vector value) {
                                  q[(from + row) * layer.regions + t] += sum(value);
                              });
            }
        };
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < layer.batch * parts; ++item) {
            const int64_t b = item / parts;
            std::fill(q.begin(), q.end(), 0.0f);
            for (int64_t part = guides ? 0 : item % parts;
                 part < (guides ? layer.groups * runs : item % parts + 1); ++part) {
                const int64_t group = part / runs, first = part % runs * together;
                for (int64_t tap = 0; tap < layer.taps(); ++tap)
                    gradient(b, group, first, std::min(first + together, blocks), tap);
            }
            for (int64_t u = 0; guides && u < pixels; ++u)
                through_softmax(layer, given, b, u, &q[u * layer.regions],
                                given.d_guide + given.guide_at(b, u), given.guide_region);
        }
    }
}

}  // namespace

extern "C" void drconv_backward(const Layer* layer, const Gradients* given) {
    const bool scored = given->guides() && !layer->own && layer->coefficient_taps == 1;
    if (scored) drconv_scores(*layer, *given);
    const bool image = given->d_image && !(scored && layer->taps() == 1);
    const bool guide = given->d_guide && !scored;
    if (image || guide) image_gradient(*layer, *given, guide);
    const bool coefficients = given->d_coefficient && !scored;
    if (coefficients || given->d_table) drconv_filter_gradients(*layer, *given, coefficients);
}
