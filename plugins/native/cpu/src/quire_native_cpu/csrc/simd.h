// Sixteen floats at a time on every instruction set, and pairs of bf16 as the processors multiply them.
// GCC's vector extensions split a vector into as many registers as it takes; intrinsics only where they do more.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace quire {

constexpr int LANES = 16;

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32)));
typedef int16_t shorts __attribute__((vector_size(64)));

struct bf16 {
    uint16_t bits;
};

template <typename To, typename From>
inline To bits_of(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline floats splat(float x) {
    return x - floats{};
}
inline words splat(uint32_t x) {
    return x - words{};
}

template <typename V, typename T>
inline V load_as(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof(v));
    return v;
}

inline float widen(float x) {
    return x;
}
inline float widen(bf16 x) {
    return bits_of<float>(uint32_t(x.bits) << 16);
}

// Round to nearest even; NaN stays NaN (its quiet bit is set, for rounding could make it an infinity).
inline void narrow(float x, float* to) {
    *to = x;
}
inline void narrow(float x, bf16* to) {
    uint32_t bits = bits_of<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        to->bits = uint16_t((bits >> 16) | 0x40u);
    } else {
        to->bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

inline floats load(const float* from) {
    return load_as<floats>(from);
}
inline floats load(const bf16* from) {
    const words wide = __builtin_convertvector(load_as<halves>(from), words);
    return bits_of<floats>(wide << 16);
}

// Sixteen of them. By instructions: the compiler's conversion of vectors goes through each element.
inline floats load(const int8_t* from) {
#if defined(__AVX512F__)
    return bits_of<floats>(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#elif defined(__AVX2__)
    __m256 parts[2];
    for (int i = 0; i < 2; i++)
        parts[i] = _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * i))));
    return load_as<floats>(parts);
#else
    floats x;
    for (int i = 0; i < LANES; i++) x[i] = float(from[i]);
    return x;
#endif
}

// Sixteen of IEEE 754's binary16, which are finite.
inline floats load_fp16(const uint16_t* from) {
#if defined(__AVX512F__)
    return bits_of<floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    __m256 parts[2];
    for (int i = 0; i < 2; i++)
        parts[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i)));
    return load_as<floats>(parts);
#else
    // The exponent is biased by 15 there, by 127 here.
    const words wide = __builtin_convertvector(load_as<halves>(from), words);
    const floats scaled = bits_of<floats>((wide & splat(0x7fffu)) << 13) * splat(0x1p112f);
    return bits_of<floats>(bits_of<words>(scaled) | (wide & splat(0x8000u)) << 16);
#endif
}

inline void store(floats x, float* to) {
    std::memcpy(to, &x, sizeof(x));
}
inline void store(floats x, bf16* to) {
#if defined(__AVX512BF16__)
    const __m256bh narrow = _mm512_cvtneps_pbh(bits_of<__m512>(x));  // denormals become zero
    std::memcpy(to, &narrow, sizeof(narrow));
#else
    const words bits = bits_of<words>(x);
    const words rounded = (bits + splat(0x7fffu) + ((bits >> 16) & splat(1u))) >> 16;
    const words nan = bits_of<words>((bits & splat(0x7fffffffu)) > splat(0x7f800000u));  // all ones where it is
    const words quiet = (bits >> 16) | splat(0x40u);
    const halves narrow = __builtin_convertvector((rounded & ~nan) | (quiet & nan), halves);
    std::memcpy(to, &narrow, sizeof(narrow));
#endif
}

// Two vectors beside each other.
inline void store(floats first, floats second, float* to) {
    store(first, to);
    store(second, to + LANES);
}
inline void store(floats first, floats second, bf16* to) {
#if defined(__AVX512BF16__)
    const __m512bh both = _mm512_cvtne2ps_pbh(bits_of<__m512>(second), bits_of<__m512>(first));
    std::memcpy(to, &both, sizeof(both));
#else
    store(first, to);
    store(second, to + LANES);
#endif
}

// As if it had been stored and loaded again.
template <typename T>
inline floats rounded(floats x) {
    T some[LANES];
    store(x, some);
    return load(some);
}
#if defined(__AVX512BF16__)
template <>
inline floats rounded<bf16>(floats x) {  // in registers, which the compiler does not find by itself
    const __m256i narrow = bits_of<__m256i>(_mm512_cvtneps_pbh(bits_of<__m512>(x)));
    return bits_of<floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}
#endif

// The first n of sixteen elements; the others read as zero.
template <typename T>
inline floats load_first(const T* from, int n) {
    T some[LANES] = {};
    std::memcpy(some, from, n * sizeof(T));
    return load(some);
}
template <typename T>
inline void store_first(floats x, T* to, int n) {
    T some[LANES];
    store(x, some);
    std::memcpy(to, some, n * sizeof(T));
}

// A bit per lane, set where the lane is: lanes are all ones or zero, as comparisons give them.
inline uint32_t mask_of(ints lanes) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask(bits_of<__m512i>(lanes));
#elif defined(__AVX2__)
    __m256 parts[2];
    std::memcpy(parts, &lanes, sizeof(parts));
    return uint32_t(_mm256_movemask_ps(parts[0])) | uint32_t(_mm256_movemask_ps(parts[1])) << 8;
#else
    uint32_t mask = 0;
    for (int lane = 0; lane < LANES; lane++) mask |= uint32_t(lanes[lane] & 1) << lane;
    return mask;
#endif
}

inline float sum(floats x) {
    float total[LANES];
    store(x, total);
    for (int width = LANES / 2; width > 0; width /= 2)  // as a tree: the order never depends on the caller
        for (int i = 0; i < width; i++) total[i] += total[i + width];
    return total[0];
}

// acc + a.even * b.even + a.odd * b.odd in every lane, for lanes of two bf16 beside each other.
inline floats dot_pairs(floats acc, words a, words b) {
#if defined(__AVX512BF16__)
    return bits_of<floats>(
        _mm512_dpbf16_ps(bits_of<__m512>(acc), bits_of<__m512bh>(a), bits_of<__m512bh>(b)));
#else
    const words high = splat(0xffff0000u);
    acc += bits_of<floats>(a << 16) * bits_of<floats>(b << 16);
    return acc + bits_of<floats>(a & high) * bits_of<floats>(b & high);
#endif
}

}  // namespace quire
