// What the layers' sources know: vectors as wide as this CPU's registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// Numbers anywhere in memory, LANES of them at a time.
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// To a multiple of 64 bytes, past the caches where this CPU can; `end_stream` before others read it.
inline void stream(float* to, Vector value) {
#ifdef __AVX512F__
    _mm512_stream_ps(to, __m512(value));
#else
    store(to, value);
#endif
}
inline void end_stream() {
#ifdef __AVX512F__
    _mm_sfence();
#endif
}

// The first `count` lanes; the others are zero, and are not read or written.
inline Vector load_some(const float* from, int64_t count) {
    float lanes[LANES] = {};
    std::memcpy(lanes, from, 4 * std::clamp<int64_t>(count, 0, LANES));
    return load(lanes);
}
inline void store_some(float* to, Vector value, int64_t count) {
    float lanes[LANES];
    store(lanes, value);
    std::memcpy(to, lanes, 4 * std::clamp<int64_t>(count, 0, LANES));
}

// The right half onto the left, until one number is left.
template <int HALF = LANES / 2>
inline float sum(Vector value) {
    if constexpr (HALF == 0) {
        return value[0];
    } else {
        Bits right;
        for (int i = 0; i < LANES; ++i) right[i] = (i + HALF) % LANES;
        return sum<HALF / 2>(value + __builtin_shuffle(value, right));
    }
}

}  // namespace
