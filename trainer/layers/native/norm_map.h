// A channels-last map as rows of numbers, cut into blocks that fit a core's cache.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

enum Type : int32_t { FLOAT32, BFLOAT16, FLOAT64 };

struct Map {
    int64_t rows, channels, threads;
    Type type;  // of the map's numbers; a channel's are float32, or float64 where those are
};

namespace {

constexpr int64_t BLOCK_NUMBERS = 1 << 14;  // 64 KiB of float32
constexpr int64_t GRAIN = 1 << 15;          // numbers under which starting threads takes longer

struct bfloat16 {
    uint16_t bits;
};

template <class T>
struct Sums {
    typedef T type;
};
template <>
struct Sums<bfloat16> {
    typedef float type;
};
template <class T>
using Wide = typename Sums<T>::type;

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(bfloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    __builtin_memcpy(&wide, &bits, 4);
    return wide;
}

inline void narrow(float value, float& to) { to = value; }
inline void narrow(double value, double& to) { to = value; }
inline void narrow(float value, bfloat16& to) {  // to the nearest, ties to even, as torch rounds
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    to.bits = uint16_t(value == value ? rounded : 0x7FC0);
}

struct Blocks {
    int64_t rows, most, count;
    explicit Blocks(const Map& map)
        : rows(map.rows),
          most(std::max<int64_t>(1, BLOCK_NUMBERS / map.channels)),
          count((map.rows + most - 1) / most) {}
    int64_t first(int64_t block) const { return block * most; }
    int64_t last(int64_t block) const { return std::min(rows, (block + 1) * most); }
};

// Calls work(block), the last block first where `back`: it was read last, and may be in a cache.
template <class Work>
void for_each_block(const Map& map, const Blocks& blocks, bool back, Work work) {
    const int threads = map.rows * map.channels < GRAIN ? 1 : int(map.threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t at = 0; at < blocks.count; ++at) work(back ? blocks.count - 1 - at : at);
}

// Adds up each channel's sums over blocks, [sums][channels] a block, in their order.
template <class W>
std::vector<double> total(const std::vector<W>& parts, int64_t blocks, int64_t numbers) {
    std::vector<double> sums(numbers);
    for (int64_t block = 0; block < blocks; ++block)
#pragma GCC ivdep
        for (int64_t i = 0; i < numbers; ++i) sums[i] += double(parts[block * numbers + i]);
    return sums;
}

// Calls work(a number of the map's type).
template <class Work>
void by_type(Type type, Work work) {
    if (type == FLOAT32)
        work(float());
    else if (type == BFLOAT16)
        work(bfloat16());
    else
        work(double());
}

}  // namespace
