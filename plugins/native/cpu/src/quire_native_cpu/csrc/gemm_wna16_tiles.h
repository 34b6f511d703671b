// Products with codes in AMX tiles: vector instructions unpack the codes that come next, and scale the sums that are
// complete, while tiles multiply.
#pragma once
#include "wna16_spans.h"

#if defined(__AMX_BF16__)

namespace quire {

// Unpacks the blocks of some panels, K_BLOCK rows by one panel each, in the order in which tiles take them, and asks for
// what comes a while later, of the next group of panels too. A missing panel repeats the last.
template <int PANELS>
class Unpacker {
public:
    Unpacker(const Wna16Weight& weight, const int* panel, int panels, bool gated)
        : weight_(weight),
          hop_(gated ? PANELS / 2 : PANELS),
          bytes_(K_BLOCK * PANEL * weight.bits / 8),
          steps_(weight.packed_k / K_BLOCK) {
        for (int p = 0; p < PANELS; p++) {
            panel_[p] = panel[std::min(p, panels - 1)];
            codes_[p] = weight.codes + panel_[p] * weight.panel_bytes();
        }
    }

    int steps() const {
        return steps_;
    }
    void operator()(int step, int p, bf16* to) const {
        const uint8_t* const from = codes_[p] + int64_t(step) * bytes_;
        const int later = step + AHEAD;
        const uint8_t* const panel = codes_[p] + (later < steps_ ? 0 : hop_ * weight_.panel_bytes());
        for (int i = 0; i < bytes_; i += 64) fetch(panel + int64_t(later % steps_) * bytes_ + i);
        if (weight_.bits == 4)
            unpack_lines<4>(from, K_BLOCK, to);
        else
            unpack_lines<8>(from, K_BLOCK, to);
    }
    // Ask for the scales that a span a while after this one has.
    void fetch_scales(int span) const {
        const int spans = weight_.spans(), later = span + std::max(1, AHEAD * K_BLOCK / weight_.span);
        for (int p = 0; p < PANELS; p++) {
            const int panel = panel_[p] + (later < spans ? 0 : hop_);
            fetch(weight_.scales_at(panel, later % spans));
            if (weight_.shifts != nullptr) fetch(weight_.shifts_at(panel, later % spans));
        }
    }

private:
    static constexpr int AHEAD = 8;  // steps

    static void fetch(const void* at) {
        _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
    }

