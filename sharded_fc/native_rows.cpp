// The row updates of optimizer.py and the hash of initial.py on a CPU, in one pass over the rows.
//
// Bit for bit what the torch code computes: the same operations in the same order, each rounded by
// itself (the build forbids contraction). A row is widened into a buffer that stays in the first
// cache, goes through one plain loop an operation, which the compiler turns into vectors, and is
// narrowed on its way back. No torch headers: a C interface, mirrored in native.py.

#include <cmath>
#include <memory>

#include "native_types.h"

namespace {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

struct Table {  // [rows, width]; `key` is the rounding's
    void* data;
    uint64_t key;
    Type type;
};

}  // namespace

struct Slice {
    int64_t rows, dim, threads;
    int64_t first_row;        // the global number of the tables' first
    const int64_t* index;     // [rows]: which of the tables' rows; or null for the first ones
    const int64_t* numbers;   // of all the tables' rows, global; or null: they count on from first
    Table centre;
    Table state[2];
    Table gradient;           // its key means nothing
    const float* along;       // [rows], or null

    int64_t at(int64_t row) const { return index ? index[row] : row; }
    int64_t number(int64_t at) const { return numbers ? numbers[at] : first_row + at; }
};

namespace {

inline uint64_t mix(uint64_t key) {
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB;
    return key ^ (key >> 31);
}

inline uint64_t extend(uint64_t key, uint64_t value) { return mix(key + value * GOLDEN); }

using Half [[gnu::may_alias]] = uint16_t;

// Of each float the upper half is kept; the lower one's sum with `chance` may carry one into it.
inline void narrow_bfloat16(const float* from, const Half* __restrict chance, int64_t count,
                            uint16_t* __restrict to) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
    const Half* __restrict halves = reinterpret_cast<const Half*>(from);
    for (int64_t c = 0; c < count; ++c) {
        const uint16_t low = halves[2 * c], high = halves[2 * c + 1];
        const bool carried = uint16_t(low + chance[c]) < low;
        // Finite values saturate; infinity and NaN, quiet after any arithmetic, stay.
        to[c] = uint16_t(high + (carried & ((high & 0x7FFF) < 0x7F7F)));
    }
}

// For finite values; the others are `special_float16`.
inline uint16_t narrow_float16(float value, uint32_t chance) {
    uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7FFFFFFF;
    // In units of 2^-37 below 2^-14, above in the last place of a float with float16's bias.
    uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude) + 0x1p-14f) - (113 << 23);
    uint32_t exact = magnitude < 0x38800000 ? small : magnitude - (112 << 23);
    uint32_t finite = std::min(exact + (chance & 0x1FFF), 0x0F7FE000u) >> 13;
    return uint16_t(finite | (bits >> 16 & 0x8000));
}

inline uint16_t special_float16(float value) {
    return uint16_t((value == value ? 0x7C00 : 0x7E00) | (bits_as<uint32_t>(value) >> 16 & 0x8000));
}

inline bool all_finite(const float* __restrict values, int64_t count) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i)
        largest = std::max(largest, bits_as<uint32_t>(values[i]) & 0x7FFFFFFF);
    return largest < 0x7F800000;
}

struct alignas(64) Line {  // of the cache: a vector that straddles two is read twice
    float values[16];
};

// One thread's buffers: four rows, and the random bits of one.
class Buffers {
public:
    explicit Buffers(int64_t dim)
        : dim_(dim),
          groups_((dim + 3) / 4),
          lines_(dim / 16 + 2),  // one more than a row needs: at 4 KiB apart, buffers would collide
          floats_(new Line[4 * lines_]),
          hashes_(new uint64_t[groups_]) {}

    float* at(int index) { return reinterpret_cast<float*>(floats_.get() + index * lines_); }

    void load(const Table& table, int64_t row, float* __restrict to) const {
        widen(table.data, table.type, row * dim_, dim_, to);
    }

    void store(const Table& table, int64_t row, int64_t global_row, const float* __restrict from) {
        if (table.type == FLOAT32) {
            std::memcpy(static_cast<float*>(table.data) + row * dim_, from, 4 * dim_);
            return;
        }
        const Half* __restrict chance = draw(extend(table.key, uint64_t(global_row)));
        uint16_t* __restrict to = static_cast<uint16_t*>(table.data) + row * dim_;
        if (table.type == BFLOAT16)
            narrow_bfloat16(from, chance, dim_, to);
        else if (all_finite(from, dim_))
            for (int64_t c = 0; c < dim_; ++c) to[c] = narrow_float16(from[c], chance[c]);
        else
            for (int64_t c = 0; c < dim_; ++c)
                to[c] = std::isfinite(from[c]) ? narrow_float16(from[c], chance[c])
                                               : special_float16(from[c]);
    }

private:
    // Sixteen random bits for each column of a row: four columns share a hash.
    const Half* draw(uint64_t row_key) {
        uint64_t* __restrict hash = hashes_.get();
        for (int64_t group = 0; group < groups_; ++group) hash[group] = extend(row_key, group);
        return reinterpret_cast<const Half*>(hash);
    }

