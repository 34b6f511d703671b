// The inner product: a few rows of A times a few panels of B into a small fp32 block. One function for each
// instruction set and dtype. Every element is summed over k in one order, whatever the shape of the block, so a
// row's result does not depend on the rows beside it.
#pragma once
#include "simd.h"
#include "tiles.h"
#include "weight.h"

namespace quire {

constexpr int MOST_PANELS = 4;

// Rows and panels of a block, and a place for its sums: row r, panel p, column c at sums[(r * MOST_PANELS + p) * 16 + c].
constexpr int BLOCK_STRIDE = MOST_PANELS * PANEL;

#if defined(__AVX512F__)
constexpr int VECTOR_ROWS = 6;  // 24 of 32 registers hold sums
#else
constexpr int VECTOR_ROWS = 2;
#endif

// A block in vector registers. `a` counts in elements of T; bf16 takes k in pairs.
template <typename T, int ROWS, int PANELS>
inline void vector_block(const T* a, int64_t a_stride, const T* const* b, int k, float* sums) {
    floats acc[ROWS][PANELS] = {};
    if constexpr (sizeof(T) == 2) {
        for (int i = 0; i < k; i += 2) {
            words w[PANELS];
            for (int p = 0; p < PANELS; p++) w[p] = load_as<words>(b[p] + i * PANEL);
            for (int r = 0; r < ROWS; r++) {
                const words x = splat(load_as<uint32_t>(a + r * a_stride + i));
                for (int p = 0; p < PANELS; p++) acc[r][p] = dot_pairs(acc[r][p], x, w[p]);
            }
        }
    } else {
        for (int i = 0; i < k; i++) {
            floats w[PANELS];
            for (int p = 0; p < PANELS; p++) w[p] = load(b[p] + i * PANEL);
            for (int r = 0; r < ROWS; r++) {
                const floats x = splat(a[r * a_stride + i]);
                for (int p = 0; p < PANELS; p++) acc[r][p] += x * w[p];
            }
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++) store(acc[r][p], sums + r * BLOCK_STRIDE + p * PANEL);
}

template <typename T, int ROWS>
inline void vector_rows(const T* a, int64_t a_stride, const T* const* b, int panels, int k, float* sums) {
    switch (panels) {
        case 4: return vector_block<T, ROWS, 4>(a, a_stride, b, k, sums);
        case 3: return vector_block<T, ROWS, 3>(a, a_stride, b, k, sums);
        case 2: return vector_block<T, ROWS, 2>(a, a_stride, b, k, sums);
        default: return vector_block<T, ROWS, 1>(a, a_stride, b, k, sums);
    }
}

// Any number of rows up to VECTOR_ROWS.
template <typename T>
inline void vector_product(
    const T* a, int64_t a_stride, int rows, const T* const* b, int panels, int k, float* sums) {
    switch (rows) {
#if defined(__AVX512F__)
        case 6: return vector_rows<T, 6>(a, a_stride, b, panels, k, sums);
        case 5: return vector_rows<T, 5>(a, a_stride, b, panels, k, sums);
        case 4: return vector_rows<T, 4>(a, a_stride, b, panels, k, sums);
        case 3: return vector_rows<T, 3>(a, a_stride, b, panels, k, sums);
#endif
        case 2: return vector_rows<T, 2>(a, a_stride, b, panels, k, sums);
        default: return vector_rows<T, 1>(a, a_stride, b, panels, k, sums);
    }
}

#if defined(__AMX_BF16__)

// 16 rows or fewer (as the tiles are shaped) by up to four panels; a missing panel repeats the last.
inline void tile_row(const bf16* a, int64_t a_stride, const bf16* const* b, int k, float* sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < k; i += K_BLOCK) {
        const int at = i * PANEL;
        _tile_loadd(4, a + i, a_stride * 2);
        _tile_loadd(6, b[0] + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b[1] + at, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, b[2] + at, 64);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(7, b[3] + at, 64);
        _tile_dpbf16ps(3, 4, 7);
    }
    _tile_stored(0, sums, BLOCK_STRIDE * 4);
    _tile_stored(1, sums + PANEL, BLOCK_STRIDE * 4);
    _tile_stored(2, sums + 2 * PANEL, BLOCK_STRIDE * 4);
    _tile_stored(3, sums + 3 * PANEL, BLOCK_STRIDE * 4);
    asm volatile("" : : : "memory");  // the intrinsics do not tell the compiler what they write
}

constexpr int SQUARE = 2 * PANEL;  // rows and columns of what tiles multiply at once, where rows are many

// Two times 16 rows, which need not follow each other, by two panels, over so much of k, into sums [SQUARE][SQUARE]. Where
// they do not begin there, they go on from what is in memory, to the same bits as in one go. The first-level cache is
// for the panels, so `a` is read past it. `beside()` is called once a step: vector instructions run while tiles multiply.
template <typename Beside>
inline void tile_square(
    const bf16* a, const bf16* below, int64_t a_stride, const bf16* const* b, int k, bool begins, float* sums,
    Beside& beside) {
    const bf16 *const left = b[0], *const right = b[1];
    float* const under = sums + TILE_ROWS * SQUARE;
    if (begins) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        asm volatile("" : : : "memory");
        _tile_loadd(0, sums, SQUARE * 4);
        _tile_loadd(1, sums + PANEL, SQUARE * 4);
        _tile_loadd(2, under, SQUARE * 4);
        _tile_loadd(3, under + PANEL, SQUARE * 4);
    }
    for (int i = 0; i < k; i += K_BLOCK) {
        const int at = i * PANEL;
        _tile_loadd(6, left + at, 64);
        _tile_stream_loadd(4, a + i, a_stride * 2);
        _tile_loadd(7, right + at, 64);
        _tile_stream_loadd(5, below + i, a_stride * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        beside();
    }
    _tile_stored(0, sums, SQUARE * 4);
    _tile_stored(1, sums + PANEL, SQUARE * 4);
    _tile_stored(2, under, SQUARE * 4);
    _tile_stored(3, under + PANEL, SQUARE * 4);
    asm volatile("" : : : "memory");
}

#endif

}  // namespace quire
