// Codes made into bf16 weights for tiles, rounded once, a piece of two panels at a time: for so many rows that it pays.
#pragma once
#include "gemm_tiles.h"
#include "wna16_spans.h"

#if defined(__AMX_BF16__)

namespace quire {

// Pieces of a weight: while tiles multiply by one, vector instructions make the next beside it.
class Wna16Pieces {
public:
    static constexpr int K_AT_ONCE = 576;  // the piece that is multiplied by and the next lie in a second-level cache

    explicit Wna16Pieces(const Wna16Weight& weight) : weight_(weight), room_(own_room()) {}

    void begin(const Piece& piece) {
        ask(piece, 1);
        rest();
    }
    // Make a piece within so many steps.
    void ask(const Piece& piece, int steps) {
        piece_ = piece;
        done_ = 0;
        units_ = 2 * (piece.rows / UNIT);
        due_ = 0;
        pace_ = steps;
    }
    void ask_nothing() {
        units_ = done_ = 0;
    }
    void operator()() {
        for (due_ += units_; due_ >= pace_ && done_ < units_; due_ -= pace_) unit();
    }
    // The piece that was asked for last; it lasts until the one after the next is asked for.
    void take(const Piece&, const bf16** panels) {
        rest();
        for (int p = 0; p < 2; p++) panels[p] = place(p);
        side_ ^= 1;
    }
    Target<bf16> target(const Output<bf16>& output, const int* panel, int panels) const {
        return target_of(weight_, output, panel, panels);
    }

private:
    static constexpr int UNIT = 16;  // rows of a panel that are made at once

    void rest() {
        while (done_ < units_) unit();
    }
    // Not on the stack, which may be small.
    static bf16* own_room() {
        alignas(64) static thread_local bf16 room[2 * 2 * K_AT_ONCE * PANEL];
        return room;
    }
    bf16* place(int p) const {
        return room_ + (2 * side_ + p) * K_AT_ONCE * PANEL;
    }
    // The next rows of the one panel or the other.
    void unit() {
        const int p = done_ % 2, at = done_ / 2 * UNIT, row = piece_.from + at;
        const Wna16Weight& w = weight_;
        const floats scale = load_kept(w.scales_at(piece_.panel[p], row / w.span), w.scales_kept);
        const uint8_t* const line = w.codes + piece_.panel[p] * w.panel_bytes() + int64_t(row) * PANEL * w.bits / 8;
        bf16* const to = place(p) + at * PANEL;
        done_++;
        if (w.shifts == nullptr) return by_bits([&](floats code) { return code * scale; }, line, to);
        const floats shift = load_kept(w.shifts_at(piece_.panel[p], row / w.span), w.shifts_kept);
        by_bits([&](floats code) { return (code - shift) * scale; }, line, to);
    }
    template <typename Value>
    void by_bits(const Value& value, const uint8_t* line, bf16* to) const {
        if (weight_.bits == 4)
            make<4>(value, line, to);
        else
            make<8>(value, line, to);
    }
    template <int BITS, typename Value>
    static void make(const Value& value, const uint8_t* line, bf16* to) {
        constexpr int PAIRS = 16 / BITS;
        for (int row = 0; row < UNIT; row += 2 * PAIRS, line += 64) {
            words pairs[PAIRS];
            unpack_line<BITS>(line, pairs);
            for (int pair = 0; pair < PAIRS; pair++) {
                const words made = pairs_of(value(bits_of<floats>(pairs[pair] << 16)),
                                            value(bits_of<floats>(pairs[pair] & splat(0xffff0000u))));
                std::memcpy(to + (row + 2 * pair) * PANEL, &made, sizeof(made));
            }
        }
    }

    const Wna16Weight& weight_;
    bf16* const room_;
    Piece piece_{};
    int side_ = 0;  // of the room, where the next piece is made
    int done_ = 0, units_ = 0, due_ = 0, pace_ = 1;
};

}  // namespace quire

#endif
