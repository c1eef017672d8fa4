// The gradients of DRConv's coefficients and tables, through those of the filters: a filter's is made
// for one sample, for a block of its outputs and a chunk of its inputs, added up and dropped.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include "drconv_gradients.h"

namespace {

constexpr int64_t CHUNK = 64;   // input channels of a filter's gradient made at a time
constexpr int64_t PITCH = (CHUNK + 1) * COLUMNS;  // between gradients of two regions' filters
constexpr int64_t PIXELS = 64;  // whose numbers are put near each other at a time
constexpr int64_t AHEAD = 8;    // pixels after which numbers asked for are there

// A filter's gradient for some inputs: to[i] (+)= sum over pixels of their i-th number times the
// output's gradient.
template <int SIZE>
void outer(const float* numbers, const float* columns, int64_t pixels, float* to, bool more) {
    Pair sum[SIZE] = {};
    if (more)
#pragma GCC unroll 16
        for (int r = 0; r < SIZE; ++r) sum[r] = Pair::of(to + r * COLUMNS);
    for (int64_t n = 0; n < pixels; ++n, numbers += CHUNK, columns += COLUMNS) {
        const Pair column = Pair::of(columns);
#pragma GCC unroll 16
        for (int r = 0; r < SIZE; ++r) sum[r].add(numbers[r], column);
    }
#pragma GCC unroll 16
    for (int r = 0; r < SIZE; ++r) sum[r].write(to + r * COLUMNS);
}

// Gradients of the factors and of the tables.
class FilterGradient {
public:
    FilterGradient(const Layer& layer, const Gradients& given, const Tables& tables,
                   const Places& places, bool coefficients)
        : layer_(layer), given_(given), tables_(tables), places_(places),
          coefficients_(coefficients),
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
            std::unique_ptr<float[]> filters(new float[layer_.regions * PITCH]);
#pragma omp for schedule(dynamic)
            for (int64_t work = 0; work < lots_ * items_; ++work) {
                const int64_t lot = work / items_, item = work % items_;
                for (int64_t b = layer_.batch * lot / lots_; b < layer_.batch * (lot + 1) / lots_;
                     ++b)
                    sample(b, item, lot, filters.get());
            }
        }
        if (coefficients_) add_factors();
        if (given_.d_table) add_tables();
    }

private:
    int64_t of_sample() const { return layer_.regions * layer_.factors(); }

    void sample(int64_t b, int64_t item, int64_t lot, float* filters) {
        const int64_t chunk = item % chunks_, block = item / chunks_ % tables_.out_blocks();
        const int64_t group = item / chunks_ / tables_.out_blocks(), start = chunk * CHUNK;
        const int64_t rows = std::min(CHUNK, layer_.inputs - start), piece = rows * COLUMNS;
        const int64_t column = block * COLUMNS, left = layer_.outputs - column;
        const float* out = given_.out + b * layer_.out_pixels() * layer_.out_channels() +
                           group * layer_.outputs + column;
        const float* image = given_.image + b * layer_.in_pixels() * layer_.in_channels() +
                             group * layer_.inputs + start;
        const Band band = regions_.of(b, 0);
        float numbers[PIXELS * CHUNK], columns[PIXELS * COLUMNS];
        std::vector<int64_t> used;
        for (int64_t tap = 0; tap < layer_.taps(); ++tap) {
            used.clear();
            for (int64_t t = 0; t < layer_.regions; ++t) {
                float* to = filters + int64_t(used.size()) * PITCH;
                int64_t near = 0, done = 0;
                const auto add = [&] {
                    for_each_tile(rows, [&](auto size, int64_t i) {
                        outer<size>(numbers + i, columns, near, to + i * COLUMNS, done > 0);
                    });
                    done += near;
                    near = 0;
                };
                for (int64_t i = band.starts[t]; i < band.starts[t + 1]; ++i) {
                    const int64_t at = places_.of(tap)[band.pixels[i]];
                    if (at < 0) continue;
                    if (i + AHEAD < band.starts[layer_.regions]) {
                        const int64_t next = band.pixels[i + AHEAD];
                        const int64_t seen = std::max(places_.of(tap)[next], 0);
                        fetch<0>(out + next * layer_.out_channels(), COLUMNS);
                        fetch<0>(image + seen * layer_.in_channels(), rows);
                    }
                    copy(image + at * layer_.in_channels(), rows, numbers + near * CHUNK);
                    Pair::some(out + band.pixels[i] * layer_.out_channels(), left)
                        .write(columns + near * COLUMNS);
                    if (++near == PIXELS) add();
                }
                if (near > 0) add();
                if (done > 0) used.push_back(t);
            }
            spread(b, item, lot, tap, used, filters, piece,
                   tables_.place(0, group, block, 0) +
                       ((layer_.table_taps == 1 ? 0 : tap) * layer_.inputs + start) * COLUMNS);
        }
    }

    // Adds what the filters' gradients of one sample and tap mean for its factors and the tables.
    void spread(int64_t b, int64_t item, int64_t lot, int64_t tap, const std::vector<int64_t>& used,
                const float* filters, int64_t piece, int64_t place) {
        const int64_t table = tables_.between();
        const int64_t between = tables_.place(1, 0, 0, 0), own = layer_.own ? between : 0;
        const int64_t offset = layer_.coefficient_taps == 1 ? 0 : tap;
        const float* factor = given_.coefficient + b * of_sample() + offset;
        float* d_factor = &factors_[(item * layer_.batch + b) * of_sample() + offset];
        for (size_t i = 0; coefficients_ && i < used.size(); ++i) {
            const std::vector<const float*> left{filters + int64_t(i) * PITCH};
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
                add_up(together, filters + i * PITCH, PITCH, sources, factors, 1, targets, piece,
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
    bool coefficients_;
    Regions regions_;
    int64_t chunks_, items_, lots_, size_;
    std::vector<float> factors_, tables_gradient_;
};

}  // namespace

void drconv_filter_gradients(const Layer& layer, const Gradients& given, bool coefficients) {
    const Tables tables(layer, given.table, true, false);
    const Places places(layer);
    FilterGradient(layer, given, tables, places, coefficients).run();
}
