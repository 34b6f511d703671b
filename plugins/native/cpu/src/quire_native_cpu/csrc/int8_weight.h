// A packed matrix of int8 weights, and rows of activations as codes.
#pragma once
#include "simd.h"

namespace quire {

constexpr int INT8_COLUMNS = 16;  // columns beside each other: a panel
constexpr int INT8_QUAD = 4;      // rows of k beside each other, as dot products of bytes take them
constexpr int INT8_BLOCK = 64;    // rows of k that one AMX tile takes; K is padded to a multiple of it

// [K, N] as [ceil(N / 16)][K / 4][16][4], K padded with zeros to a multiple of 64, N to one of 16.
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

// What the processor's dot product wants of the left factor. AVX-512's multiplies unsigned bytes by signed ones,
// so codes are kept plus 128, and 128 times the column's sum is taken off the product.
#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
constexpr int INT8_OFFSET = 128;
#else
constexpr int INT8_OFFSET = 0;
#endif

// Codes of one row, padded with the code of zero: x = scale * (code - offset). As the reference has it: the scale is
// the greatest magnitude / 127, halves are rounded to even. A row with NaN or infinity has a scale of NaN, and so
// has NaN for results, in every column.
template <typename T>
inline void quantize_row(const T* x, int k, int padded_k, uint8_t* codes, float* scale) {
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
        std::memset(codes, INT8_OFFSET, padded_k);
        *scale = bits_of<float>(0x7fc00000u);
        return;
    }
    const float largest = bits_of<float>(bits);
    *scale = (largest < TINY * LARGEST ? TINY * LARGEST : largest) / LARGEST;
    const floats divisor = splat(*scale);
    const auto round = [&](floats v, int at) {
        // Added to 1.5 * 2^23 a number is rounded to a whole one, whose low byte is the code.
        const words code = bits_of<words>(v / divisor + splat(EVEN)) + splat(uint32_t(INT8_OFFSET));
        const bytes low = __builtin_convertvector(code, bytes);
        std::memcpy(codes + at, &low, sizeof(low));
    };
    for (int i = 0; i < whole; i += LANES) round(load(x + i), i);
    if (whole < k) round(load_first(x + whole, k - whole), whole);  // zeros have the code of zero
    const int done = whole < k ? whole + LANES : whole;
    if (done < padded_k) std::memset(codes + done, INT8_OFFSET, padded_k - done);
}

}  // namespace quire