    const Wna16Weight& weight_;
    const uint8_t* codes_[PANELS];
    int panel_[PANELS];
    int hop_;  // panels from one to that of the next group
    int bytes_, steps_;
};

// As many rows as the tiles are shaped for, by one group of four panels.
inline void multiply_tile_row(
    const Wna16Rows<bf16>& a, const Wna16Weight& weight, const int* panel, int panels, const Output<bf16>& output) {
    constexpr int BLOCK = K_BLOCK * PANEL, RING = 4, LEAD = 2;  // blocks in the ring, and how many are unpacked ahead
    Wna16Room<bf16>& room = wna16_room<bf16>();
    const Unpacker<MOST_PANELS> unpacker(weight, panel, panels, output.columns.gated);
    const Target<bf16> target = target_of(weight, output, panel, panels);
    alignas(64) float sums[TILE_ROWS * BLOCK_STRIDE];
    const auto place = [&](int step) { return room.span + step % RING * MOST_PANELS * BLOCK; };
    const auto unpack = [&](int step) {
        if (step < unpacker.steps())
            for (int p = 0; p < MOST_PANELS; p++) unpacker(step, p, place(step) + p * BLOCK);
    };
    for (int step = 0; step < LEAD; step++) unpack(step);
    int step = 0;
    for (int span = 0; span < weight.spans(); span++) {
        unpacker.fetch_scales(span);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int i = 0; i < weight.span; i += K_BLOCK, step++) {
            unpack(step + LEAD);
            const bf16* const b = place(step);
            _tile_loadd(4, a.values + step * K_BLOCK, a.stride * 2);
            _tile_loadd(6, b, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + BLOCK, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(6, b + 2 * BLOCK, 64);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, b + 3 * BLOCK, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        _tile_stored(0, sums, BLOCK_STRIDE * 4);
        _tile_stored(1, sums + PANEL, BLOCK_STRIDE * 4);
        _tile_stored(2, sums + 2 * PANEL, BLOCK_STRIDE * 4);
        _tile_stored(3, sums + 3 * PANEL, BLOCK_STRIDE * 4);
        asm volatile("" : : : "memory");  // the intrinsics do not tell the compiler what they write
        const SpanScale scale(weight, panel, panels, span);
        for (int row = 0; row < a.m; row++) {
            float* const totals = room.totals + row * BLOCK_STRIDE;
            scale.add(sums + row * BLOCK_STRIDE, a.sums + row * a.sum_stride + span, totals, span == 0);
            if (span == weight.spans() - 1) target(totals, row);
        }
    }
}

// What vector instructions do while tiles multiply a square, a little in each step: unpack blocks of the next span, and
// scale the last square's sums.
class SquareBeside {
public:
    // Unpack so many blocks from now on within so many steps: those of `step`, two panels after one another, ...
    void unpack(const Unpacker<2>* unpacker, int step, int blocks, int length, bf16* to, int steps) {
        unpacker_ = unpacker;
        step_ = step;
        blocks_ = blocks;
        length_ = length;
        to_ = to;
        done_ = 0;
        pace_ = steps;
        due_ = 0;
    }
    // Scale the sums of rows from `upper` on, sixteen of them, and as many from `lower` on.
    void finish(const SpanScale* scale, const float* sums, const Wna16Rows<bf16>& a, int span, float* totals,
                const Target<bf16>* target, int upper, int lower, int steps) {
        scale_ = scale;
        sums_ = sums;
        x_sums_ = a.sums + span;
        x_stride_ = a.sum_stride;
        first_ = span == 0;
        totals_ = totals;
        target_ = target;
        upper_ = upper;
        lower_ = lower - TILE_ROWS;
        row_ = 0;
        rows_at_once_ = round_up(SQUARE / std::min(steps, SQUARE), 2);
    }

    void operator()() {
        for (due_ += blocks_; due_ >= pace_ && done_ < blocks_; due_ -= pace_) one_block();
        if (row_ < SQUARE) some_rows(std::min(SQUARE - row_, rows_at_once_));
    }
    void rest_of_blocks() {
        while (done_ < blocks_) one_block();
    }
    void rest_of_rows() {
        if (row_ < SQUARE) some_rows(SQUARE - row_);
    }

private:
    void one_block() {
        const int step = done_ / 2, p = done_ % 2;
        (*unpacker_)(step_ + step, p, to_ + p * length_ * PANEL + step * K_BLOCK * PANEL);
        done_++;
    }
    int row_of(int place) const {
        return (place < TILE_ROWS ? upper_ : lower_) + place;
    }
    void some_rows(int count) {
        const int end = row_ + count;
        if (first_)
            scale_rows<true>(end);
        else
            scale_rows<false>(end);
        if (target_ != nullptr)
            for (int row = row_; row < end; row++) (*target_)(totals_ + row * SQUARE, row_of(row));
        row_ = end;
    }
    template <bool FIRST>
    void scale_rows(int end) const {
        const SpanScale scale = *scale_;  // in registers, whatever is stored meanwhile
        const float *const sums = sums_, *const x_sums = x_sums_;
        float* const totals = totals_;
        const int64_t stride = x_stride_;
        for (int row = row_; row < end; row++)
            scale.add<2, FIRST>(sums + row * SQUARE, x_sums + (scale.shifted ? row_of(row) * stride : 0),
                                totals + row * SQUARE);
    }

    const Unpacker<2>* unpacker_ = nullptr;
    int step_ = 0, blocks_ = 0, length_ = 0, done_ = 0, pace_ = 1, due_ = 0;
    bf16* to_ = nullptr;

    const SpanScale* scale_ = nullptr;
    const float *sums_ = nullptr, *x_sums_ = nullptr;
    int64_t x_stride_ = 0;
    float* totals_ = nullptr;
    const Target<bf16>* target_ = nullptr;
    int upper_ = 0, lower_ = 0, row_ = SQUARE, rows_at_once_ = 0;
    bool first_ = false;
};

// Rows [first, last), more than 16 and MOST_ROWS at most, by one group of two panels.
inline void multiply_squares(
    const Wna16Rows<bf16>& a, const Wna16Weight& weight, int first, int last, const int* panel, int panels,
    const Output<bf16>& output) {
    Wna16Room<bf16>& room = wna16_room<bf16>();
    const Unpacker<2> unpacker(weight, panel, panels, output.columns.gated);
    const Target<bf16> target = target_of(weight, output, panel, panels);
    const int spans = weight.spans(), length = weight.span, steps = length / K_BLOCK;
    const int squares = (last - first + SQUARE - 1) / SQUARE;
    const auto place = [&](int span) { return room.span + span % 2 * 2 * MOST_SPAN * PANEL; };
    alignas(64) float sums[2][SQUARE * SQUARE];
    const int both[2] = {panel[0], panel[panels - 1]};
    SpanScale scales[2] = {{weight, both, 2, 0}, {weight, both, 2, 0}};
    SquareBeside beside;
    beside.unpack(&unpacker, 0, 2 * steps, length, place(0), 1);
    beside.rest_of_blocks();
    for (int span = 0; span < spans; span++) {
        const int more = span + 1 < spans ? 2 * steps : 0;
        unpacker.fetch_scales(span);
        beside.unpack(&unpacker, (span + 1) * steps, more, length, place(span + 1), squares * steps);
        const bf16* const b[2] = {place(span), place(span) + length * PANEL};
        scales[span % 2] = SpanScale(weight, both, 2, span);
        for (int square = 0; square < squares; square++) {
            // The last one begins early rather than being short: some rows are computed twice, to the same bits.
            const int upper = std::min(first + square * SQUARE, last - TILE_ROWS);
            const int lower = std::min(upper + TILE_ROWS, last - TILE_ROWS);
            float* const own = sums[(span * squares + square) % 2];
            const bf16* const values = a.values + span * length;
            tile_square(values + upper * a.stride, values + lower * a.stride, a.stride, b, length, true, own, beside);
            beside.rest_of_rows();
            beside.finish(&scales[span % 2], own, a, span, room.totals + square * SQUARE * SQUARE,
                          span == spans - 1 ? &target : nullptr, upper, lower, steps);
        }
        beside.rest_of_blocks();
    }
    beside.rest_of_rows();
}

}  // namespace quire

#endif
