// A depthwise product with weights of their own at every position, and its gradients, on a CPU.
//
// A target position adds up its taps: each a row of weights times one position of the source, the
// same rows for every image. Which taps a position has is the caller's table, so borders, strides
// and transposition cost nothing here. Channels lie innermost, and weights are loaded once for
// several images. Each number is computed by one thread in the order of the table, every operation
// rounded by itself: bits do not depend on the number of threads. No torch headers: a C interface,
// mirrored in tvconv.py.

#include <algorithm>
#include <cstdint>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "vectors.h"

struct Taps {
    int64_t positions;      // of the target
    int64_t rows;           // of weights, a position: where it has no tap they are not used
    const int64_t* first;   // [positions + 1], into the next two
    const int64_t* row;     // of the weights
    const int64_t* source;  // position of the source
};

enum Type : int32_t { FLOAT32, BFLOAT16 };

struct Maps {
    int64_t images, channels, source_positions, threads;
    Type type;  // of source and target; weights are float32
};

namespace {

constexpr int64_t SPAN = 16;  // positions that a thread takes at a time, or
constexpr int64_t SPAN_BYTES = 512 << 10;  // as many as have weights that stay in a core's cache
constexpr int64_t TAPS = 9;   // that share a load of the target's gradient
constexpr int64_t GRAIN = 1 << 18;  // products under which starting threads takes longer

template <int64_t N>
struct Count {
    static constexpr int64_t value = N;
};

// N numbers anywhere in memory.
template <class T, int64_t N>
struct Numbers {
    typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int64_t N>
using Some = typename Numbers<T, N>::type;

template <int64_t N>
inline Some<float, N> read(const float* from) {
    return *reinterpret_cast<const Some<float, N>*>(from);
}

template <int64_t N>
inline Some<float, N> read(const uint16_t* bfloat16) {
#ifdef __AVX512F__
    if constexpr (N == 16)  // GCC 12 widens halves of a register and joins them
        return (Some<float, N>)_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bfloat16))),
            16);
#endif
    const auto bits = *reinterpret_cast<const Some<uint16_t, N>*>(bfloat16);
    return (Some<float, N>)(__builtin_convertvector(bits, Some<uint32_t, N>) << 16);
}

template <int64_t N>
inline void write(float* to, Some<float, N> value) {
    *reinterpret_cast<Some<float, N>*>(to) = value;
}

// To the nearest, ties to even, as torch rounds.
template <int64_t N>
inline void write(uint16_t* to, Some<float, N> value) {
    const auto bits = (Some<uint32_t, N>)value;
    const Some<uint32_t, N> rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const auto number = (Some<uint32_t, N>)(value == value);
    const Some<uint32_t, N> kept = (rounded & number) | (0x7FC0 & ~number);
    *reinterpret_cast<Some<uint16_t, N>*>(to) = __builtin_convertvector(kept, Some<uint16_t, N>);
}

// Calls work(first, last) for spans of at most so many target positions, as many and as long for
// every thread.
template <class Work>
void for_each_span(const Taps& taps, const Maps& maps, int64_t most, Work work) {
    const int64_t products = taps.first[taps.positions] * maps.images * maps.channels;
    const int threads = products < GRAIN ? 1 : int(maps.threads);
    const int64_t rounds = (taps.positions + threads * most - 1) / (threads * most);
    const int64_t spans = rounds * threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t span = 0; span < spans; ++span)
        work(span * taps.positions / spans, (span + 1) * taps.positions / spans);
}

// Calls work(count, channel) for all channels, as many at a time as fit.
template <class Work>
inline void for_each_channel(int64_t channels, Work work) {
    int64_t channel = 0;
    for (; channel + LANES <= channels; channel += LANES) work(Count<LANES>(), channel);
    if (LANES > 4)
        for (; channel + 4 <= channels; channel += 4) work(Count<4>(), channel);
    for (; channel < channels; ++channel) work(Count<1>(), channel);
}

// The taps of IMAGES images, few enough for their neighbourhoods to stay in the cache, at
// positions first, ..., last - 1.
template <int64_t IMAGES, class T>
void add_up(const Taps& taps, const Maps& maps, const T* source, const float* weight, T* target,
            int64_t first, int64_t last) {
    const int64_t from_image = maps.source_positions * maps.channels;
    const int64_t to_image = taps.positions * maps.channels;
    for (int64_t position = first; position < last; ++position)
        for_each_channel(maps.channels, [&](auto count, int64_t channel) {
            constexpr int64_t N = decltype(count)::value;
            Some<float, N> sum[IMAGES] = {};
            for (int64_t tap = taps.first[position]; tap < taps.first[position + 1]; ++tap) {
                const auto by = read<N>(weight + taps.row[tap] * maps.channels + channel);
                const T* from = source + taps.source[tap] * maps.channels + channel;
                for (int64_t n = 0; n < IMAGES; ++n) sum[n] += by * read<N>(from + n * from_image);
            }
            T* to = target + position * maps.channels + channel;
            for (int64_t n = 0; n < IMAGES; ++n) write<N>(to + n * to_image, sum[n]);
        });
}

