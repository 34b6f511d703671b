// Products with packed weights of 8 bits or fewer, shared out among a team. Codes are whole numbers, which bf16 holds
// exactly: a span of them is unpacked into a near cache, multiplied as bf16 weights are, and its sums are scaled in fp32.
// Each span is summed in one order and added to those before it, whatever rows are beside a row.
#pragma once
#include <algorithm>

#include "chunks.h"
#include "output.h"
#include "team.h"
#include "wna16_weight.h"

namespace quire {

// Rows as the weight's spans take them.
template <typename T>
struct Wna16Rows {
    const T* values;    // [m, stride], in the packed order
    int64_t stride;
    const float* sums;  // [m, sum_stride], over spans; not read if the weight has no shifts
    int64_t sum_stride;
    int m;
};

// What a weight needs of x [m, K] beside it, in `aside` [m, aside_bytes()].
template <typename T>
struct Wna16Aside {
    const Wna16Weight& weight;
    const T* x;
    int64_t stride;
    uint8_t* aside;
    int m;

    // One row; whoever multiplies comes after a barrier.
    void prepare(int row) const {
        const T* from = x + row * stride;
        uint8_t* const own = aside + row * weight.aside_bytes();
        if (weight.gather != nullptr) {
            T* const to = reinterpret_cast<T*>(own);
            for (int i = 0; i < weight.packed_k; i++) to[i] = weight.gather[i] < 0 ? T{} : from[weight.gather[i]];
            from = to;
        }
        if (weight.shifts == nullptr) return;
        float* const sums = reinterpret_cast<float*>(own + weight.gathered_bytes());
        for (int span = 0; span < weight.spans(); span++) {
            floats total = {};
            for (int i = 0; i < weight.span; i += LANES) total += load(from + span * weight.span + i);
            sums[span] = sum(total);
        }
    }
    Wna16Rows<T> rows() const {
        const int64_t step = weight.aside_bytes();
        const float* const sums = reinterpret_cast<const float*>(aside + weight.gathered_bytes());
        const int64_t sum_step = step / int64_t(sizeof(float));
        if (weight.gather == nullptr) return {x, stride, sums, sum_step, m};
        return {reinterpret_cast<const T*>(aside), step / int64_t(sizeof(T)), sums, sum_step, m};
    }
};

// A thread's unpacked span and its sums; not on its stack, which may be small.
template <typename T>
struct Wna16Room {
    alignas(64) T span[MOST_PANELS * MOST_SPAN * PANEL];
    alignas(64) float totals[MOST_ROWS * BLOCK_STRIDE];
};
template <typename T>
inline Wna16Room<T>& wna16_room() {
    static thread_local Wna16Room<T> room;
    return room;
}

// A span's scales for one group of panels.
struct SpanScale {
    floats scale[MOST_PANELS], shift[MOST_PANELS];
    int panels;
    bool shifted;

