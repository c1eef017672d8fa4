// The gradients of DRConv on a CPU: of the image, of the guide's numbers, of factors and tables.
//
// The image's is the forward pass with the filters turned round. The guide's needs the product of
// every pixel with every filter (arXiv:2003.12243, eqs. 7 and 8), of which only the sum against the
// output's gradient is kept: with tables that regions share, one product with each table for all
// regions. A filter's gradient is made for one sample, added to the tables' and dropped.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include <cmath>

#include "drconv_parts.h"

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

constexpr int64_t CHUNK = 64;  // input channels of a filter's gradient made at a time
constexpr int STRIP = 8;       // of them, in registers

int64_t pixels_of_band(const Layer& layer) {
    return std::max<int64_t>(256, (128 << 10) / (4 * layer.out_channels()));
}

// d loss / d guide of a pixel from q, the gradient of each region's weight: the softmax's slope.
void through_softmax(const Layer& layer, const Gradients& given, int64_t b, int64_t u,
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

// The guide's gradient where regions share tables: q of region t is a sum over the tables.
void guide_from_tables(const Layer& layer, const Gradients& given, const Tables& tables,
                       const Places& places) {
    const int64_t most = rows_at_once(layer.outputs), pixels = layer.out_pixels();
    const int64_t parts = (pixels + most - 1) / most;
#pragma omp parallel num_threads(layer.threads)
    {
        Rows rows(layer.outputs, most);
        std::unique_ptr<float[]> sums(new float[most * layer.terms * LANES]);
        std::vector<float> of_table(layer.terms), q(layer.regions);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < layer.batch * parts; ++item) {
            const int64_t b = item / parts, first = item % parts * most;
            const int64_t count = std::min(most, pixels - first);
            std::fill_n(sums.get(), count * layer.terms * LANES, 0.0f);
            for (int64_t group = 0; group < layer.groups; ++group) {
                const float* out = given.out + (b * pixels + first) * layer.out_channels() +
                                   group * layer.outputs;
                for (int64_t i = 0; i < count; ++i)
                    rows.put(i, 0, out + i * layer.out_channels(), layer.outputs);
                const float* image =
                    given.image + b * layer.in_pixels() * layer.in_channels() + group * layer.inputs;
                for (int64_t tap = 0; tap < layer.taps(); ++tap)
                    for (int64_t block = 0; block < tables.in_blocks(); ++block)
                        for (int64_t j = 0; j < layer.terms; ++j)
                            score(layer, places.of(tap), image, block, first, count, rows,
                                  tables.backward(0, group, tap, block, j),
                                  [&](int64_t row, Vector value) {
                                      float* to = &sums[(row * layer.terms + j) * LANES];
                                      store(to, load(to) + value);
                                  });
            }
            for (int64_t i = 0; i < count; ++i) {
                for (int64_t j = 0; j < layer.terms; ++j)
                    of_table[j] = sum(load(&sums[(i * layer.terms + j) * LANES]));
                for (int64_t t = 0; t < layer.regions; ++t) {
                    const float* factor = given.coefficient + (b * layer.regions + t) * layer.terms;
                    q[t] = 0;
                    for (int64_t j = 0; j < layer.terms; ++j) q[t] += factor[j] * of_table[j];
                }
                through_softmax(layer, given, b, first + i, q.data());
            }
        }
    }
}

// The image's gradient; and, where each region has its own tables, the guide's from the same
// filters.
void image_gradient(const Layer& layer, const Gradients& given, const Tables& tables,
                    const Places& places) {
    const bool guides = layer.own && given.d_guide;
    if (!given.d_image && !guides) return;
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
                through_softmax(layer, given, b, u, &q[u * layer.regions]);
        }
    }
}

// products[a * step + b] += left[a] . right[b] over `count` numbers, for A x B of them.
template <int A, int B>
void dots_of(const float* const* left, const float* const* right, int64_t count, float* products,
             int64_t row_step, int64_t step) {
    Vector sums[A][B] = {};
    for (int64_t p = 0; p < count; p += LANES)
#pragma GCC unroll 4
        for (int a = 0; a < A; ++a)
#pragma GCC unroll 4
            for (int b = 0; b < B; ++b) sums[a][b] += load(left[a] + p) * load(right[b] + p);
    for (int a = 0; a < A; ++a)
        for (int b = 0; b < B; ++b) products[a * row_step + b * step] += sum(sums[a][b]);
}

