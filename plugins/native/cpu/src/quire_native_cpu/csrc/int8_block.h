// The inner product of int8: a few rows of codes times a few panels into a small int32 block. Sums of whole numbers are
// exact, so their order does not matter, and neither do the rows beside a row.
#pragma once
#include "int8_weight.h"
#include "tiles.h"

namespace quire {

constexpr int INT8_PANELS = 4;                           // of a block, at most
constexpr int INT8_STRIDE = INT8_PANELS * INT8_COLUMNS;  // of its rows: row r, panel p, column c at [r * 64 + p * 16 + c]

#if defined(__AMX_INT8__)

// As many rows as the tiles are shaped for, by four panels.
inline void int8_tile_row(const uint8_t* a, int64_t a_stride, const int8_t* const* b, int k, int32_t* sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < k; i += INT8_BLOCK) {
        const int64_t at = int64_t(i) * INT8_COLUMNS;
        _tile_loadd(4, a + i, a_stride);
        _tile_loadd(6, b[0] + at, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, b[1] + at, 64);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(6, b[2] + at, 64);
        _tile_dpbssd(2, 4, 6);
        _tile_loadd(7, b[3] + at, 64);
        _tile_dpbssd(3, 4, 7);
    }
    _tile_stored(0, sums, INT8_STRIDE * 4);
    _tile_stored(1, sums + INT8_COLUMNS, INT8_STRIDE * 4);
    _tile_stored(2, sums + 2 * INT8_COLUMNS, INT8_STRIDE * 4);
    _tile_stored(3, sums + 3 * INT8_COLUMNS, INT8_STRIDE * 4);
}

// Two times 16 rows, which need not follow each other, by two panels; the second's sums lie 16 rows below.
inline void int8_tile_square(
    const uint8_t* a, const uint8_t* below, int64_t a_stride, const int8_t* const* b, int k, int32_t* sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < k; i += INT8_BLOCK) {
        const int64_t at = int64_t(i) * INT8_COLUMNS;
        _tile_loadd(4, a + i, a_stride);
        _tile_loadd(6, b[0] + at, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, b[1] + at, 64);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, below + i, a_stride);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    int32_t* const under = sums + 16 * INT8_STRIDE;
    _tile_stored(0, sums, INT8_STRIDE * 4);
    _tile_stored(1, sums + INT8_COLUMNS, INT8_STRIDE * 4);
    _tile_stored(2, under, INT8_STRIDE * 4);
    _tile_stored(3, under + INT8_COLUMNS, INT8_STRIDE * 4);
}

#endif

#if defined(__AVX512F__)
constexpr int INT8_ROWS = 6;  // 24 of 32 registers hold sums
#else
constexpr int INT8_ROWS = 2;
#endif

#if !defined(__AVX512VNNI__)
// Bytes 0 and 2 (odd: 1 and 3) of every lane as two int16.
inline ints int8_pairs(ints quads, bool odd) {
    typedef int16_t shorts __attribute__((vector_size(64)));
    const shorts halves = bits_of<shorts>(quads);
    return bits_of<ints>(odd ? halves >> 8 : (halves << 8) >> 8);
}

// acc + low * low + high * high of the int16 in every lane.
inline ints int8_madd(ints acc, ints a, ints b) {
#if defined(__AVX2__)
    struct Two {
        __m256i half[2];
    };
    Two sums = bits_of<Two>(acc);
    const Two x = bits_of<Two>(a), y = bits_of<Two>(b);
    for (int i = 0; i < 2; i++)
        sums.half[i] = _mm256_add_epi32(sums.half[i], _mm256_madd_epi16(x.half[i], y.half[i]));
    return bits_of<ints>(sums);
#else
    return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
#endif

template <int ROWS, int PANELS>
inline void int8_vector_block(
    const uint8_t* a, int64_t a_stride, const int8_t* const* b, int k, int32_t* sums) {
    ints acc[ROWS][PANELS] = {};
    for (int i = 0; i < k; i += INT8_QUAD) {
        ints w[PANELS];
        for (int p = 0; p < PANELS; p++) w[p] = load_as<ints>(b[p] + int64_t(i) * INT8_COLUMNS);
#if defined(__AVX512VNNI__)
        for (int r = 0; r < ROWS; r++) {
            const __m512i x = _mm512_set1_epi32(load_as<int32_t>(a + r * a_stride + i));
            for (int p = 0; p < PANELS; p++)
                acc[r][p] = bits_of<ints>(
                    _mm512_dpbusd_epi32(bits_of<__m512i>(acc[r][p]), x, bits_of<__m512i>(w[p])));
        }
#else
        for (int odd = 0; odd < 2; odd++) {
            ints half[PANELS];
            for (int p = 0; p < PANELS; p++) half[p] = int8_pairs(w[p], odd);
            for (int r = 0; r < ROWS; r++) {
                const ints x = int8_pairs(load_as<int32_t>(a + r * a_stride + i) - ints{}, odd);
                for (int p = 0; p < PANELS; p++) acc[r][p] = int8_madd(acc[r][p], x, half[p]);
            }
        }
#endif
    }
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++)
            std::memcpy(sums + r * INT8_STRIDE + p * INT8_COLUMNS, &acc[r][p], sizeof(ints));
}

// Any number of rows up to INT8_ROWS by four panels.
inline void int8_vector_product(
    const uint8_t* a, int64_t a_stride, int rows, const int8_t* const* b, int k, int32_t* sums) {
    switch (rows) {
#if defined(__AVX512F__)
        case 6: return int8_vector_block<6, INT8_PANELS>(a, a_stride, b, k, sums);
        case 5: return int8_vector_block<5, INT8_PANELS>(a, a_stride, b, k, sums);
        case 4: return int8_vector_block<4, INT8_PANELS>(a, a_stride, b, k, sums);
        case 3: return int8_vector_block<3, INT8_PANELS>(a, a_stride, b, k, sums);
#endif
        case 2: return int8_vector_block<2, INT8_PANELS>(a, a_stride, b, k, sums);
        default: return int8_vector_block<1, INT8_PANELS>(a, a_stride, b, k, sums);
    }
}

}  // namespace quire
