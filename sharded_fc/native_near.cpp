// The signatures of rows (sampling/signatures.py) and the search in lists of them
// (sampling/near_index.py), on a CPU.
//
// The same bits as there: a row's transform is additions alone, in the same order; distances are
// integers. No torch headers: a C interface, mirrored in native_near.py.

#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "native_types.h"

struct Transform {
    int64_t dim, columns;      // columns: a power of two, at least dim
    int64_t directions, bits;  // of the columns, how many make lists and how many make codes
    const float* flips;        // [dim], 1 or -1
    int64_t threads;
};

struct Lists {  // list l holds count[l] members from start[l] on, with room up to start[l + 1]
    const int64_t* start;
    int64_t* count;
    int32_t* member;  // [places]: rows, counted within the partition
    uint64_t* code;   // [words, places]
    int32_t* place;   // [rows]: where each is a member
    int32_t* list;    // [rows]: of which
    int64_t places, words, first_row, threads;
};

namespace {

constexpr int64_t LANES = 16;  // strides below it are taken where they lie apart
constexpr int64_t SPAN = 256;
constexpr int KEY_BITS = 40;

void stage(float* __restrict value, int64_t count, int64_t stride) {
    for (int64_t begin = 0; begin < count; begin += 2 * stride)
        for (int64_t i = begin; i < begin + stride; ++i) {
            const float a = value[i], b = value[i + stride];
            value[i] = a + b, value[i + stride] = a - b;
        }
}

// The Walsh-Hadamard transform of `count` numbers, its places in the order of sampling/signatures.py.
void transform(float* __restrict value, float* __restrict scratch, int64_t count) {
    if (count <= LANES) {
        for (int64_t stride = 1; stride < count; stride *= 2) stage(value, count, stride);
        return;
    }
    for (int64_t stride = LANES; stride < count; stride *= 2) stage(value, count, stride);
    const int64_t rows = count / LANES;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t lane = 0; lane < LANES; ++lane)
            scratch[lane * rows + row] = value[row * LANES + lane];
    for (int64_t lane = 1; lane < LANES; lane *= 2) stage(scratch, count, lane * rows);
    std::memcpy(value, scratch, 4 * count);
}

// 2 i, or 2 i + 1 where it is negative, of the first of the largest numbers in size.
int32_t nearest(const float* __restrict value, int64_t count) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i)
        largest = std::max(largest, bits_as<uint32_t>(value[i]) & 0x7FFFFFFF);
    int64_t at = 0;
    while ((bits_as<uint32_t>(value[at]) & 0x7FFFFFFF) != largest) ++at;
    return int32_t(2 * at + (value[at] < 0));
}

// Rows' transforms, one at a time in a thread's buffer: use(row, its transform).
template <class Use>
void for_each_transform(const Transform& how, const void* table, Type type, const int64_t* index,
                        int64_t rows, Use use) {
    const int64_t dim = how.dim, columns = how.columns;
    const int threads = rows * dim < GRAIN ? 1 : int(how.threads);
#pragma omp parallel num_threads(threads)
    {
        std::unique_ptr<float[]> buffers(new float[2 * columns]);
        float* __restrict value = buffers.get();
        const float* __restrict flips = how.flips;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            widen(table, type, (index ? index[row] : row) * dim, dim, value);
            for (int64_t c = 0; c < dim; ++c) value[c] *= flips[c];
            std::fill(value + dim, value + columns, 0.0f);
            transform(value, value + columns, columns);
            use(row, value);
        }
    }
}

// One bit for each of up to 64 numbers: whether it is not negative.
uint64_t signs(const float* __restrict value, int64_t count) {
    uint64_t bits = 0;
    int64_t c = 0;
#ifdef __AVX512F__
    for (; c + 16 <= count; c += 16)
        bits |= uint64_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(value + c), _mm512_setzero_ps(),
                                            _CMP_GE_OQ))
                << c;
#endif
    for (; c < count; ++c) bits |= uint64_t(value[c] >= 0) << c;
    return bits;
}

}  // namespace

// The transforms themselves, float32 [rows, columns].
extern "C" void rotate_rows(const Transform* how, const float* table, int64_t rows, float* to) {
    for_each_transform(*how, table, FLOAT32, nullptr, rows, [=](int64_t row, const float* value) {
        std::memcpy(to + row * how->columns, value, 4 * how->columns);
    });
}

