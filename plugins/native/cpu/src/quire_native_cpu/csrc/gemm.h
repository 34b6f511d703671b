// Matrix products with packed weights, shared out among a team.
#pragma once
#include <algorithm>

#include "chunks.h"
#include "product_block.h"
#include "simd_math.h"
#include "team.h"
#include "weight.h"

namespace quire {

// Which panels are computed beside each other. Plain: the matrix's columns in order. Gated: the columns of
// its first half beside those of its second (gate and up), so that they meet before they are stored.
struct Columns {
    const Weight& weight;
    bool gated;

    int count() const {  // of things that `panels` can name: panels, or pairs of them
        return gated ? weight.panels() / 2 : weight.panels();
    }
    // Panels of `n` things from `first` on: n, or 2n with the gates first.
    int panels(int first, int n, int* index) const {
        for (int i = 0; i < n; i++) index[i] = first + i;
        if (!gated) return n;
        for (int i = 0; i < n; i++) index[n + i] = first + i + weight.panels() / 2;
        return 2 * n;
    }
};

// Where products go. `sums` as in product_block.h; `row`: which row of the result is its first.
template <typename T>
struct Output {
    T* to;
    int64_t stride;
    Columns columns;
    Activation activation;  // of gated columns
    int limit;              // columns of the result, up to which it is written

    // Blocks lie within the result's columns but for the last, whose end is cut off.
    void operator()(const float* sums, int row, int rows, const int* panel, int panels) const {
        const int n = columns.gated ? panels / 2 : panels;
        for (int p = 0; p < n; p++) {
            const int column = panel[p] * PANEL, left = limit - column;
            const floats shift = bias(panel[p]), shift_up = columns.gated ? bias(panel[n + p]) : floats{};
            const float* from = sums + p * PANEL;
            T* line = to + row * stride + column;
            for (int r = 0; r < rows; r++, from += BLOCK_STRIDE, line += stride) {
                floats x = load(from) + shift;
                if (columns.gated) x = rounded(activate(activation, rounded(x))) * rounded(load(from + n * PANEL) + shift_up);
                if (left >= PANEL)
                    store(x, line);
                else
                    store_first(x, line, left);
            }
        }
    }

    floats bias(int panel) const {
        if (columns.weight.bias == nullptr) return floats{};
        const int left = columns.weight.n - panel * PANEL;
        return load_first(static_cast<const T*>(columns.weight.bias) + panel * PANEL, left < PANEL ? left : PANEL);
    }

    // As if it had been stored in between.
    static floats rounded(floats x) {
        T some[LANES];
        store(x, some);
        return load(some);
    }
};

constexpr int MOST_ROWS = 256;              // of a chunk, for what it yields has to stay in a core's caches too
constexpr int64_t CHUNK_BYTES = 1 << 20;  // of A, which every group of panels reads again

#if defined(__AMX_BF16__)

// Two panels and 32 rows of A stay in a first-level cache if k is taken in parts. A long k gains nothing: A comes from
// the second level anyway, and the sums are read and written once a part (measured: 1536 gains, 2048 loses).
constexpr int K_AT_ONCE = 320, LONG_K = 2048;

// As multiply_group. The last tile begins early rather than being short: some rows are computed twice, to the
// same bits.
inline void multiply_tiles(
    const bf16* a, int64_t a_stride, int first, int last, const bf16* const* b, int k, const int* panel, int panels,
    const Output<bf16>& output) {
    alignas(64) float sums[MOST_ROWS * BLOCK_STRIDE];
    if (last - first <= 16) {
        tile_row(a + first * a_stride, a_stride, b, k, sums);
        return output(sums, first, last - first, panel, panels);
    }
    const int squares = (last - first + 31) / 32;
    const int parts = k < LONG_K ? (k + K_AT_ONCE - 1) / K_AT_ONCE : 1, part = round_up((k + parts - 1) / parts, K_BLOCK);
    for (int from = 0; from < k; from += part) {
        const int to = std::min(k, from + part);
        for (int square = 0; square < squares; square++) {
            const int upper = std::min(first + square * 32, last - 16), lower = std::min(upper + 16, last - 16);
            float* const here = sums + square * 32 * BLOCK_STRIDE;
            tile_square(a + upper * a_stride, a + lower * a_stride, a_stride, b, from, to, here);
            if (to < k) continue;
            output(here, upper, 16, panel, panels);
            if (lower > upper) output(here + 16 * BLOCK_STRIDE, lower, 16, panel, panels);
        }
    }
}

#endif

// Rows [first, last) of `a`, MOST_ROWS at most, times one group of panels.
template <typename T>
inline void multiply_group(
    const T* a, int64_t a_stride, int first, int last, const Weight& weight, const int* panel, int panels,
    const Output<T>& output) {
    const T* b[MOST_PANELS];
    for (int p = 0; p < MOST_PANELS; p++) b[p] = weight.panel<T>(panel[std::min(p, panels - 1)]);
    const int k = weight.padded_k();
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) return multiply_tiles(a, a_stride, first, last, b, k, panel, panels, output);
#endif
    alignas(64) float sums[VECTOR_ROWS * BLOCK_STRIDE];
    for (int row = first; row < last; row += VECTOR_ROWS) {
        const int rows = std::min(VECTOR_ROWS, last - row);
        vector_product(a + row * a_stride, a_stride, rows, b, panels, k, sums);
        output(sums, row, rows, panel, panels);
    }
}

// Panels of one group: what the registers take.
template <typename T>
inline int panels_at_once(int rows) {
#if defined(__AMX_BF16__)
    if (sizeof(T) == 2) return rows <= 16 ? 4 : 2;
#endif
    (void)rows;
    return MOST_PANELS;
}

// a [m, K] times the weight, by all of a team; ends without a barrier. a's rows hold padded_k() elements.
template <typename T>
inline void multiply(const T* a, int64_t a_stride, int m, const Output<T>& output, Team& team) {
    const Columns& columns = output.columns;
    const Weight& weight = columns.weight;
    if (m == 0) return;
#if defined(__AMX_BF16__)
    if (sizeof(T) == 2) shape_tiles(std::min(m, 16));
#endif
    const int at_once = panels_at_once<T>(m) / (columns.gated ? 2 : 1);
    const int groups = (columns.count() + at_once - 1) / at_once;
    // No chunk is shorter than 16 rows unless all are.
    const int64_t fits = CHUNK_BYTES / (int64_t(weight.padded_k()) * sizeof(T)) / 32 * 32;
    const int most = int(std::min<int64_t>(MOST_ROWS, std::max<int64_t>(64, fits)));
    for_chunks(m, most, groups, team, [&](int first, int last, int group) {
        int panel[MOST_PANELS];
        const int start = group * at_once;
        const int panels = columns.panels(start, std::min(at_once, columns.count() - start), panel);
        multiply_group(a, a_stride, first, last, weight, panel, panels, output);
    });
#if defined(__AMX_BF16__)
    if (sizeof(T) == 2) _tile_release();
#endif
}

}  // namespace quire