template <class T>
void add_up_all(const Taps& taps, const Maps& maps, const T* source, const float* weight,
                T* target) {
    const int64_t most = std::max(SPAN, SPAN_BYTES / (4 * taps.rows * maps.channels));
    for_each_span(taps, maps, most, [&](int64_t first, int64_t last) {
        int64_t n = 0;
        const auto some = [&](auto count) {
            add_up<decltype(count)::value>(taps, maps,
                                           source + n * maps.source_positions * maps.channels,
                                           weight, target + n * taps.positions * maps.channels,
                                           first, last);
            n += decltype(count)::value;
        };
        while (n + 4 <= maps.images) some(Count<4>());
        if (n + 2 <= maps.images) some(Count<2>());
        if (n < maps.images) some(Count<1>());
    });
}

// One position's products with the sources of N taps, over all images, for some channels.
template <int64_t N, int64_t CHANNELS, class T>
inline void correlate(const Taps& taps, const Maps& maps, const T* source, const T* target,
                      int64_t tap, float* weight) {
    Some<float, CHANNELS> sum[N] = {};
    int64_t at[N];
    for (int64_t i = 0; i < N; ++i) at[i] = taps.source[tap + i] * maps.channels;
    for (int64_t n = 0; n < maps.images; ++n) {
        const auto by = read<CHANNELS>(target + n * taps.positions * maps.channels);
        const T* from = source + n * maps.source_positions * maps.channels;
        for (int64_t i = 0; i < N; ++i) sum[i] += by * read<CHANNELS>(from + at[i]);
    }
    for (int64_t i = 0; i < N; ++i)
        write<CHANNELS>(weight + taps.row[tap + i] * maps.channels, sum[i]);
}

template <int64_t CHANNELS, class T, int64_t... I>
inline void correlate_some(int64_t count, std::integer_sequence<int64_t, I...>, const Taps& taps,
                           const Maps& maps, const T* source, const T* target, int64_t tap,
                           float* weight) {
    ((count == I + 1 ? correlate<I + 1, CHANNELS>(taps, maps, source, target, tap, weight)
                     : void()),
     ...);
}

template <class T>
void correlate_all(const Taps& taps, const Maps& maps, const T* source, const T* target,
                   float* weight) {
    const int64_t channels = maps.channels;
    for_each_span(taps, maps, SPAN, [&](int64_t first, int64_t last) {
        for (int64_t position = first; position < last; ++position) {
            const int64_t end = taps.first[position + 1];
            if (end - taps.first[position] < taps.rows)
                std::fill_n(weight + position * taps.rows * channels, taps.rows * channels, 0.0f);
            for_each_channel(channels, [&](auto count, int64_t channel) {
                for (int64_t tap = taps.first[position]; tap < end; tap += TAPS)
                    correlate_some<decltype(count)::value>(
                        std::min(end - tap, TAPS), std::make_integer_sequence<int64_t, TAPS>(),
                        taps, maps, source + channel, target + position * channels + channel, tap,
                        weight + channel);
            });
        }
    });
}

}  // namespace

// Images [images, positions, channels] from those of the source and weights [.., channels].
extern "C" void tvconv_add_up(const Taps* taps, const Maps* maps, const void* source,
                              const float* weight, void* target) {
    if (maps->type == FLOAT32)
        add_up_all(*taps, *maps, static_cast<const float*>(source), weight,
                   static_cast<float*>(target));
    else
        add_up_all(*taps, *maps, static_cast<const uint16_t*>(source), weight,
                   static_cast<uint16_t*>(target));
}

// The gradient of the weights [positions * rows, channels], from the target's.
extern "C" void tvconv_correlate(const Taps* taps, const Maps* maps, const void* source,
                                 const void* target, float* weight) {
    if (maps->type == FLOAT32)
        correlate_all(*taps, *maps, static_cast<const float*>(source),
                      static_cast<const float*>(target), weight);
    else
        correlate_all(*taps, *maps, static_cast<const uint16_t*>(source),
                      static_cast<const uint16_t*>(target), weight);
}
