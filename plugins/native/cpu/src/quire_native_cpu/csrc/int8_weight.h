// A packed matrix of int8 weights, and rows of activations as codes.
#pragma once
#include "simd.h"

namespace quire {

constexpr int INT8_COLUMNS = 16;  // columns beside each other: a panel
constexpr int INT8_QUAD = 4;      // rows of k beside each other, as dot products of bytes take them
constexpr int INT8_BLOCK = 64;    // rows of k that one AMX tile takes; K is padded to a multiple of it

// [K, N] as [ceil(N / 16)][K / 4][16][4], K padded with zeros to a multiple of 64, N to one of 16.
// Python fills it in by `int8.py`: the two must agree.
struct Int8Weight {
    const int8_t* codes;
    const int32_t* sums;  // [N padded] of each column's codes
    const float* scales;  // [N padded]
    const float* bias;    // [N padded], or null
    int32_t k, n;

    int panels() const {
        return (n + INT8_COLUMNS - 1) / INT8_COLUMNS;
    }
    int padded_k() const {
        return (k + INT8_BLOCK - 1) / INT8_BLOCK * INT8_BLOCK;
    }
    const int8_t* panel(int index) const {
        return codes + int64_t(index) * padded_k() * INT8_COLUMNS;
    }
};

// AVX-512's dot product multiplies unsigned bytes by signed ones: its codes of activations are kept plus 128, and 128
// times the column's sum is taken off the product. Tiles and the other paths take signed codes, plus 0.
constexpr int UNSIGNED = 128;

// v / divisor, correctly rounded, given the rounded 1 / divisor: two corrections by the exact remainder (Markstein 1990)
// instead of a division, which is the slowest instruction there is. Plain processors have no exact remainder.
inline floats divide(floats v, floats divisor, floats inverse) {
#if defined(__AVX512F__)
    const __m512 a = bits_of<__m512>(v), d = bits_of<__m512>(divisor), y = bits_of<__m512>(inverse);
    __m512 q = _mm512_mul_ps(a, y);
    q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, d, a), y, q);
    q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, d, a), y, q);
    return bits_of<floats>(q);
#else
    (void)inverse;
    return v / divisor;
#endif
}

// Codes of one row, padded with the code of zero: x = scale * (code - offset). As the reference has it: the scale is
// the greatest magnitude / 127, halves are rounded to even. A row with NaN or infinity has a scale of NaN, and so
// has NaN for results, in every column.
template <typename T>
inline void quantize_row(const T* x, int k, int padded_k, int offset, uint8_t* codes, float* scale) {
    constexpr float LARGEST = 127.0f, TINY = 1.17549435e-38f, EVEN = 12582912.0f;  // 1.5 * 2^23
    typedef uint8_t bytes __attribute__((vector_size(16)));
    const int whole = k / LANES * LANES;
    words most = {};
    const auto look = [&](floats v) {
        const words magnitude = bits_of<words>(v) & splat(0x7fffffffu);
        most = magnitude > most ? magnitude : most;  // of magnitudes the order is that of their bits, NaN above all
    };
    for (int i = 0; i < whole; i += LANES) look(load(x + i));
    if (whole < k) look(load_first(x + whole, k - whole));
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits = most[i] > bits ? most[i] : bits;
    if (bits >= 0x7f800000u) {
        std::memset(codes, offset, padded_k);
        *scale = bits_of<float>(0x7fc00000u);
        return;
    }
    const float largest = bits_of<float>(bits);
    *scale = (largest < TINY * LARGEST ? TINY * LARGEST : largest) / LARGEST;
    const floats divisor = splat(*scale), inverse = splat(1.0f / *scale);
    const auto round = [&](floats v, int at) {
        // Added to 1.5 * 2^23 a number is rounded to a whole one, whose low byte is the code.
        const words code = bits_of<words>(divide(v, divisor, inverse) + splat(EVEN)) + splat(uint32_t(offset));
        const bytes low = __builtin_convertvector(code, bytes);
        std::memcpy(codes + at, &low, sizeof(low));
    };
    for (int i = 0; i < whole; i += LANES) round(load(x + i), i);
    if (whole < k) round(load_first(x + whole, k - whole), whole);  // zeros have the code of zero
    const int done = whole < k ? whole + LANES : whole;
    if (done < padded_k) std::memset(codes + done, offset, padded_k - done);
}

}  // namespace quire
