// Products of float32 matrices on a CPU, as fast as it multiplies.
//
// A panel of COLUMNS columns of the right matrix is laid together, DEPTH rows of it at a time, and
// tiles of rows of the left one go past it with their sums in registers. Sums are of DEPTH products
// and then of those, in one order whatever the threads. No torch headers: a C interface, mirrored
// in native_products.py.

#pragma GCC optimize("fp-contract=fast")  // a product is added in one rounding where the CPU can

#include <algorithm>
#include <cstdint>
#include <memory>

struct Product {
    const float* left;  // [rows, depth]
    int64_t left_row, left_depth;
    const float* right;  // [depth, columns]
    int64_t right_depth, right_column;
    float* out;  // [rows, columns], columns next to each other
    int64_t out_row;
    int64_t rows, depth, columns;
    int64_t add;  // to what `out` holds
    int64_t threads;
};

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16, TILE = 12;  // 24 of 32 registers are sums
#else
constexpr int64_t LANES = 8, TILE = 6;  // 12 of 16
#endif
constexpr int64_t COLUMNS = 2 * LANES, TOGETHER = 4, DEPTH = 512;  // 256 KB with AVX-512
constexpr int64_t CUTS = 4;  // of work for each thread

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector& at(float* place) { return *reinterpret_cast<Vector*>(place); }
inline Vector at(const float* place) { return *reinterpret_cast<const Vector*>(place); }

// SIZE rows times the panel, while the next ones are sent for if `ahead`. Functions of their own,
// or GCC 12 keeps sums in memory.
template <int SIZE>
__attribute__((noinline)) void tile(const float* left, int64_t row, int64_t step, int64_t depth,
                                    const float* panel, float* out, int64_t out_row, bool add,
                                    bool ahead) {
    Vector low[SIZE] = {}, high[SIZE] = {};
    for (int64_t k = 0; k < depth; ++k, panel += COLUMNS, left += step) {
        if (ahead && k % 16 == 0) {
#pragma GCC unroll 16
            for (int i = 0; i < SIZE; ++i) __builtin_prefetch(left + (i + TILE) * row, 0, 2);
        }
        const Vector first = at(panel), second = at(panel + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < SIZE; ++i) {
            low[i] += left[i * row] * first;
            high[i] += left[i * row] * second;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < SIZE; ++i) {
        float* to = out + i * out_row;
        at(to) = add ? at(const_cast<const float*>(to)) + low[i] : low[i];
        at(to + LANES) = add ? at(const_cast<const float*>(to + LANES)) + high[i] : high[i];
    }
}

template <int SIZE = int(TILE), class... Rest>
inline void tile_of(int64_t size, Rest... rest) {
    if constexpr (SIZE > 1) {
        if (size < SIZE) return tile_of<SIZE - 1>(size, rest...);
    }
    tile<SIZE>(rest...);
}

// Numbers [begin, end) of the depth of a panel's columns, from `column` on; zeros beyond the last.
void lay_together(const Product& p, int64_t begin, int64_t end, int64_t column, float* to) {
    const int64_t here = std::min(COLUMNS, p.columns - column);
    std::fill_n(to, here < COLUMNS ? (end - begin) * COLUMNS : 0, 0.0f);
    const float* from = p.right + begin * p.right_depth + column * p.right_column;
    if (p.right_column == 1) {
        for (int64_t k = begin; k < end; ++k, from += p.right_depth, to += COLUMNS)
            std::copy_n(from, here, to);
        return;
    }
    for (int64_t c = 0; c < here; ++c)
        for (int64_t k = 0; k < end - begin; ++k)
            to[k * COLUMNS + c] = from[k * p.right_depth + c * p.right_column];
}

// A tile of `size` rows of the product, from `row` on, in a panel whose numbers [k, end) are
// `laid`.
void tile_in(const Product& p, int64_t row, int64_t size, int64_t k, int64_t end, int64_t column,
             const float* laid, bool ahead) {
    const int64_t here = std::min(COLUMNS, p.columns - column);
    const bool add = p.add || k > 0;
    const float* left = p.left + row * p.left_row + k * p.left_depth;
    float* out = p.out + row * p.out_row + column;
    if (here == COLUMNS)
        return tile_of(size, left, p.left_row, p.left_depth, end - k, laid, out, p.out_row, add,
                       ahead);
    float some[TILE * COLUMNS];
    tile_of(size, left, p.left_row, p.left_depth, end - k, laid, some, COLUMNS, false, ahead);
    for (int64_t i = 0; i < size; ++i, out += p.out_row)
        for (int64_t c = 0; c < here; ++c)
            out[c] = add ? out[c] + some[i * COLUMNS + c] : some[i * COLUMNS + c];
}

// What a thread has laid together last, if that is the whole depth of its columns.
struct Laid {
    std::unique_ptr<float[]> panels{new float[DEPTH * TOGETHER * COLUMNS]};
    int64_t column = -1;
};

// Rows [first, last) of the product in some panels. Each tile of rows goes past all of them while
// it is in the nearest cache.
void block(const Product& p, int64_t first, int64_t last, int64_t column, Laid& laid) {
    const int64_t stop = std::min(p.columns, column + TOGETHER * COLUMNS);
    for (int64_t k = 0; k < p.depth || k == 0; k += DEPTH) {
        const int64_t end = std::min(p.depth, k + DEPTH);
        const auto panel = [&](int64_t c) { return laid.panels.get() + (c - column) * DEPTH; };
        if (laid.column != column)
            for (int64_t c = column; c < stop; c += COLUMNS) lay_together(p, k, end, c, panel(c));
        for (int64_t r = first; r < last; r += TILE) {
            const bool more = r + TILE < last && p.left_depth == 1;
            for (int64_t c = column; c < stop; c += COLUMNS)
                tile_in(p, r, std::min(TILE, last - r), k, end, c, panel(c), c == column && more);
        }
    }
    laid.column = p.depth <= DEPTH ? column : -1;
}

}  // namespace

extern "C" void multiply(const Product* product) {
    const Product& p = *product;
    const int64_t width = TOGETHER * COLUMNS, tiles = (p.rows + TILE - 1) / TILE;
    const int64_t blocks = (p.columns + width - 1) / width;
    const int64_t most = std::max<int64_t>(tiles, 1);
    // Blocks are cut into some of their rows, so that no thread waits long for a slower one.
    const int64_t cuts =
        p.threads == 1 ? 1 : std::clamp<int64_t>(CUTS * p.threads / blocks, 1, most);
#pragma omp parallel num_threads(p.threads)
    {
        Laid laid;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * cuts; ++i) {
            const int64_t cut = i % cuts;
            block(p, tiles * cut / cuts * TILE, std::min(p.rows, tiles * (cut + 1) / cuts * TILE),
                  i / cuts * width, laid);
        }
    }
}
