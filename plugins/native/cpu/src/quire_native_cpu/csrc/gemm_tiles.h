// Matrix products in AMX tiles: how rows, columns and k are cut so that tiles find their operands in near caches, and
// what is done beside them.
#pragma once
#include <type_traits>

#include "output.h"

#if defined(__AMX_BF16__)

namespace quire {

// The rows' part of k should stay in the second level. Where all of k does not, several groups of panels take turns at
// each part, and the rows come from further away once in so many groups.
constexpr int64_t BYTES_PER_GROUP = 1 << 18;
constexpr int MOST_GROUPS = 16;
// A thread's sums; not on its stack, which may be small.
alignas(64) inline thread_local float square_sums[MOST_GROUPS * MOST_ROWS * SQUARE];

// Some rows of k of two panels, which may be the same one.
struct Piece {
    int panel[2], from, rows;
};

// Pieces of a bf16 weight, where they lie: those that come next are asked for while tiles multiply.
class PlainPieces {
public:
    // k is taken in parts of which two panels stay in a first-level cache while a chunk's rows pass by. Short parts cost
    // too: between two of them the sums go through memory.
    static constexpr int K_AT_ONCE = 576;

    explicit PlainPieces(const Weight& weight) : weight_(weight) {}

    void begin(const Piece&) {}  // it is loaded when it is multiplied by
    // Bring a piece within so many steps; it is the next that is taken.
    void ask(const Piece& piece, int steps) {
        for (int p = 0; p < 2; p++) next_[p] = at(piece, p);
        step_ = (piece.rows / 2 + steps - 1) / steps * 64;  // bytes; two rows are a line
    }
    void ask_nothing() {
        step_ = 0;
    }
    void operator()() {
        for (int i = 0; i < step_; i += 64)
            for (int p = 0; p < 2; p++) _mm_prefetch(reinterpret_cast<const char*>(next_[p]) + i, _MM_HINT_T1);
        for (int p = 0; p < 2; p++) next_[p] += step_ / int(sizeof(bf16));
    }
    void take(const Piece& piece, const bf16** panels) const {
        for (int p = 0; p < 2; p++) panels[p] = at(piece, p);
    }
    Target<bf16> target(const Output<bf16>& output, const int* panel, int panels) const {
        return output.target(panel, panels);
    }

private:
    const bf16* at(const Piece& piece, int p) const {
        return weight_.panel<bf16>(piece.panel[p]) + piece.from * PANEL;
    }

    const Weight& weight_;
    const bf16* next_[2] = {};
    int step_ = 0;
};

// What vector instructions do while tiles multiply, a little in each step: make the piece that comes next, and bring the
// last square's sums, if they are complete, to the result.
template <bool GATED, Activation ACTIVATION, typename Pieces>
class Beside {
public:
    Beside(Pieces& pieces, int64_t stride) : pieces_(pieces), stride_(stride) {}

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
        pieces_();
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

    Pieces& pieces_;
    const float* sums_ = nullptr;
    int row_ = 0, rows_ = 0;
    bf16 *upper_ = nullptr, *lower_ = nullptr;
    int64_t stride_;
    floats bias_[2] = {};
};

template <bool GATED, Activation ACTIVATION, typename Pieces>
inline void multiply_squares(
    const bf16* a, int64_t a_stride, int first, int last, int start, int end, int ahead, const Output<bf16>& output,
    Pieces& pieces) {
    const Columns& columns = output.columns;
    const int k = columns.weight.padded_k(), squares = (last - first + SQUARE - 1) / SQUARE;
    const int parts = (k + Pieces::K_AT_ONCE - 1) / Pieces::K_AT_ONCE, part = round_up((k + parts - 1) / parts, K_BLOCK);
    const int64_t bytes = int64_t(last - first) * k * int64_t(sizeof(bf16));
    const int at_once = int(std::min<int64_t>(MOST_GROUPS, bytes / BYTES_PER_GROUP + 1));
    float* const all_sums = square_sums;
    Beside<GATED, ACTIVATION, Pieces> beside(pieces, output.stride);
    const auto piece_of = [&](int group, int from) {
        int panel[2];
        const int panels = columns.group(group, 2, panel);
        return Piece{{panel[0], panel[panels - 1]}, from, std::min(part, k - from)};
    };
    pieces.begin(piece_of(start, 0));
    for (int block = start; block < end; block += at_once) {
        const int stop = std::min(block + at_once, end);
        for (int from = 0; from < k; from += part) {
            const int length = std::min(part, k - from);
            const bool complete = from + length == k;
            for (int group = block; group < stop; group++) {
                int panel[2];
                const int panels = columns.group(group, 2, panel);
                const bf16* b[2];
                pieces.take(piece_of(group, from), b);
                const int after = group + 1 < stop ? group + 1 : complete ? stop : block;
                const int after_from = group + 1 < stop ? from : complete ? 0 : from + length;
                if (after < ahead)
                    pieces.ask(piece_of(after, after_from), squares * (length / K_BLOCK));
                else
                    pieces.ask_nothing();
                const Target<bf16> target = pieces.target(output, panel, panels);
                const bool whole = panels == 2 && target.left >= (GATED ? 1 : 2) * PANEL;
                for (int square = 0; square < squares; square++) {
                    const int upper = std::min(first + square * SQUARE, last - TILE_ROWS);
                    const int lower = std::min(upper + TILE_ROWS, last - TILE_ROWS);
                    float* const sums = all_sums + ((group - block) * MOST_ROWS + square * SQUARE) * SQUARE;
                    tile_square(a + upper * a_stride + from, a + lower * a_stride + from, a_stride, b, length,
                                from == 0, sums, beside);
                    beside.rest();
                    if (!complete) continue;
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
template <typename Pieces>
inline void multiply_squares(
    const bf16* a, int64_t a_stride, int first, int last, int start, int end, int ahead, const Output<bf16>& output,
    Pieces&& pieces) {
    const auto by = [&](auto work) { work(a, a_stride, first, last, start, end, ahead, output, pieces); };
    using P = std::remove_reference_t<Pieces>;
    if (!output.columns.gated) return by(multiply_squares<false, Activation::silu, P>);
    switch (output.activation) {
        case Activation::silu: return by(multiply_squares<true, Activation::silu, P>);
        case Activation::gelu: return by(multiply_squares<true, Activation::gelu, P>);
        default: return by(multiply_squares<true, Activation::gelu_tanh, P>);
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
