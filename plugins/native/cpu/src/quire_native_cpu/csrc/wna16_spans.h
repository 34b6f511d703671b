// What products with codes have in common: their rows, a thread's room, and the scaling of a span's sums.
#pragma once
#include "output.h"
#include "wna16_weight.h"

namespace quire {

// Rows from which on weights are made bf16, each rounded once, and multiplied as plain ones: then unpacking is little
// beside the product, and scaling the sums of each span would not be.
constexpr int ROUNDED_FROM = 144;

// Whether so many rows are multiplied so.
template <typename T>
inline bool is_rounded(const Wna16Weight& weight, int m) {
#if defined(__AMX_BF16__)
    return sizeof(T) == 2 && m >= ROUNDED_FROM && !weight.exact;
#else
    return (void)weight, (void)m, false;
#endif
}

// Rows as the weight's spans take them.
template <typename T>
struct Wna16Rows {
    const T* values;    // [m, stride], in the packed order
    int64_t stride;
    const float* sums;  // [m, sum_stride], over spans; made if the weight has shifts and is not rounded
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
        if (weight.shifts == nullptr || is_rounded<T>(weight, m)) return;
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
    bool shifted;

    // A missing panel repeats the last.
    SpanScale(const Wna16Weight& weight, const int* panel, int panels, int span) : shifted(weight.shifts != nullptr) {
        for (int p = 0; p < MOST_PANELS; p++) {
            const int own = panel[p < panels ? p : panels - 1];
            scale[p] = load_kept(weight.scales_at(own, span), weight.scales_kept);
            shift[p] = shifted ? load_kept(weight.shifts_at(own, span), weight.shifts_kept) : floats{};
        }
    }
    // One row's sums to its totals, a panel's behind the other's; x_sum of the row over the span.
    template <int PANELS, bool FIRST>
    void add(const float* sums, const float* x_sum, float* totals) const {
        for (int p = 0; p < PANELS; p++) {
            floats x = load(sums + p * PANEL);
            if (shifted) x -= shift[p] * splat(*x_sum);
            store(FIRST ? scale[p] * x : load(totals + p * PANEL) + scale[p] * x, totals + p * PANEL);
        }
    }
    void add(const float* sums, const float* x_sum, float* totals, bool first) const {
        if (first)
            add<MOST_PANELS, true>(sums, x_sum, totals);
        else
            add<MOST_PANELS, false>(sums, x_sum, totals);
    }
};

template <typename T>
inline Target<T> target_of(const Wna16Weight& weight, const Output<T>& output, const int* panel, int panels) {
    Target<T> target = output.target(panel, panels);
    if (weight.bias != nullptr)
        for (int p = 0; p < panels; p++) target.bias[p] = load(weight.bias + panel[p] * PANEL);
    return target;
}

}  // namespace quire