void dots(const std::vector<const float*>& left, const std::vector<const float*>& right,
          int64_t count, float* const* products, int64_t step) {
    for (size_t a = 0; a < left.size(); ++a) {
        size_t b = 0;
        for (; b + 4 <= right.size(); b += 4)
            dots_of<1, 4>(&left[a], &right[b], count, products[a] + b * step, 0, step);
        for (; b < right.size(); ++b)
            dots_of<1, 1>(&left[a], &right[b], count, products[a] + b * step, 0, step);
    }
}

// A filter's gradient for some rows of inputs: to[i] = sum over pixels of their i-th number times
// the output's gradient.
template <int SIZE>
void outer(const std::vector<const float*>& image, const std::vector<const float*>& out, int64_t i,
           float* to) {
    Pair sum[SIZE] = {};
    for (size_t n = 0; n < image.size(); ++n) {
        const Pair column = Pair::of(out[n]);
        const float* number = image[n] + i;
#pragma GCC unroll 8
        for (int r = 0; r < SIZE; ++r) sum[r].add(number[r], column);
    }
#pragma GCC unroll 8
    for (int r = 0; r < SIZE; ++r) sum[r].write(to + r * COLUMNS);
}

// Gradients of the factors and of the tables.
class FilterGradient {
public:
    FilterGradient(const Layer& layer, const Gradients& given, const Tables& tables,
                   const Places& places)
        : layer_(layer), given_(given), tables_(tables), places_(places),
          regions_(layer, layer.out_pixels()),
          chunks_((layer.inputs + CHUNK - 1) / CHUNK),
          items_(layer.groups * tables.out_blocks() * chunks_),
          lots_(std::min(layer.batch, (32 + items_ - 1) / items_)),
          size_(tables.place(layer.tables(), 0, 0, 0)),
          factors_(items_ * layer.batch * of_sample()) {
        if (given.d_table) tables_gradient_.resize(lots_ * size_);
        regions_.sort_all(given.mask);
    }

    void run() {
#pragma omp parallel num_threads(layer_.threads)
        {
            std::unique_ptr<float[]> filters(new float[layer_.regions * CHUNK * COLUMNS]);
            std::unique_ptr<float[]> out(new float[layer_.out_pixels() * COLUMNS]);
#pragma omp for schedule(dynamic)
            for (int64_t work = 0; work < lots_ * items_; ++work) {
                const int64_t lot = work / items_, item = work % items_;
                for (int64_t b = layer_.batch * lot / lots_; b < layer_.batch * (lot + 1) / lots_;
                     ++b)
                    sample(b, item, lot, filters.get(), out.get());
            }
        }
        if (given_.d_coefficient) add_factors();
        if (given_.d_table) add_tables();
    }

private:
    int64_t of_sample() const { return layer_.regions * layer_.factors(); }

    void sample(int64_t b, int64_t item, int64_t lot, float* filters, float* out) {
        const int64_t chunk = item % chunks_, block = item / chunks_ % tables_.out_blocks();
        const int64_t group = item / chunks_ / tables_.out_blocks(), start = chunk * CHUNK;
        const int64_t rows = std::min(CHUNK, layer_.inputs - start), piece = rows * COLUMNS;
        const int64_t pixels = layer_.out_pixels(), column = block * COLUMNS;
        const Band band = regions_.of(b, 0);
        const float* gradient = given_.out + b * pixels * layer_.out_channels() +
                                group * layer_.outputs + column;
        for (int64_t i = 0; i < pixels; ++i)
            Pair::some(gradient + band.pixels[i] * layer_.out_channels(), layer_.outputs - column)
                .write(out + i * COLUMNS);
        const float* image = given_.image + b * layer_.in_pixels() * layer_.in_channels() +
                             group * layer_.inputs + start;
        std::vector<const float*> numbers, columns, left, right;
        for (int64_t tap = 0; tap < layer_.taps(); ++tap) {
            std::vector<int64_t> used;
            for (int64_t t = 0; t < layer_.regions; ++t) {
                numbers.clear();
                columns.clear();
                for (int64_t i = band.starts[t]; i < band.starts[t + 1]; ++i) {
                    const int64_t at = places_.of(tap)[band.pixels[i]];
                    if (at < 0) continue;
                    numbers.push_back(image + at * layer_.in_channels());
                    columns.push_back(out + i * COLUMNS);
                }
                if (numbers.empty()) continue;
                float* to = filters + int64_t(used.size()) * piece;
                used.push_back(t);
                for (int64_t i = 0; i < rows; i += STRIP)
                    with_size<STRIP>(std::min<int64_t>(STRIP, rows - i), [&](auto size) {
                        outer<size>(numbers, columns, i, to + i * COLUMNS);
                    });
            }
            spread(b, item, lot, tap, used, filters, piece,
                   tables_.place(0, group, block, 0) +
                       ((layer_.table_taps == 1 ? 0 : tap) * layer_.inputs + start) * COLUMNS);
        }
    }

