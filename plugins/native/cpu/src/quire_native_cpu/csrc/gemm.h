// Matrix products with packed weights, shared out among a team.
#pragma once
#include <algorithm>
#include <type_traits>

#include "chunks.h"
#include "gemm_tiles.h"
#include "output.h"
#include "team.h"

namespace quire {

// Rows [first, last) of `a` by one group of panels, in vector registers.
template <typename T>
inline void multiply_vectors(
    const T* a, int64_t a_stride, int first, int last, const int* panel, int panels, const Output<T>& output) {
    const Weight& weight = output.columns.weight;
    const T* b[MOST_PANELS];
    for (int p = 0; p < panels; p++) b[p] = weight.panel<T>(panel[p]);
    const Target<T> target = output.target(panel, panels);
    alignas(64) float sums[VECTOR_ROWS * BLOCK_STRIDE];
    for (int row = first; row < last; row += VECTOR_ROWS) {
        const int rows = std::min(VECTOR_ROWS, last - row);
        vector_product(a + row * a_stride, a_stride, rows, b, panels, weight.padded_k(), sums);
        for (int r = 0; r < rows; r++) target(sums + r * BLOCK_STRIDE, row + r);
    }
}

// Does nothing with a part of a result.
struct Unseen {
    void operator()(int, int, int, int) const {}
};

constexpr int PIECE = 512;  // columns that somebody looks at together

// a [m, K] times the weight, by all of a team; ends without a barrier. a's rows hold padded_k() elements.
// see(first_row, last_row, column, end) is called for each piece of the result by the thread that has just made it, for
// later it would lie in far caches; each thread's columns ascend.
template <typename T, typename See = Unseen>
inline void multiply(const T* a, int64_t a_stride, int m, const Output<T>& output, Team& team, const See& see = See()) {
    const Columns& columns = output.columns;
    if (m == 0) return;
    const auto share = [&](int panels, const auto& work) {
        const int width = (columns.gated ? panels / 2 : panels) * PANEL;
        const int at_once = std::is_same_v<See, Unseen> ? columns.groups(panels) : PIECE / width;
        for_chunks(m, MOST_ROWS, columns.groups(panels), team, [&](int first, int last, int group, int end) {
            for (int next; group < end; group = next) {
                next = std::min(end, group + at_once);
                work(first, last, group, next, end);
                see(first, last, group * width, std::min(next * width, output.limit));
            }
        });
    };
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
        shape_tiles(std::min(m, TILE_ROWS));
        if (m > TILE_ROWS)
            share(2, [&](int first, int last, int group, int end, int ahead) {
                multiply_squares(a, a_stride, first, last, group, end, ahead, output, PlainPieces(columns.weight));
            });
        else
            share(MOST_PANELS, [&](int, int, int group, int end, int) {
                for (; group < end; group++) multiply_tile_row(a, a_stride, m, group, output);
            });
        return _tile_release();
    }
#endif
    share(MOST_PANELS, [&](int first, int last, int group, int end, int) {
        for (; group < end; group++) {
            int panel[MOST_PANELS];
            const int panels = columns.group(group, MOST_PANELS, panel);
            multiply_vectors(a, a_stride, first, last, panel, panels, output);
        }
    });
}

}  // namespace quire
