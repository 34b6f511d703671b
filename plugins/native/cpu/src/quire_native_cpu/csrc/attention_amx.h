// The two products of attention in AMX tiles: as attention_products.h's for pairs, 32 rows at a time.
#pragma once
#if defined(__AMX_BF16__)
#include <immintrin.h>

#include "attention_products.h"
#include "tiles.h"

namespace quire {

// The compiler does not know what tile instructions read and write.
inline void memory_fence() {
    asm volatile("" ::: "memory");
}

// s[rows][16 * groups] = q . k for 16 or 32 rows, of which q holds all and s has room for all.
template <bool TWO_ROWS, bool TWO_GROUPS>
inline void score_tiles(const uint32_t* q, int64_t q_stride, int length, const KeyTile& tile, int group, float* s) {
    const int64_t q_bytes = q_stride * 4, k_bytes = tile.k_stride * 4;
    constexpr int s_bytes = TILE_KEYS * 4;
    _tile_zero(0);
    if constexpr (TWO_GROUPS) _tile_zero(1);
    if constexpr (TWO_ROWS) _tile_zero(2);
    if constexpr (TWO_ROWS && TWO_GROUPS) _tile_zero(3);
    for (int i = 0; i < length; i += TILE_ROWS) {
        _tile_loadd(6, tile.k[group] + i * tile.k_stride, k_bytes);
        _tile_loadd(4, q + i, q_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (TWO_GROUPS) {
            _tile_loadd(7, tile.k[group + 1] + i * tile.k_stride, k_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (TWO_ROWS) {
            _tile_loadd(5, q + TILE_ROWS * q_stride + i, q_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (TWO_GROUPS) _tile_dpbf16ps(3, 5, 7);
        }
    }
    float* to = s + group * LANES;
    _tile_stored(0, to, s_bytes);
    if constexpr (TWO_GROUPS) _tile_stored(1, to + LANES, s_bytes);
    if constexpr (TWO_ROWS) _tile_stored(2, to + TILE_ROWS * TILE_KEYS, s_bytes);
    if constexpr (TWO_ROWS && TWO_GROUPS) _tile_stored(3, to + TILE_ROWS * TILE_KEYS + LANES, s_bytes);
}

// o[rows][32 columns] += p . v; v holds 32 keys to a tile, `tiles` of them.
template <bool TWO_ROWS>
inline void value_tiles(const uint32_t* p, const uint32_t* const* v, int64_t v_stride, int tiles, int column, float* o,
                        int64_t o_stride) {
    constexpr int p_bytes = TILE_KEYS / 2 * 4;
    const int64_t o_bytes = o_stride * 4, v_bytes = v_stride * 4;
    float* second = o + TILE_ROWS * o_stride;
    _tile_loadd(0, o + column, o_bytes);
    _tile_loadd(1, o + column + LANES, o_bytes);
    if constexpr (TWO_ROWS) {
        _tile_loadd(2, second + column, o_bytes);
        _tile_loadd(3, second + column + LANES, o_bytes);
    }
    for (int i = 0; i < tiles; i++) {
        _tile_loadd(4, p + i * TILE_ROWS, p_bytes);
        _tile_loadd(6, v[i] + column, v_bytes);
        _tile_loadd(7, v[i] + column + LANES, v_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (TWO_ROWS) {
            _tile_loadd(5, p + TILE_ROWS * (TILE_KEYS / 2) + i * TILE_ROWS, p_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, o + column, o_bytes);
    _tile_stored(1, o + column + LANES, o_bytes);
    if constexpr (TWO_ROWS) {
        _tile_stored(2, second + column, o_bytes);
        _tile_stored(3, second + column + LANES, o_bytes);
    }
}

template <bool TWO_ROWS>
inline void scores_amx(const uint32_t* q, int64_t q_stride, int length, const KeyTile& tile, float* s) {
    memory_fence();
    int group = 0;
    for (; group + 1 < tile.groups; group += 2) score_tiles<TWO_ROWS, true>(q, q_stride, length, tile, group, s);
    if (group < tile.groups) score_tiles<TWO_ROWS, false>(q, q_stride, length, tile, group, s);
    memory_fence();
}

// A tile takes 32 keys. Where a block has only 16 they are laid beside the next ones in `room`; an odd group is
// filled up with zeros, as its weights are.
inline int pair_groups(const KeyTile& tile, int width, bool adjacent, uint32_t* room, const uint32_t** v) {
    const int half = LANES / 2 * width;  // words of a group
    const int tiles = (tile.groups + 1) / 2;
    for (int i = 0; i < tiles; i++) v[i] = adjacent ? tile.v[2 * i] : room + 2 * i * half;
    if (!adjacent) {
        for (int g = 0; g < tile.groups; g++)
            for (int w = 0; w < half; w += LANES) std::memcpy(room + g * half + w, tile.v[g] + w, LANES * 4);
        if (tile.groups % 2) std::memset(room + tile.groups * half, 0, half * 4);
    }
    return tiles;
}

template <bool TWO_ROWS>
inline void weigh_values_amx(const uint32_t* p, const uint32_t* const* v, int64_t v_stride, int tiles, int width,
                             float* o, int64_t o_stride) {
    memory_fence();
    for (int column = 0; column < width; column += 2 * LANES)
        value_tiles<TWO_ROWS>(p, v, v_stride, tiles, column, o, o_stride);
    memory_fence();
}

}  // namespace quire
#endif
