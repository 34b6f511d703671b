// Products of rows of codes with packed int8 weights, shared out among a team.
#pragma once
#include <algorithm>

#include "chunks.h"
#include "int8_block.h"
#include "simd_math.h"
#include "team.h"

namespace quire {

// Rows of activations as codes, and room for them.
struct Int8Rows {
    uint8_t* codes;  // [m, stride]
    float* scales;   // [m]
    int64_t stride;  // padded K
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
    // x [k] into a row.
    template <typename T>
    void quantize(int row, const T* x, int k) const {
        quantize_row(x, k, int(stride), offset(), codes + row * stride, scales + row);
    }
};

// Where products go. Plain: the matrix's columns in order. Gated: the columns of its first half (gate) meet those of its
// second (up) before they are stored; both begin with a panel.
template <typename T>
struct Int8Output {
    T* to;
    int64_t stride;
    const Int8Weight& weight;
    bool gated;
    Activation activation;  // of gated columns

    int count() const {  // of things that `panels` can name: panels, or pairs of them
        return gated ? weight.panels() / 2 : weight.panels();
    }
    // Panels of `n` things from `first` on: n, or 2n with the gates first.
    int panels(int first, int n, int* index) const {
        for (int i = 0; i < n; i++) index[i] = first + i;
        if (!gated) return n;
        for (int i = 0; i < n; i++) index[n + i] = first + i + count();
        return 2 * n;
    }

    // A block's sums into rows [first, first + rows) of the result.
    void operator()(const int32_t* sums, const Int8Rows& a, int first, int rows, const int* panel, int panels) const {
        const int n = gated ? panels / 2 : panels, width = gated ? weight.n / 2 : weight.n;
        for (int p = 0; p < n; p++) {
            const Column gate(weight, panel[p], a.offset()), up(weight, panel[gated ? n + p : p], a.offset());
            const int column = panel[p] * INT8_COLUMNS, left = width - column;
            const int32_t* from = sums + p * INT8_COLUMNS;
            T* line = to + first * stride + column;
            for (int r = 0; r < rows; r++, from += INT8_STRIDE, line += stride) {
                const floats row_scale = splat(a.scales[first + r]);
                floats y = gate(from, row_scale);
                if (gated) {
                    const floats other = rounded<T>(up(from + n * INT8_COLUMNS, row_scale));
                    y = rounded<T>(activate<T>(activation, rounded<T>(y))) * other;
                }
                if (left >= INT8_COLUMNS)
                    store(y, line);
                else
                    store_first(y, line, left);
            }
        }
    }

private:
    // What turns a panel's sums into its products.
    struct Column {
        floats scale, bias;
        ints excess;  // what the codes' offset adds

        Column(const Int8Weight& weight, int panel, int offset)
            : scale(load(weight.scales + panel * INT8_COLUMNS)),
              bias(weight.bias == nullptr ? floats{} : load(weight.bias + panel * INT8_COLUMNS)),
              excess(load_as<ints>(weight.sums + panel * INT8_COLUMNS) * offset) {}

        floats operator()(const int32_t* sums, floats row_scale) const {
            return __builtin_convertvector(load_as<ints>(sums) - excess, floats) * (row_scale * scale) + bias;
        }
    };
};

// Rows [first, last) by one group of up to four panels; in AMX no fewer than 16 rows, unless there are no more.
template <typename T>
inline void multiply_int8_group(
    const Int8Rows& a, int first, int last, const int* panel, int panels, const Int8Output<T>& output) {
    const int8_t* b[INT8_PANELS];
    for (int p = 0; p < INT8_PANELS; p++) b[p] = output.weight.panel(panel[std::min(p, panels - 1)]);
    alignas(64) int32_t sums[32 * INT8_STRIDE];
    const int k = output.weight.padded_k();
    const auto codes = [&](int row) { return a.codes + row * a.stride; };
    const auto put = [&](const int32_t* from, int row, int rows) { output(from, a, row, rows, panel, panels); };
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

// a [m, K] times the output's weight, by all of a team; ends without a barrier.
template <typename T>
inline void multiply_int8(const Int8Rows& a, const Int8Output<T>& output, Team& team) {
    const int m = a.m, count = output.count();
    if (m == 0) return;
    int at_once = INT8_PANELS;
#if defined(__AMX_INT8__)
    if (a.tiled()) shape_tiles(std::min(m, 16));
    if (m > 16) at_once = 2;
#endif
    if (output.gated) at_once /= 2;
    const int groups = (count + at_once - 1) / at_once;
    const int most = int(std::max<int64_t>(64, INT8_ROWS_BYTES / output.weight.padded_k() / 32 * 32));
    for_chunks(m, most, groups, team, [&](int first, int last, int group, int end) {
        for (; group < end; group++) {
            int panel[INT8_PANELS];
            const int start = group * at_once;
            const int panels = output.panels(start, std::min(at_once, count - start), panel);
            multiply_int8_group(a, first, last, panel, panels, output);
        }
    });
#if defined(__AMX_INT8__)
    if (a.tiled()) _tile_release();
#endif
}

}  // namespace quire
