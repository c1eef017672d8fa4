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
constexpr int64_t LEAST = 2048;  // numbers, for which a thread is worth its start
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

// The rounds backwards. The side's rest, added, takes a change away; nothing for a change of 0.
void back_through(const Network& network, int64_t count, int32_t* __restrict row,
                  int32_t* __restrict column) {
    const int32_t rows = int32_t(network.rows), columns = int32_t(network.columns);
    for (int64_t round = network.rounds - 1; round >= 0; --round) {
        const uint64_t key = extend(network.key, uint64_t(round));
        const uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
        if (round % 2 == 0)
            for (int64_t i = 0; i < count; ++i)
                row[i] = added(row[i], rows - change(uint32_t(column[i]), low, high, rows), rows);
        else
            for (int64_t i = 0; i < count; ++i)
                column[i] =
                    added(column[i], columns - change(uint32_t(row[i]), low, high, columns), columns);
    }
}

// Writes the numbers at rows and columns; those beyond the size are walked on until they are back.
template <class Number, class Walk>
void write_numbers(const Network& network, int64_t count, int32_t* row, int32_t* column,
                   Number* number, Walk walk) {
    const Number columns = Number(network.columns), size = Number(network.size);
    walk(network, count, row, column);
    Number largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        number[i] = row[i] * columns + column[i];
        largest = std::max(largest, number[i]);
    }
    for (int64_t i = 0; largest >= size && i < count; ++i)
        while (number[i] >= size) {
            walk(network, 1, row + i, column + i);
            number[i] = row[i] * columns + column[i];
        }
}

}  // namespace

// Writes the places of `count` numbers to `to`.
extern "C" void places_of(const Network* network, const int64_t* number, int64_t count,
                          int64_t* to) {
    int32_t row[SPAN], column[SPAN];
    for (int64_t begin = 0; begin < count; begin += SPAN) {
        const int64_t many = std::min(count - begin, SPAN);
        for (int64_t i = 0; i < many; ++i) {
            row[i] = int32_t(number[begin + i] / network->columns);
            column[i] = int32_t(number[begin + i] % network->columns);
        }
        write_numbers(*network, many, row, column, to + begin, back_through);
    }
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

namespace {

// Sets the bits, counted from `first`, of the numbers at places in [begin, end).
template <class Number>
void mark(const Network& network, int64_t begin, int64_t end, int64_t first, uint64_t range,
          uint64_t* set) {
    int32_t row[SPAN], column[SPAN];
    Number number[SPAN];
    for (; begin < end; begin += SPAN) {
        const int64_t many = std::min(end - begin, SPAN);
        int64_t r = begin / network.columns, c = begin % network.columns;
        for (int64_t i = 0; i < many; ++r, c = 0) {
            const int64_t run = std::min(many - i, network.columns - c);
            std::fill_n(row + i, run, int32_t(r));
            std::iota(column + i, column + i + run, int32_t(c));
            i += run;
        }
        write_numbers(network, many, row, column, number, through);
        for (int64_t i = 0; i < many; ++i) {
            const uint64_t bit = number[i] - first;  // of those before the first: beyond the last
            if (bit < range) set[bit / 64] |= uint64_t(1) << bit % 64;
        }
    }
}

}  // namespace

// What is asked of `first_numbers`.
struct Wanted {
    Network network;
    const int64_t* step;  // with which the key is hashed on, if any
    int64_t count, others, first, last;
    const int64_t* known;
    int64_t num_known;
    int64_t* to;  // with room for SLACK more than there can be
    int64_t threads, found;
};

// Writes those of the first `count` numbers that lie in [first, last), but the `known`, to `to` and
// how many they are to `found`. With `others` the known do not count.
extern "C" void first_numbers(Wanted* wanted) {
    Network network = wanted->network;
    if (wanted->step) network.key = extend(network.key, uint64_t(*wanted->step));
    const int64_t first = wanted->first, last = wanted->last;
    int64_t count = wanted->count;
    if (wanted->others)
        end_of_others(&network, count, wanted->known, wanted->num_known, &count);
    const uint64_t range = last - first;
    const int64_t words = (range + 63) / 64;
    // Each thread has a set of its own: what a set costs must be little beside its numbers.
    const int64_t sets =
        std::clamp<int64_t>(count / std::max(LEAST, words / 4), 1, wanted->threads);
    const bool short_numbers = network.rows * network.columns >> 32 == 0;
    const std::unique_ptr<uint64_t[]> memory(new uint64_t[sets * words]());
    uint64_t* const set = memory.get();
#pragma omp parallel for num_threads(sets) schedule(static)
    for (int64_t part = 0; part < sets; ++part)
        (short_numbers ? mark<uint32_t> : mark<int64_t>)(
            network, count * part / sets, count * (part + 1) / sets, first, range,
            set + part * words);
    for (int64_t part = 1; part < sets; ++part)
        for (int64_t i = 0; i < words; ++i) set[i] |= set[part * words + i];
    for (int64_t i = 0; i < wanted->num_known; ++i) {
        const uint64_t bit = wanted->known[i] - first;
        if (bit < range) set[bit / 64] &= ~(uint64_t(1) << bit % 64);
    }
    // A few at a time and some too many: how many a word has cannot be foreseen.
    int64_t* end = wanted->to;
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
    wanted->found = end - wanted->to;
}