    SpanScale(const Wna16Weight& weight, const int* panel, int panels, int span)
        : panels(panels), shifted(weight.shifts != nullptr) {
        for (int p = 0; p < panels; p++) {
            const int64_t at = weight.at(panel[p], span);
            scale[p] = load(weight.scales + at);
            shift[p] = shifted ? load(weight.shifts + at) : floats{};
        }
    }
    // One row's sums to its totals, a panel's behind the other's; x_sum of the row over the span.
    void add(const float* sums, const float* x_sum, float* totals, bool first) const {
        for (int p = 0; p < panels; p++) {
            floats x = load(sums + p * PANEL);
            if (shifted) x -= shift[p] * splat(*x_sum);
            x = scale[p] * x;
            store(first ? x : load(totals + p * PANEL) + x, totals + p * PANEL);
        }
    }
};

template <typename T>
inline Target<T> target_of(const Wna16Weight& weight, const Output<T>& output, const int* panel, int panels) {
    Target<T> target = output.target(panel, panels);
    if (weight.bias != nullptr)
        for (int p = 0; p < panels; p++) target.bias[p] = load(weight.bias + panel[p] * PANEL);
    return target;
}

// Rows [first, last), MOST_ROWS at most, by one group of panels. blocks(values, b, length, done) multiplies them all with an
// unpacked span: values are the first row's, done(sums, place, row) takes a row's products.
template <typename T, typename Blocks>
inline void multiply_spans(
    const Wna16Rows<T>& a, const Wna16Weight& weight, const int* panel, int panels, const Output<T>& output,
    const Blocks& blocks) {
    Wna16Room<T>& room = wna16_room<T>();
    const T* b[MOST_PANELS];
    for (int p = 0; p < MOST_PANELS; p++) b[p] = room.span + std::min(p, panels - 1) * weight.span * PANEL;
    const int spans = weight.spans();
    const Target<T> target = target_of(weight, output, panel, panels);
    for (int span = 0; span < spans; span++) {
        for (int p = 0; p < panels; p++)
            unpack(weight, panel[p], span * weight.span, weight.span, room.span + p * weight.span * PANEL);
        const SpanScale scale(weight, panel, panels, span);
        blocks(a.values + span * weight.span, b, weight.span, [&](const float* sums, int place, int row) {
            float* const totals = room.totals + place * BLOCK_STRIDE;
            scale.add(sums, a.sums + row * a.sum_stride + span, totals, span == 0);
            if (span == spans - 1) target(totals, row);
        });
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
    const auto share = [&](int at_once, const auto& blocks) {
        for_chunks(a.m, MOST_ROWS, columns.groups(at_once), team, [&](int first, int last, int group, int end) {
            for (; group < end; group++) {
                int panel[MOST_PANELS];
                const int panels = columns.group(group, at_once, panel);
                multiply_spans(a, weight, panel, panels, output,
                               [&](const T* values, const T* const* b, int length, const auto& done) {
                                   blocks(values, b, panels, length, first, last, done);
                               });
            }
        });
    };
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
        shape_tiles(std::min(a.m, TILE_ROWS));
        if (a.m <= TILE_ROWS)
            share(MOST_PANELS, [&](const T* values, const T* const* b, int, int length, int, int, const auto& done) {
                alignas(64) float sums[TILE_ROWS * BLOCK_STRIDE];
                tile_row(values, a.stride, b, length, sums);
                for (int row = 0; row < a.m; row++) done(sums + row * BLOCK_STRIDE, row, row);
            });
        else
            share(2, [&](const T* values, const T* const* b, int, int length, int first, int last, const auto& done) {
                alignas(64) float sums[SQUARE * SQUARE];
                const auto nothing = [] {};
                for (int square = 0; first + square * SQUARE < last; square++) {
                    // The last one begins early rather than being short: some rows are computed twice, to the same bits.
                    const int upper = std::min(first + square * SQUARE, last - TILE_ROWS);
                    const int lower = std::min(upper + TILE_ROWS, last - TILE_ROWS);
                    tile_square(values + upper * a.stride, values + lower * a.stride, a.stride, b, 0, length, sums,
                                nothing);
                    for (int row = 0; row < SQUARE; row++)
                        done(sums + row * SQUARE, square * SQUARE + row,
                             row < TILE_ROWS ? upper + row : lower + row - TILE_ROWS);
                }
            });
        return _tile_release();
    }
#endif
    share(MOST_PANELS, [&](const T* values, const T* const* b, int panels, int length, int first, int last,
                           const auto& done) {
        alignas(64) float sums[VECTOR_ROWS * BLOCK_STRIDE];
        for (int row = first; row < last; row += VECTOR_ROWS) {
            const int rows = std::min(VECTOR_ROWS, last - row);
            vector_product(values + row * a.stride, a.stride, rows, b, panels, length, sums);
            for (int r = 0; r < rows; r++) done(sums + r * BLOCK_STRIDE, row - first + r, row + r);
        }
    });
}

}  // namespace quire
