// Products of rows of codes with packed int8 weights, shared out among a team.
#pragma once
#include <algorithm>

#include "int8_block.h"
#include "team.h"

namespace quire {

// Rows of activations as codes, and room for them.
struct Int8Rows {
    uint8_t* codes;  // [m, padded K]
    float* scales;   // [m]
    int64_t stride;
    int m;

    // Tiles take few rows no faster than vectors do, and a single one slower.
    bool tiled() const {
#if defined(__AMX_INT8__)
        return m > 4;
#else
        return false;
#endif
    }
    int offset() const {
#if defined(__AVX512VNNI__)
        return tiled() ? 0 : UNSIGNED;
#else
        return 0;
#endif
    }
};

// x [m, K] into rows, by all of a team; ends without a barrier.
template <typename T>
inline void quantize_rows(const T* x, int64_t x_stride, const Int8Weight& weight, const Int8Rows& rows, Team& team) {
    for (int row = team.first(rows.m); row < team.last(rows.m); row++)
        quantize_row(x + row * x_stride, weight.k, weight.padded_k(), rows.offset(), rows.codes + row * rows.stride,
                     rows.scales + row);
}

// A block's sums into rows [first, first + n) of out, in panels [panel, panel + panels).
template <typename T>
inline void store_int8(
    const int32_t* sums, const Int8Rows& a, int first, int n, const Int8Weight& weight, int panel, int panels, T* out,
    int64_t out_stride) {
    for (int p = 0; p < panels; p++) {
        const int column = (panel + p) * INT8_COLUMNS;
        const floats scale = load(weight.scales + column);
        const floats bias = weight.bias == nullptr ? floats{} : load(weight.bias + column);
        const ints offset = load_as<ints>(weight.sums + column) * a.offset();
        const int width = std::min(INT8_COLUMNS, weight.n - column);
        for (int r = 0; r < n; r++) {
            const ints exact = load_as<ints>(sums + r * INT8_STRIDE + p * INT8_COLUMNS) - offset;
            const floats y = __builtin_convertvector(exact, floats) * (splat(a.scales[first + r]) * scale) + bias;
            T* const to = out + (first + r) * out_stride + column;
            if (width == INT8_COLUMNS)
                store(y, to);
            else
                store_first(y, to, width);
        }
    }
}

// Rows [first, last) by up to four panels from `panel` on; in AMX no fewer than 16 rows, unless there are no more.
template <typename T>
inline void multiply_int8_group(
    const Int8Rows& a, int first, int last, const Int8Weight& weight, int panel, int panels, T* out, int64_t out_stride) {
    const int8_t* b[INT8_PANELS];
    for (int p = 0; p < INT8_PANELS; p++) b[p] = weight.panel(panel + std::min(p, panels - 1));
    alignas(64) int32_t sums[32 * INT8_STRIDE];
    const int k = weight.padded_k();
    const auto codes = [&](int row) { return a.codes + row * a.stride; };
    const auto put = [&](const int32_t* from, int row, int rows) {
        store_int8(from, a, row, rows, weight, panel, panels, out, out_stride);
    };
    if (!a.tiled()) {
        for (int row = first; row < last; row += INT8_ROWS) {
            const int rows = std::min(INT8_ROWS, last - row);
            int8_vector_product(codes(row), a.stride, rows, b, k, sums);
            put(sums, row, rows);
        }
        return;
    }
#if defined(__AMX_INT8__)
    if (last - first <= 16) {
        int8_tile_row(codes(first), a.stride, b, k, sums);
        return put(sums, first, last - first);
    }
    // The last tile begins early rather than being short: some rows are computed twice, to the same bits.
    for (int row = first; row < last; row += 32) {
        const int upper = std::min(row, last - 16), lower = std::min(row + 16, last - 16);
        if (panels > 2 || lower <= upper) {
            int8_tile_row(codes(upper), a.stride, b, k, sums);
            put(sums, upper, 16);
            if (lower <= upper) continue;
            int8_tile_row(codes(lower), a.stride, b, k, sums);
            put(sums, lower, 16);
        } else {
            int8_tile_square(codes(upper), codes(lower), a.stride, b, k, sums);
            put(sums, upper, 16);
            put(sums + 16 * INT8_STRIDE, lower, 16);
        }
    }
#endif
}

constexpr int64_t INT8_ROWS_BYTES = 1 << 19;  // rows of codes that stay in a core's second-level cache meanwhile

// a [m, K] times the weight into out [m, N], by all of a team; ends without a barrier.
template <typename T>
inline void multiply_int8(const Int8Rows& a, const Int8Weight& weight, T* out, int64_t out_stride, Team& team) {
    const int m = a.m;
    if (m == 0) return;
    int at_once = INT8_PANELS;
#if defined(__AMX_INT8__)
    if (a.tiled()) shape_int8_tiles(std::min(m, 16));
    if (m > 16) at_once = 2;
#endif
    const int groups = (weight.panels() + at_once - 1) / at_once;
    const int most = int(std::max<int64_t>(64, INT8_ROWS_BYTES / weight.padded_k() / 32 * 32));
    const int row_chunks = (m + most - 1) / most;
    const int wanted = std::max(1, 8 * team.size / row_chunks);
    const int per_task = std::max(1, groups / wanted);
    const int column_chunks = (groups + per_task - 1) / per_task;
    for (int task; (task = team.next()) < row_chunks * column_chunks;) {
        const int chunk = task / column_chunks, column = task % column_chunks;
        const int first = int(int64_t(m) * chunk / row_chunks), last = int(int64_t(m) * (chunk + 1) / row_chunks);
        const int end = std::min(groups, (column + 1) * per_task);
        for (int group = column * per_task; group < end; group++) {
            const int panel = group * at_once;
            multiply_int8_group(
                a, first, last, weight, panel, std::min(at_once, weight.panels() - panel), out, out_stride);
        }
    }
#if defined(__AMX_INT8__)
    if (a.tiled()) _tile_release();
#endif
}

}  // namespace quire
