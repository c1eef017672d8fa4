// A keyed permutation (sampling/permutation.py) on a CPU: its first numbers, in ascending order, the
// places of some, and where so many others end.
//
// The same integers as there. Places go through the rounds a few at a time, so that the compiler
// makes vectors of them; the numbers become bits of a set, which is read in order: no sort. No torch
// headers: a C interface, mirrored in native_draw.py.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

struct Network {
    uint64_t key;
    int64_t rounds, rows, columns, size;
};

namespace {

constexpr int64_t SPAN = 256, SLACK = 8;
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

inline uint64_t extend(uint64_t key, uint64_t value) {
    key += value * GOLDEN;
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB;
    return key ^ (key >> 31);
}

inline int32_t added(int32_t value, int32_t change, int32_t side) {
    const uint32_t sum = uint32_t(value) + uint32_t(change);
    return int32_t(std::min(sum, sum - uint32_t(side)));  // below the side the latter is huge
}

// What a round adds to one coordinate, in [0, side), by the other.
inline int32_t change(uint32_t value, uint32_t low, uint32_t high, int32_t side) {
    uint32_t hash = value + low;
    hash = (hash ^ hash >> 16) * 0x7FEB352D + high;
    hash = (hash ^ hash >> 15) * 0x846CA68B;
    return int32_t(uint64_t(hash) * uint64_t(side) >> 32);
}

void through(const Network& network, int64_t count, int32_t* __restrict row,
             int32_t* __restrict column) {
    const int32_t rows = int32_t(network.rows), columns = int32_t(network.columns);
    for (int64_t round = 0; round < network.rounds; ++round) {
        const uint64_t key = extend(network.key, uint64_t(round));
        const uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
        if (round % 2 == 0)
            for (int64_t i = 0; i < count; ++i)
                row[i] = added(row[i], change(uint32_t(column[i]), low, high, rows), rows);
        else
            for (int64_t i = 0; i < count; ++i)
                column[i] = added(column[i], change(uint32_t(row[i]), low, high, columns), columns);
    }
}

// The place of one number: the rounds backwards, until it is below the size.
int64_t place_of(const Network& network, const std::vector<uint64_t>& keys, int64_t number) {
    const int32_t rows = int32_t(network.rows), columns = int32_t(network.columns);
    do {
        int32_t row = int32_t(number / columns), column = int32_t(number % columns);
        for (int64_t round = network.rounds - 1; round >= 0; --round) {
            const uint32_t low = uint32_t(keys[round]), high = uint32_t(keys[round] >> 32);
            // The side's rest, added, takes the change away; nothing for a change of 0.
            if (round % 2 == 0)
                row = added(row, rows - change(uint32_t(column), low, high, rows), rows);
            else
                column = added(column, columns - change(uint32_t(row), low, high, columns), columns);
        }
        number = int64_t(row) * columns + column;
    } while (number >= network.size);
    return number;
}

}  // namespace

// Writes those of the first `count` numbers that lie in [first, last), but the `known`, to `to` and
// how many they are to `found`. `to` has room for SLACK more.
extern "C" void first_numbers(const Network* network, int64_t count, int64_t first, int64_t last,
                              const int64_t* known, int64_t num_known, int64_t* to,
                              int64_t* found) {
    const std::unique_ptr<uint64_t[]> set(new uint64_t[(last - first + 63) / 64]());
    int32_t row[SPAN], column[SPAN];
    int64_t number[SPAN];
    for (int64_t begin = 0; begin < count; begin += SPAN) {
        const int64_t many = std::min(count - begin, SPAN);
        int64_t r = begin / network->columns, c = begin % network->columns;
        for (int64_t i = 0; i < many; ++r, c = 0) {
            const int64_t run = std::min(many - i, network->columns - c);
            std::fill_n(row + i, run, int32_t(r));
            std::iota(column + i, column + i + run, int32_t(c));
            i += run;
        }
        through(*network, many, row, column);
        bool walked = true;
        for (int64_t i = 0; i < many; ++i) {
            number[i] = row[i] * network->columns + column[i];
            walked &= number[i] < network->size;
        }
        for (int64_t i = 0; !walked && i < many; ++i)
            while (number[i] >= network->size) {
                through(*network, 1, row + i, column + i);
                number[i] = row[i] * network->columns + column[i];
            }
        for (int64_t i = 0; i < many; ++i)
            if (number[i] >= first && number[i] < last)
                set[(number[i] - first) / 64] |= uint64_t(1) << ((number[i] - first) % 64);
    }
    for (int64_t i = 0; i < num_known; ++i)
        if (known[i] >= first && known[i] < last)
            set[(known[i] - first) / 64] &= ~(uint64_t(1) << ((known[i] - first) % 64));
    // A few at a time and some too many: how many a word has cannot be foreseen.
    int64_t* end = to;
    for (int64_t base = first; base < last; base += 64) {
        uint64_t bits = set[(base - first) / 64];
        const int64_t many = __builtin_popcountll(bits);
        for (int64_t done = 0; done < many; done += SLACK)
            for (int64_t i = 0; i < SLACK; ++i) {
                end[done + i] = base + __builtin_ctzll(bits | uint64_t(1) << 63);
                bits &= bits - 1;
            }
        end += many;
    }
    *found = end - to;
}

// Writes the places of `count` numbers to `to`.
extern "C" void places_of(const Network* network, const int64_t* number, int64_t count,
                          int64_t* to) {
    std::vector<uint64_t> keys(network->rounds);
    for (int64_t round = 0; round < network->rounds; ++round)
        keys[round] = extend(network->key, uint64_t(round));
    for (int64_t i = 0; i < count; ++i) to[i] = place_of(*network, keys, number[i]);
}

// Writes the place behind the first `wanted` numbers that are not among the `known` to `end`.
extern "C" void end_of_others(const Network* network, int64_t wanted, const int64_t* known,
                              int64_t num_known, int64_t* end) {
    std::vector<int64_t> place(num_known);
    places_of(network, known, num_known, place.data());
    std::sort(place.begin(), place.end());
    // Before the k-th of the known there are place - k others: more and more.
    int64_t passed = 0;
    while (passed < num_known && place[passed] - passed < wanted) ++passed;
    *end = wanted + passed;
}
