// Elementary functions of sixteen floats, to within a few units in the last place.
#pragma once
#include "simd.h"

namespace quire {

inline floats select(ints mask, floats yes, floats no) {  // mask: all ones or zero
    const words m = bits_of<words>(mask);
    return bits_of<floats>((bits_of<words>(yes) & m) | (bits_of<words>(no) & ~m));
}

inline floats at_least(floats x, float low) {  // NaN stays
    return select(x < splat(low), splat(low), x);
}
inline floats at_most(floats x, float high) {  // NaN stays
    return select(x > splat(high), splat(high), x);
}

// e^x: 2^n times the Taylor polynomial on [-ln2/2, ln2/2]. Below -87.3 it is zero; above 88.7, infinity.
inline floats exp_of(floats x) {
    const floats y = at_most(at_least(x, -104.0f), 89.0f);
    const floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const floats shifted = y * splat(1.44269504088896341f) + magic;
    const floats n = shifted - magic;
    const floats r = (y - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    floats p = splat(1.0f / 5040);
    p = p * r + splat(1.0f / 720);
    p = p * r + splat(1.0f / 120);
    p = p * r + splat(1.0f / 24);
    p = p * r + splat(1.0f / 6);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    // In two halves, for n may be 128.
    const ints whole = __builtin_convertvector(n, ints);
    const ints half = whole >> 1;
    const floats one = bits_of<floats>((half + 127) << 23);
    const floats two = bits_of<floats>((whole - half + 127) << 23);
    const floats e = p * one * two;
    return select(x < splat(-87.3f), floats{}, select(x == x, e, x));
}

inline floats tanh_of(floats x) {
    const floats e = exp_of(at_most(at_least(x, -10.0f), 10.0f) * splat(2.0f));
    const floats t = (e - splat(1.0f)) / (e + splat(1.0f));
    // Close to zero the difference cancels; there x - x^3/3 + 2x^5/15 is exact enough.
    const floats square = x * x;
    const floats near = x * (splat(1.0f) + square * (splat(-1.0f / 3) + square * splat(2.0f / 15)));
    return select(square < splat(0.0025f), near, t);
}

// Abramowitz and Stegun, 7.1.26: within 1.5e-7.
inline floats erf_of(floats x) {
    const floats size = select(x < floats{}, -x, x);
    const floats t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * size);
    floats p = splat(1.061405429f);
    p = p * t + splat(-1.453152027f);
    p = p * t + splat(1.421413741f);
    p = p * t + splat(-0.284496736f);
    p = p * t + splat(0.254829592f);
    const floats e = splat(1.0f) - p * t * exp_of(-size * size);
    return select(x < floats{}, -e, e);
}

inline floats silu(floats x) {
    return x / (splat(1.0f) + exp_of(-x));
}
inline floats gelu(floats x) {
    return x * splat(0.5f) * (splat(1.0f) + erf_of(x * splat(0.70710678118654752f)));
}
inline floats gelu_tanh(floats x) {
    const floats inner = splat(0.79788456080286536f) * (x + splat(0.044715f) * x * x * x);
    return x * splat(0.5f) * (splat(1.0f) + tanh_of(inner));
}

enum class Activation : int32_t { silu = 0, gelu = 1, gelu_tanh = 2 };

inline floats activate(Activation kind, floats x) {
    switch (kind) {
        case Activation::silu: return silu(x);
        case Activation::gelu: return gelu(x);
        default: return gelu_tanh(x);
    }
}

}  // namespace quire
