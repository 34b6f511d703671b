// One of a layer's projections: on floats, or on int8 codes, for which its rows are quantized first.
#pragma once
#include "gemm.h"
#include "gemm_int8.h"

namespace quire {

// Python fills it in by `layer.py`: the two must agree.
struct Projection {
    Weight plain;     // without data: it is `int8`
    Int8Weight int8;  // without codes: it is `plain`

    bool quantized() const {
        return int8.codes != nullptr;
    }
    int k() const {
        return quantized() ? int8.k : plain.k;
    }
    int n() const {
        return quantized() ? int8.n : plain.n;
    }
    // Elements that rows have to hold, from k() on zeros.
    int padded_k() const {
        return quantized() ? int8.k : plain.padded_k();
    }
    // Bytes that a row takes in codes.
    int64_t code_bytes() const {
        return quantized() ? int8.padded_k() : 0;
    }
};

// What a projection is multiplied with.
template <typename T>
struct Rows {
    T* values;       // [m, stride]
    int64_t stride;  // its padded_k() or more
    uint8_t* codes;  // [m, code_bytes()], at a multiple of 64
    float* scales;   // [m]
    int m;

    T* row(int index) const {
        return values + index * stride;
    }
    // Some of the rows, whose codes and scales lie where those of the rows from `coded` on would, `width` bytes each.
    Rows part(int first, int rows, int coded, int64_t width) const {
        return {row(first), stride, codes + coded * width, scales + coded, rows};
    }
    Int8Rows quantized(const Projection& by) const {
        return {codes, scales, by.code_bytes(), m};
    }
    // Makes a row's codes, if the projection takes codes; whoever multiplies comes after a barrier.
    void quantize(const Projection& by, int index) const {
        if (by.quantized()) quantized(by).quantize(index, row(index), by.k());
    }
    // As above, all rows, by all of a team, after a barrier of the caller's.
    void quantize(const Projection& by, Team& team) const {
        if (!by.quantized()) return;
        for (int index = team.first(m); index < team.last(m); index++) quantize(by, index);
        team.barrier();
    }
};

// rows times the projection into `to`, by all of a team; ends without a barrier. Gated: its first half of columns are
// gates for the second.
template <typename T>
inline void multiply(
    const Rows<T>& rows, const Projection& by, bool gated, Activation activation, T* to, int64_t stride, Team& team) {
    if (by.quantized())
        multiply_int8<T>(rows.quantized(by), {to, stride, by.int8, gated, activation}, team);
    else
        multiply<T>(rows.values, rows.stride, rows.m,
                    {to, stride, Columns{by.plain, gated}, activation, gated ? by.n() / 2 : by.n()}, team);
}

}  // namespace quire