// Each row's list in `list` [rows] and code in `code` [words, rows].
extern "C" void sign_rows(const Transform* how, const void* table, Type type, const int64_t* index,
                          int64_t rows, int32_t* list, uint64_t* code) {
    const int64_t words = (how->bits + 63) / 64;
    for_each_transform(*how, table, type, index, rows, [=](int64_t row, const float* value) {
        list[row] = nearest(value, how->directions);
        for (int64_t word = 0; word < words; ++word)
            code[word * rows + row] =
                signs(value + 64 * word, std::min<int64_t>(how->bits - 64 * word, 64));
    });
}

// Gives rows of a partition other lists and codes; how many of them, up to the first that a list
// has no room for.
extern "C" void move_rows(const Lists* lists, const int64_t* index, int64_t rows,
                          const int32_t* list, const uint64_t* code, int64_t* moved) {
    for (*moved = 0; *moved < rows; ++*moved) {
        const int64_t row = index[*moved], from = lists->list[row], to = list[*moved];
        int64_t place = lists->place[row];
        if (from != to) {
            const int64_t free = lists->start[to] + lists->count[to];
            if (free == lists->start[to + 1]) return;
            const int64_t last = lists->start[from] + --lists->count[from];
            const int32_t other = lists->member[last];
            lists->member[place] = other;
            lists->place[other] = int32_t(place);
            for (int64_t word = 0; word < lists->words; ++word) {
                uint64_t* of_word = lists->code + word * lists->places;
                of_word[place] = of_word[last];
            }
            ++lists->count[to];
            lists->member[free] = int32_t(row);
            lists->list[row] = int32_t(to);
            lists->place[row] = int32_t(free);
            place = free;
        }
        for (int64_t word = 0; word < lists->words; ++word)
            lists->code[word * lists->places + place] = code[word * rows + *moved];
    }
}

// For each query the `most` members of its lists whose codes differ least from its own, as
// (distance, global row) in one integer, ascending; the largest integer where there are fewer.
// `range`, where it is given, are the global rows [first, last) that each query may find.
extern "C" void search_lists(const Lists* lists, const int32_t* probed, const uint64_t* query_code,
                             const int64_t* range, int64_t queries, int64_t probes, int64_t most,
                             int64_t* found) {
#pragma omp parallel for num_threads(int(lists->threads)) schedule(dynamic)
    for (int64_t query = 0; query < queries; ++query) {
        int64_t* best = found + query * most;
        std::fill(best, best + most, std::numeric_limits<int64_t>::max());
        const int64_t first = range ? range[2 * query] : 0;
        const int64_t last = range ? range[2 * query + 1] : std::numeric_limits<int64_t>::max();
        uint64_t distance[SPAN];
        for (int64_t probe = 0; probe < probes; ++probe) {
            const int32_t list = probed[query * probes + probe];
            const int64_t end = lists->start[list] + lists->count[list];
            for (int64_t begin = lists->start[list]; begin < end; begin += SPAN) {
                const int64_t count = std::min(SPAN, end - begin);
                for (int64_t i = 0; i < count; ++i) distance[i] = 0;
                for (int64_t word = 0; word < lists->words; ++word) {
                    const uint64_t own = query_code[word * queries + query];
                    const uint64_t* __restrict code = lists->code + word * lists->places + begin;
                    for (int64_t i = 0; i < count; ++i)
                        distance[i] += uint64_t(__builtin_popcountll(code[i] ^ own));
                }
                uint64_t worst = uint64_t(best[most - 1]) >> KEY_BITS;
                for (int64_t i = 0; i < count; ++i) {
                    if (distance[i] > worst) continue;
                    const int64_t row = lists->first_row + lists->member[begin + i];
                    const int64_t key = int64_t(distance[i] << KEY_BITS) | row;
                    if (key >= best[most - 1] || row < first || row >= last) continue;
                    int64_t at = most - 1;
                    for (; at && best[at - 1] > key; --at) best[at] = best[at - 1];
                    best[at] = key;
                    worst = uint64_t(best[most - 1]) >> KEY_BITS;
                }
            }
        }
    }
}
