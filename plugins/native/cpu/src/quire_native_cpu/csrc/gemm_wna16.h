// Products with packed weights of 8 bits or fewer, shared out among a team. Codes are whole numbers, which bf16 holds
// exactly: a span of them is unpacked into a near cache, multiplied as bf16 weights are, and its sums are scaled in fp32.
// Each span is summed in one order and added to those before it, whatever rows are beside a row. Of many bf16 rows, weights
// may be made bf16 instead.
#pragma once
#include <algorithm>

#include "chunks.h"
#include "gemm_wna16_tiles.h"
#include "team.h"
#include "wna16_pieces.h"
#include "wna16_spans.h"

namespace quire {

// Rows [first, last), MOST_ROWS at most, by one group of panels, in vector registers.
template <typename T>
inline void multiply_vectors(
    const Wna16Rows<T>& a, const Wna16Weight& weight, int first, int last, const int* panel, int panels,
    const Output<T>& output) {
    Wna16Room<T>& room = wna16_room<T>();
    const int spans = weight.spans(), length = weight.span;
    const Target<T> target = target_of(weight, output, panel, panels);
    const T* b[MOST_PANELS];
    for (int p = 0; p < panels; p++) b[p] = room.span + p * length * PANEL;
    alignas(64) float sums[VECTOR_ROWS * BLOCK_STRIDE] = {};  // missing panels' are added, and not used
    for (int span = 0; span < spans; span++) {
        for (int p = 0; p < panels; p++)
            unpack(weight, panel[p], span * length, length, room.span + p * length * PANEL);
        const SpanScale scale(weight, panel, panels, span);
        for (int row = first; row < last; row += VECTOR_ROWS) {
            const int rows = std::min(VECTOR_ROWS, last - row);
            vector_product(a.values + row * a.stride + span * length, a.stride, rows, b, panels, length, sums);
            for (int r = 0; r < rows; r++) {
                float* const totals = room.totals + (row - first + r) * BLOCK_STRIDE;
                scale.add(sums + r * BLOCK_STRIDE, a.sums + (row + r) * a.sum_stride + span, totals, span == 0);
                if (span == spans - 1) target(totals, row + r);
            }
        }
    }
}

// a [m, K] times the weight, by all of a team; ends without a barrier. Gated: the first half of columns are gates for the
// second.
template <typename T>
inline void multiply_wna16(
    const Wna16Rows<T>& a, const Wna16Weight& weight, bool gated, Activation activation, T* to, int64_t stride,
    Team& team) {
    if (a.m == 0) return;
    const Weight shape{nullptr, nullptr, weight.packed_k, weight.n, DType::bf16};
    const Columns columns{shape, gated};
    const Output<T> output{to, stride, columns, activation, gated ? weight.n / 2 : weight.n};
    const auto share = [&](int at_once, const auto& work) {
        for_chunks(a.m, MOST_ROWS, columns.groups(at_once), team, [&](int first, int last, int group, int end) {
            for (; group < end; group++) {
                int panel[MOST_PANELS];
                const int panels = columns.group(group, at_once, panel);
                work(first, last, panel, panels);
            }
        });
    };
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
        shape_tiles(std::min(a.m, TILE_ROWS));
        if (is_rounded<T>(weight, a.m))
            for_chunks(a.m, MOST_ROWS, columns.groups(2), team, [&](int first, int last, int group, int end) {
                multiply_squares(a.values, a.stride, first, last, group, end, end, output, Wna16Pieces(weight));
            });
        else if (a.m <= TILE_ROWS)
            share(MOST_PANELS, [&](int, int, const int* panel, int panels) {
                multiply_tile_row(a, weight, panel, panels, output);
            });
        else
            share(2, [&](int first, int last, const int* panel, int panels) {
                multiply_squares(a, weight, first, last, panel, panels, output);
            });
        return _tile_release();
    }
#endif
    share(MOST_PANELS, [&](int first, int last, const int* panel, int panels) {
        multiply_vectors(a, weight, first, last, panel, panels, output);
    });
}

}  // namespace quire
