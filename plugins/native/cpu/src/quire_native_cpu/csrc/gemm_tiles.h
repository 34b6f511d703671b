// Matrix products in AMX tiles: how rows, columns and k are cut so that tiles find their operands in near caches, and
// what is done beside them.
#pragma once
#include "output.h"

#if defined(__AMX_BF16__)

namespace quire {

// k is taken in parts of which two panels stay in a first-level cache while a chunk's rows pass by. Short parts cost
// too: between two of them the sums go through memory.
constexpr int K_AT_ONCE = 576;

// The rows' part of k should stay in the second level. Where all of k does not, several groups of panels take turns at
// each part, and the rows come from further away once in so many groups.
constexpr int64_t BYTES_PER_GROUP = 1 << 18;
constexpr int MOST_GROUPS = 16;
// A thread's sums; not on its stack, which may be small.
alignas(64) inline thread_local float square_sums[MOST_GROUPS * MOST_ROWS * SQUARE];

// What vector instructions do while tiles multiply, a little in each step: ask for the panels that come next, and bring
// the last square's sums, if they are complete, to the result.
template <bool GATED, Activation ACTIVATION>
class Beside {
public:
    explicit Beside(int64_t stride) : stride_(stride) {}

    // Ask for a part of two panels, `lines` of 64 bytes each, within so many steps.
    void fetch(const bf16* left, const bf16* right, int lines, int steps) {
        left_ = reinterpret_cast<const char*>(left);
        right_ = reinterpret_cast<const char*>(right);
        step_ = (lines + steps - 1) / steps * 64;
    }

    // Rows from `upper` on, sixteen of them, and as many from `lower` on if that is further below.
    void finish(const float* sums, const Target<bf16>& target, int upper, int lower) {
        sums_ = sums;
        row_ = 0;
        rows_ = lower > upper ? 2 * TILE_ROWS : TILE_ROWS;
        upper_ = target.to + upper * stride_;
        lower_ = target.to + (lower - TILE_ROWS) * stride_;
        bias_[0] = target.bias[0];
        bias_[1] = target.bias[1];
    }

    void operator()() {
        for (int i = 0; i < step_; i += 64) {
            _mm_prefetch(left_ + i, _MM_HINT_T1);
            _mm_prefetch(right_ + i, _MM_HINT_T1);
        }
        left_ += step_;
        right_ += step_;
        if (row_ < rows_) two_rows();
    }

    // Whatever is left of a square.
    void rest() {
        while (row_ < rows_) two_rows();
    }

private:
    void two_rows() {
        bf16* const to = (row_ < TILE_ROWS ? upper_ : lower_) + row_ * stride_;
        put(sums_ + row_ * SQUARE, to);
        put(sums_ + (row_ + 1) * SQUARE, to + stride_);
        row_ += 2;
    }

    void put(const float* sums, bf16* to) const {
        const floats left = load(sums) + bias_[0], right = load(sums + PANEL) + bias_[1];
        if constexpr (GATED)
            store(Target<bf16>::gate(ACTIVATION, left, right), to);
        else
            store(left, right, to);
    }

