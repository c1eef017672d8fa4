// The first numbers of a keyed permutation (sampling/permutation.py), in ascending order, on a CPU.
//
// The same integers as there. The round functions' tables are made anew for each draw. Places go through the rounds a few at a time, so that the compiler
// makes vectors of them; the numbers become bits of a set, which is read in order: no sort. No torch
// headers: a C interface, mirrored in native_draw.py.

#include <cstdint>
#include <memory>

struct Network {
    uint64_t key;
    int64_t rounds, rows, columns, size;
};

namespace {

constexpr int64_t SPAN = 256;
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

inline uint64_t extend(uint64_t key, uint64_t value) {
    key += value * GOLDEN;
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB;
    return key ^ (key >> 31);
}

// [rounds, columns]: what each round adds to one coordinate, by the other.
std::unique_ptr<int32_t[]> round_functions(const Network& network) {
    std::unique_ptr<int32_t[]> tables(new int32_t[network.rounds * network.columns]);
    for (int64_t round = 0; round < network.rounds; ++round) {
        const uint64_t key = extend(network.key, uint64_t(round));
        const uint64_t side = uint64_t(round % 2 == 0 ? network.rows : network.columns);
        int32_t* __restrict table = tables.get() + round * network.columns;
        for (int64_t value = 0; value < network.columns; ++value)
            table[value] = int32_t((extend(key, uint64_t(value)) >> 33) * side >> 31);
    }
    return tables;
}

inline int32_t added(int32_t value, int32_t change, int32_t side) {
    const int32_t sum = value + change;
    return sum >= side ? sum - side : sum;
}

void through(const Network& network, const int32_t* tables, int64_t count, int32_t* __restrict row,
             int32_t* __restrict column) {
    const int32_t rows = int32_t(network.rows), columns = int32_t(network.columns);
    for (int64_t round = 0; round < network.rounds; ++round) {
        const int32_t* __restrict table = tables + round * network.columns;
        if (round % 2 == 0)
            for (int64_t i = 0; i < count; ++i) row[i] = added(row[i], table[column[i]], rows);
        else
            for (int64_t i = 0; i < count; ++i) column[i] = added(column[i], table[row[i]], columns);
    }
}

}  // namespace

// Writes those of the first `count` numbers that lie in [first, last), but the `known`, to `to` and
// how many they are to `found`.
extern "C" void first_numbers(const Network* network, int64_t count, int64_t first, int64_t last,
                              const int64_t* known, int64_t num_known, int64_t* to,
                              int64_t* found) {
    const std::unique_ptr<int32_t[]> tables = round_functions(*network);
    const std::unique_ptr<uint64_t[]> set(new uint64_t[(last - first + 63) / 64]());
    int32_t row[SPAN], column[SPAN];
    for (int64_t begin = 0; begin < count; begin += SPAN) {
        const int64_t many = count - begin < SPAN ? count - begin : SPAN;
        int64_t r = begin / network->columns, c = begin % network->columns;
        for (int64_t i = 0; i < many; ++i) {
            row[i] = int32_t(r), column[i] = int32_t(c);
            if (++c == network->columns) c = 0, ++r;
        }
        through(*network, tables.get(), many, row, column);
        for (int64_t i = 0; i < many; ++i) {
            int64_t number = row[i] * network->columns + column[i];
            while (number >= network->size) {
                through(*network, tables.get(), 1, row + i, column + i);
                number = row[i] * network->columns + column[i];
            }
            if (number >= first && number < last)
                set[(number - first) / 64] |= uint64_t(1) << ((number - first) % 64);
        }
    }
    for (int64_t i = 0; i < num_known; ++i)
        if (known[i] >= first && known[i] < last)
            set[(known[i] - first) / 64] &= ~(uint64_t(1) << ((known[i] - first) % 64));
    int64_t* end = to;
    for (int64_t word = 0; word * 64 < last - first; ++word)
        for (uint64_t bits = set[word]; bits; bits &= bits - 1)
            *end++ = first + word * 64 + __builtin_ctzll(bits);
    *found = end - to;
}
