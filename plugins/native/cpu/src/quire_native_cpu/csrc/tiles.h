// The shape of AMX's tiles, which is the same in all products here.
// (Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter "Intel AMX".)
#pragma once
#if defined(__AMX_TILE__)
#include <immintrin.h>

#include <cstdint>

namespace quire {

constexpr int TILE_ROWS = 16;

// Tiles 0 to 3 hold sums, 4 and 5 rows of the left operand, 6 and 7 columns of the right one. Every tile has 64 bytes to
// a row; with fewer than sixteen rows on the left, the sums and the left operand have so many only.
inline void shape_tiles(int rows) {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; tile++) {
        shape.bytes[tile] = 64;
        shape.rows[tile] = uint8_t(tile < 6 && rows < TILE_ROWS ? rows : TILE_ROWS);
    }
    asm volatile("" : : "r"(&shape) : "memory");  // GCC 12's intrinsic names only the first eight bytes as read
    _tile_loadconfig(&shape);
}

}  // namespace quire

#endif