    // Adds what the filters' gradients of one sample and tap mean for its factors and the tables.
    void spread(int64_t b, int64_t item, int64_t lot, int64_t tap, const std::vector<int64_t>& used,
                const float* filters, int64_t piece, int64_t place) {
        const int64_t table = layer_.table_taps * layer_.inputs * COLUMNS;
        const int64_t between = tables_.place(1, 0, 0, 0), own = layer_.own ? between : 0;
        const int64_t offset = layer_.coefficient_taps == 1 ? 0 : tap;
        const float* factor = given_.coefficient + b * of_sample() + offset;
        float* d_factor = &factors_[(item * layer_.batch + b) * of_sample() + offset];
        for (size_t i = 0; given_.d_coefficient && i < used.size(); ++i) {
            const std::vector<const float*> left{filters + int64_t(i) * piece};
            std::vector<const float*> right;
            for (int64_t j = 0; j < layer_.terms; ++j)
                right.push_back(tables_.forward(0, 0, 0, 0) + place + used[i] * own + j * table);
            float* to = d_factor + used[i] * layer_.factors();
            dots(left, right, piece, &to, layer_.coefficient_taps);
        }
        if (!given_.d_table) return;
        std::vector<float> turned(layer_.terms * layer_.regions);
        const int64_t sources = layer_.own ? 1 : int64_t(used.size());
        for (int64_t i = 0; i < int64_t(used.size()); i += sources) {
            for (int64_t s = 0; s < sources; ++s)
                for (int64_t j = 0; j < layer_.terms; ++j)
                    turned[j * sources + s] = factor[used[i + s] * layer_.factors() +
                                                     j * layer_.coefficient_taps];
            float* to = &tables_gradient_[lot * size_ + place + used[i] * own];
            for (int64_t j = 0; j < layer_.terms; j += TOGETHER) {
                const int64_t together = std::min<int64_t>(TOGETHER, layer_.terms - j);
                const float* factors[TOGETHER];
                float* targets[TOGETHER];
                for (int64_t r = 0; r < together; ++r) {
                    factors[r] = &turned[(j + r) * sources];
                    targets[r] = to + (j + r) * table;
                }
                add_up(together, filters + i * piece, piece, sources, factors, 1, targets, piece,
                       true);
            }
        }
    }

    void add_factors() const {
        const int64_t all = layer_.batch * of_sample();
        std::fill_n(given_.d_coefficient, all, 0.0f);
        for (int64_t item = 0; item < items_; ++item)
            for (int64_t i = 0; i < all; ++i)
                given_.d_coefficient[i] += factors_[item * all + i];
    }

    void add_tables() {
        for (int64_t lot = 1; lot < lots_; ++lot)
            for (int64_t i = 0; i < size_; ++i)
                tables_gradient_[i] += tables_gradient_[lot * size_ + i];
        const int64_t depth = layer_.table_taps * layer_.inputs;
        const int64_t all = layer_.tables() * layer_.terms * layer_.groups;
#pragma omp parallel for schedule(static) num_threads(layer_.threads)
        for (int64_t item = 0; item < all * layer_.outputs; ++item) {
            const int64_t o = item % layer_.outputs, group = item / layer_.outputs % layer_.groups;
            const int64_t term = item / layer_.outputs / layer_.groups % layer_.terms;
            const int64_t own = item / layer_.outputs / layer_.groups / layer_.terms;
            const float* from = &tables_gradient_[tables_.place(own, group, o / COLUMNS, term)];
            float* to = given_.d_table + item * depth;
            for (int64_t i = 0; i < layer_.inputs; ++i)
                for (int64_t tap = 0; tap < layer_.table_taps; ++tap)
                    to[i * layer_.table_taps + tap] =
                        from[(tap * layer_.inputs + i) * COLUMNS + o % COLUMNS];
        }
    }

    const Layer& layer_;
    const Gradients& given_;
    const Tables& tables_;
    const Places& places_;
    Regions regions_;
    int64_t chunks_, items_, lots_, size_;
    std::vector<float> factors_, tables_gradient_;
};

}  // namespace

extern "C" void drconv_backward(const Layer* layer, const Gradients* given) {
    const bool filters = given->d_coefficient || given->d_table;
    const Tables tables(*layer, given->table, filters, given->d_image || given->d_guide);
    const Places places(*layer);
    image_gradient(*layer, *given, tables, places);
    if (given->d_guide && !layer->own) guide_from_tables(*layer, *given, tables, places);
    if (filters) FilterGradient(*layer, *given, tables, places).run();
}