    int64_t dim_, groups_, lines_;
    std::unique_ptr<Line[]> floats_;
    std::unique_ptr<uint64_t[]> hashes_;
};

// The gradient of a row, without its part along the row, in `to`.
void turn(const Slice& slice, int64_t row, const float* __restrict centre, float* __restrict to) {
    const int64_t dim = slice.dim, start = row * dim;
    const Table& table = slice.gradient;
    if (!slice.along || table.type == FLOAT16) {
        widen(table.data, table.type, start, dim, to);
        if (!slice.along) return;
    }
    const float along = slice.along[row];
    if (table.type == FLOAT32) {
        const float* __restrict from = static_cast<const float*>(table.data) + start;
        for (int64_t c = 0; c < dim; ++c) to[c] = from[c] - centre[c] * along;
    } else if (table.type == BFLOAT16) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(table.data) + start;
        for (int64_t c = 0; c < dim; ++c) to[c] = widen_bfloat16(from[c]) - centre[c] * along;
    } else {
        for (int64_t c = 0; c < dim; ++c) to[c] -= centre[c] * along;
    }
}

// The centre of a row, and the first `states` of its states, those that are as long.
inline void foresee_row(const Slice& slice, int64_t row, int states) {
    if (row >= slice.rows) return;
    const int64_t at = slice.at(row);
    foresee(slice.centre.data, slice.centre.type, at, slice.dim);
    for (int which = 0; which < states; ++which)
        foresee(slice.state[which].data, slice.state[which].type, at, slice.dim);
}

// Calls update(row of the tables, gradient, centre, buffers) for each row: the gradient without its
// part along the row in buffer 0, the centre in buffer 1. What `update` leaves there is the new
// centre. `states` is how many states are as long as a row.
template <class Update>
void for_each_row(const Slice& slice, float learning_rate, int states, Update update) {
    const int64_t dim = slice.dim;
    const int threads = slice.rows * dim < GRAIN ? 1 : int(slice.threads);
#pragma omp parallel num_threads(threads)
    {
        Buffers buffers(dim);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < slice.rows; ++row) {
            float* __restrict gradient = buffers.at(0);
            float* __restrict centre = buffers.at(1);
            const int64_t at = slice.at(row);
            foresee_row(slice, row + AHEAD, states);
            buffers.load(slice.centre, at, centre);
            turn(slice, row, centre, gradient);
            update(at, gradient, centre, buffers);
            if (learning_rate != 0) buffers.store(slice.centre, at, slice.number(at), centre);
        }
    }
}

}  // namespace

extern "C" void sgd(const Slice* slice, float learning_rate, float momentum, float weight_decay,
                    float nesterov) {
    const int64_t dim = slice->dim;
    const int states = momentum != 0;
    for_each_row(*slice, learning_rate, states, [=](int64_t row, const float* __restrict gradient,
                                                    float* __restrict centre, Buffers& buffers) {
        const auto decayed = [=](int64_t c) {
            return weight_decay != 0 ? gradient[c] + centre[c] * weight_decay : gradient[c];
        };
        if (momentum == 0) {
            for (int64_t c = 0; c < dim; ++c) centre[c] -= decayed(c) * learning_rate;
            return;
        }
        float* __restrict kept = buffers.at(2);
        buffers.load(slice->state[0], row, kept);
        for (int64_t c = 0; c < dim; ++c) {
            const float g = decayed(c);
            kept[c] = kept[c] * momentum + g;
            const float direction = nesterov != 0 ? g + kept[c] * momentum : kept[c];
            centre[c] -= direction * learning_rate;
        }
        buffers.store(slice->state[0], row, slice->number(row), kept);
    });
}

