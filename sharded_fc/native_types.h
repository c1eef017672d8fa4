// What both native sources know: how numbers are kept, widened to float and rounded back.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t GRAIN = 32768;  // elements under which torch, too, keeps to one thread

enum Type : int32_t { FLOAT32, BFLOAT16, FLOAT16 };

constexpr int64_t AHEAD = 2;  // rows: fewer come late, more displace one another

// Has a row [dim] on its way while those before it are worked on: where rows lie here and there,
// the CPU does not foresee the next.
inline void foresee(const void* table, Type type, int64_t row, int64_t dim) {
    constexpr int64_t LINE = 64;
    const int64_t bytes = dim * (type == FLOAT32 ? 4 : 2);
    const char* start = static_cast<const char*>(table) + row * bytes;
    for (int64_t at = 0; at < bytes; at += LINE) __builtin_prefetch(start + at, 0, 2);
}

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float widen_bfloat16(uint16_t bits) { return bits_as<float>(uint32_t(bits) << 16); }

// No step meets a denormal float, which some CPUs are slow at.
inline float widen_float16(uint16_t bits) {
    uint32_t magnitude = uint32_t(bits & 0x7FFF) << 13, exponent = magnitude & 0x0F800000;
    uint32_t normal = magnitude + (112 << 23);  // the exponents' biases differ by 112
    uint32_t special = magnitude + (224 << 23);
    uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude + (113 << 23)) - 0x1p-14f);
    uint32_t finite = exponent ? normal : small;
    uint32_t wide = exponent == 0x0F800000 ? special : finite;
    return bits_as<float>(wide | uint32_t(bits & 0x8000) << 16);
}

// To the nearest, ties to even, as torch rounds.
inline uint16_t nearest_bfloat16(float value) {
    uint32_t bits = bits_as<uint32_t>(value);
    uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return uint16_t(value == value ? rounded : 0x7FC0);
}

inline void round_bfloat16(const float* __restrict from, int64_t count, uint16_t* __restrict to) {
    for (int64_t i = 0; i < count; ++i) to[i] = nearest_bfloat16(from[i]);
}

// `count` numbers kept as `type`, widened.
inline void widen(const void* from, Type type, int64_t start, int64_t count,
                  float* __restrict to) {
    if (type == FLOAT32) {
        std::memcpy(to, static_cast<const float*>(from) + start, 4 * count);
        return;
    }
    const uint16_t* __restrict bits = static_cast<const uint16_t*>(from) + start;
    if (type == BFLOAT16)
        for (int64_t i = 0; i < count; ++i) to[i] = widen_bfloat16(bits[i]);
    else {
        int64_t i = 0;
#ifdef __AVX512F__
        for (; i + 16 <= count; i += 16)
            _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256(
                                         reinterpret_cast<const __m256i*>(bits + i))));
#endif
        for (; i < count; ++i) to[i] = widen_float16(bits[i]);
    }
}

// float16 `bits` as bfloat16: none becomes a denormal float, which the instruction would flush.
inline void float16_to_bfloat16(const uint16_t* __restrict bits, int64_t count,
                                uint16_t* __restrict to) {
    int64_t i = 0;
#ifdef __AVX512BF16__
    for (; i + 16 <= count; i += 16) {
        const __m512 wide = _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + i)));
        const __m256bh rounded = _mm512_cvtneps_pbh(wide);
        std::memcpy(to + i, &rounded, sizeof rounded);
    }
#endif
    for (; i < count; ++i) to[i] = nearest_bfloat16(widen_float16(bits[i]));
}

}  // namespace
