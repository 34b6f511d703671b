// One of a layer's projections: on floats; on int8 codes, for which its rows are quantized first; or on floats by weights
// of few bits, whose spans may want rows in another order, and their sums.
#pragma once
#include "gemm.h"
#include "gemm_int8.h"
#include "gemm_wna16.h"

namespace quire {

// Python fills it in by `layer.py`: the two must agree. One of the three has data or codes.
struct Projection {
    Weight plain;
    Int8Weight int8;
    Wna16Weight wna16;

    bool is_int8() const {
        return int8.codes != nullptr;
    }
    bool is_wna16() const {
        return wna16.codes != nullptr;
    }
    int k() const {
        return is_int8() ? int8.k : is_wna16() ? wna16.k : plain.k;
    }
    int n() const {
        return is_int8() ? int8.n : is_wna16() ? wna16.n : plain.n;
    }
    // Elements that rows have to hold, from k() on zeros.
    int padded_k() const {
        return is_int8() || is_wna16() ? k() : plain.padded_k();
    }
    // Bytes that a row takes beside its elements: as codes, or as spans want it.
    int64_t aside_bytes() const {
        return is_int8() ? int8.padded_k() : is_wna16() ? wna16.aside_bytes() : 0;
    }
};

// What a projection is multiplied with.
template <typename T>
struct Rows {
    T* values;       // [m, stride]
    int64_t stride;  // its padded_k() or more
    uint8_t* aside;  // [m, aside_bytes()], at a multiple of 64
    float* scales;   // [m], of codes
    int m;

    T* row(int index) const {
        return values + index * stride;
    }
    // Some of the rows, whose bytes aside and scales lie where those of the rows from `place` on would, `width` each.
    Rows part(int first, int rows, int place, int64_t width) const {
        return {row(first), stride, aside + place * width, scales + place, rows};
    }
    Int8Rows int8(const Projection& by) const {
        return {aside, scales, by.aside_bytes(), m};
    }
    Wna16Aside<T> wna16(const Projection& by) const {
        return {by.wna16, values, stride, aside, m};
    }
    // Makes what the projection wants of a row aside; whoever multiplies comes after a barrier.
    void prepare(const Projection& by, int index) const {
        if (by.aside_bytes() == 0) return;
        if (by.is_int8())
            int8(by).quantize(index, row(index), by.k());
        else
            wna16(by).prepare(index);
    }
    // As above, all rows, by all of a team, after a barrier of the caller's.
    void prepare(const Projection& by, Team& team) const {
        if (by.aside_bytes() == 0) return;
        for (int index = team.first(m); index < team.last(m); index++) prepare(by, index);
        team.barrier();
    }
};

// rows times the projection into `to`, by all of a team; ends without a barrier. Gated: its first half of columns are
// gates for the second.
template <typename T>
inline void multiply(
    const Rows<T>& rows, const Projection& by, bool gated, Activation activation, T* to, int64_t stride, Team& team) {
    if (by.is_int8())
        multiply_int8<T>(rows.int8(by), {to, stride, by.int8, gated, activation}, team);
    else if (by.is_wna16())
        multiply_wna16<T>(rows.wna16(by).rows(), by.wna16, gated, activation, to, stride, team);
    else
        multiply<T>(rows.values, rows.stride, rows.m,
                    {to, stride, Columns{by.plain, gated}, activation, gated ? by.n() / 2 : by.n()}, team);
}

}  // namespace quire