extern "C" void adamw(const Slice* slice, float learning_rate, float mean_share, float square_kept,
                      float square_share, float step_size, float inverse_spread, float eps,
                      float decay) {
    const int64_t dim = slice->dim;
    for_each_row(*slice, learning_rate, 2, [=](int64_t row, const float* __restrict gradient,
                                               float* __restrict centre, Buffers& buffers) {
        float* __restrict mean = buffers.at(2);
        float* __restrict square = buffers.at(3);
        buffers.load(slice->state[0], row, mean);
        buffers.load(slice->state[1], row, square);
        for (int64_t c = 0; c < dim; ++c) {
            const float g = gradient[c];
            mean[c] += (g - mean[c]) * mean_share;
            square[c] = square[c] * square_kept + (g * g) * square_share;
            const float denominator = std::sqrt(square[c]) * inverse_spread + eps;
            centre[c] = centre[c] * decay - mean[c] * step_size / denominator;
        }
        buffers.store(slice->state[0], row, slice->number(row), mean);
        buffers.store(slice->state[1], row, slice->number(row), square);
    });
}

extern "C" void row_wise(const Slice* slice, float learning_rate, float kept, float share,
                         float inverse_dim, float eps, float decay) {
    const int64_t dim = slice->dim;
    float* squares = static_cast<float*>(slice->state[0].data);
    for_each_row(*slice, learning_rate, 0, [=](int64_t row, const float* __restrict gradient,
                                               float* __restrict centre, Buffers& buffers) {
        float* __restrict sum = buffers.at(2);
        for (int64_t c = 0; c < dim; ++c) sum[c] = gradient[c] * gradient[c];
        for (int64_t width = dim; width > 1; width -= width / 2) {
            const int64_t half = width / 2;
            const float* right = sum + width - half;
#pragma GCC ivdep
            for (int64_t c = 0; c < half; ++c) sum[c] += right[c];
        }
        const float square = squares[row] * kept + sum[0] * inverse_dim * share;
        squares[row] = square;
        const float rate = 1 / (std::sqrt(square) + eps) * learning_rate;
        for (int64_t c = 0; c < dim; ++c) centre[c] = centre[c] * decay - gradient[c] * rate;
    });
}

// Rows after the steps they missed: each row and its state times its own 2 x 2 `matrix`
// [rows, 4], rounded as they are kept. `states` counts them, `wide` says whether one is as long as a
// row or one number. Both are written back; or, to `to` [rows, dim], the rows alone.
extern "C" void catch_up(const Slice* slice, const float* matrix, int64_t states, int64_t wide,
                         void* to) {
    const int64_t dim = slice->dim;
    const Table &centres = slice->centre, &kept = slice->state[0];
    const Table out{to, centres.key, centres.type};
    const int threads = slice->rows * dim < GRAIN ? 1 : int(slice->threads);
#pragma omp parallel num_threads(threads)
    {
        Buffers buffers(dim);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < slice->rows; ++row) {
            const float a = matrix[4 * row], b = matrix[4 * row + 1];
            const float c = matrix[4 * row + 2], d = matrix[4 * row + 3];
            const int64_t at = slice->at(row), number = slice->number(at);
            float* __restrict centre = buffers.at(0);
            float* __restrict state = buffers.at(1);
            float* __restrict moved = buffers.at(2);
            foresee_row(*slice, row + AHEAD, states && wide);
            buffers.load(centres, at, centre);
            if (states && wide) {
                buffers.load(kept, at, state);
                for (int64_t i = 0; i < dim; ++i) moved[i] = centre[i] * a + state[i] * b;
                if (!to) {
                    for (int64_t i = 0; i < dim; ++i) state[i] = state[i] * d + centre[i] * c;
                    buffers.store(kept, at, number, state);
                }
            } else {
                for (int64_t i = 0; i < dim; ++i) moved[i] = centre[i] * a;
                if (states && !to) static_cast<float*>(kept.data)[at] *= d;
            }
            buffers.store(to ? out : centres, to ? row : at, number, moved);
        }
    }
}

// The first values of rows of these global numbers, float32 [rows, dim].
extern "C" void initial_rows(float* to, const int64_t* numbers, int64_t rows, int64_t dim,
                             uint64_t seed_key, float scale, int64_t threads) {
    const int count = rows * dim < GRAIN ? 1 : int(threads);
#pragma omp parallel for num_threads(count) schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        const uint64_t key = extend(seed_key, uint64_t(numbers[row]));
        float* __restrict out = to + row * dim;
        for (int64_t c = 0; c < dim; ++c) {
            uint64_t halves = 0;
            for (int64_t draw = 0; draw < 3; ++draw) {
                const uint64_t bits = extend(key, uint64_t(draw * dim + c + 1));
                halves += (bits & 0x0000FFFF0000FFFF) + (bits >> 16 & 0x0000FFFF0000FFFF);
            }
            const int32_t total = int32_t(halves & 0xFFFFFFFF) + int32_t(halves >> 32);
            out[c] = float(total - 6 * 65535) * scale;
        }
    }
}