    const char *left_ = nullptr, *right_ = nullptr;
    int step_ = 0;  // bytes
    const float* sums_ = nullptr;
    int row_ = 0, rows_ = 0;
    bf16 *upper_ = nullptr, *lower_ = nullptr;
    int64_t stride_;
    floats bias_[2] = {};
};

template <bool GATED, Activation ACTIVATION>
inline void multiply_squares(
    const bf16* a, int64_t a_stride, int first, int last, int start, int end, int ahead, const Output<bf16>& output) {
    const Columns& columns = output.columns;
    const Weight& weight = columns.weight;
    const int k = weight.padded_k(), squares = (last - first + SQUARE - 1) / SQUARE;
    const int parts = (k + K_AT_ONCE - 1) / K_AT_ONCE, part = round_up((k + parts - 1) / parts, K_BLOCK);
    const int64_t bytes = int64_t(last - first) * k * int64_t(sizeof(bf16));
    const int at_once = int(std::min<int64_t>(MOST_GROUPS, bytes / BYTES_PER_GROUP + 1));
    float* const all_sums = square_sums;
    Beside<GATED, ACTIVATION> beside(output.stride);
    for (int block = start; block < end; block += at_once) {
        const int stop = std::min(block + at_once, end);
        for (int from = 0; from < k; from += part) {
            const int to = std::min(k, from + part);
            for (int group = block; group < stop; group++) {
                int panel[2], next[2];
                const int panels = columns.group(group, 2, panel);
                const bf16* const b[2] = {weight.panel<bf16>(panel[0]), weight.panel<bf16>(panel[panels - 1])};
                const int after = group + 1 < stop ? group + 1 : to < k ? block : stop;
                const int after_from = group + 1 < stop ? from : to < k ? to : 0;
                if (after < ahead) {
                    const int other = columns.group(after, 2, next) - 1, at = after_from * PANEL;
                    beside.fetch(weight.panel<bf16>(next[0]) + at, weight.panel<bf16>(next[other]) + at,
                                 std::min(part, k - after_from) / 2, squares * ((to - from) / K_BLOCK));
                } else {
                    beside.fetch(nullptr, nullptr, 0, 1);
                }
                const Target<bf16> target = output.target(panel, panels);
                const bool whole = panels == 2 && target.left >= (GATED ? 1 : 2) * PANEL;
                for (int square = 0; square < squares; square++) {
                    const int upper = std::min(first + square * SQUARE, last - TILE_ROWS);
                    const int lower = std::min(upper + TILE_ROWS, last - TILE_ROWS);
                    float* const sums = all_sums + ((group - block) * MOST_ROWS + square * SQUARE) * SQUARE;
                    tile_square(a + upper * a_stride, a + lower * a_stride, a_stride, b, from, to, sums, beside);
                    beside.rest();
                    if (to < k) continue;
                    if (whole)
                        beside.finish(sums, target, upper, lower);
                    else
                        for (int row = 0; row < SQUARE; row++)
                            target(sums + row * SQUARE, row < TILE_ROWS ? upper + row : lower + row - TILE_ROWS);
                }
            }
        }
        beside.rest();  // before its sums are overwritten
    }
}

// Rows [first, last), more than 16 and MOST_ROWS at most, by groups [start, end) of two panels; what comes after
// them up to `ahead` is asked for. The last square begins early rather than being short: some rows are computed twice, to the
// same bits.
inline void multiply_squares(
    const bf16* a, int64_t a_stride, int first, int last, int start, int end, int ahead, const Output<bf16>& output) {
    const auto by = [&](auto work) { work(a, a_stride, first, last, start, end, ahead, output); };
    if (!output.columns.gated) return by(multiply_squares<false, Activation::silu>);
    switch (output.activation) {
        case Activation::silu: return by(multiply_squares<true, Activation::silu>);
        case Activation::gelu: return by(multiply_squares<true, Activation::gelu>);
        default: return by(multiply_squares<true, Activation::gelu_tanh>);
    }
}

// As many rows as the tiles are shaped for, by one group of four panels.
inline void multiply_tile_row(const bf16* a, int64_t a_stride, int rows, int group, const Output<bf16>& output) {
    const Weight& weight = output.columns.weight;
    int panel[MOST_PANELS];
    const int panels = output.columns.group(group, MOST_PANELS, panel);
    const bf16* b[MOST_PANELS];
    for (int p = 0; p < MOST_PANELS; p++) b[p] = weight.panel<bf16>(panel[std::min(p, panels - 1)]);
    alignas(64) float sums[TILE_ROWS * BLOCK_STRIDE];
    tile_row(a, a_stride, b, weight.padded_k(), sums);
    const Target<bf16> target = output.target(panel, panels);
    for (int row = 0; row < rows; row++) target(sums + row * BLOCK_STRIDE, row);
}

}  // namespace quire

#endif
