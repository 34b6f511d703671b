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

// e^x: 2^n times a polynomial on [-ln2/2, ln2/2]. Below -87.3 it is zero; above 88.7, infinity.
inline floats exp_of(floats x) {
#if defined(__AVX512F__)
    // max and min return their second operand for NaN; scaling by 2^n rounds, overflows and underflows by itself.
    const __m512 low = _mm512_set1_ps(-87.3f), high = _mm512_set1_ps(89.0f), given = bits_of<__m512>(x);
    const __m512 y = _mm512_min_ps(high, _mm512_max_ps(low, given));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(y, _mm512_set1_ps(1.44269504088896341f)), 0);
    const floats whole = bits_of<floats>(n);
    const floats r = (bits_of<floats>(y) - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
#else
    const floats y = at_most(at_least(x, -104.0f), 89.0f);
    const floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const floats whole = (y * splat(1.44269504088896341f) + magic) - magic;
    const floats r = (y - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
#endif
    floats p = splat(1.0f / 5040);
    p = p * r + splat(1.0f / 720);
    p = p * r + splat(1.0f / 120);
    p = p * r + splat(1.0f / 24);
    p = p * r + splat(1.0f / 6);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
#if defined(__AVX512F__)
    const __m512 e = _mm512_scalef_ps(bits_of<__m512>(p), n);
    return bits_of<floats>(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(given, low, _CMP_LT_OQ), e, _mm512_setzero_ps()));
#else
    // In two halves, for n may be 128.
    const ints n = __builtin_convertvector(whole, ints), half = n >> 1;
    const floats one = bits_of<floats>((half + 127) << 23);
    const floats two = bits_of<floats>((n - half + 127) << 23);
    return select(x < splat(-87.3f), floats{}, select(x == x, p * one * two, x));
#endif
}

constexpr float LOG2_E = 1.44269504088896340736f;

// 2 to the power of each x <= 0 (or a little above), -inf giving 0 and NaN itself. 2 to the power of a fraction is a
// polynomial, exact at 0 and 1; its relative error is below 1.1e-4 (degree 3) or 1e-7 (degree 5).
template <int DEGREE>
inline floats power_of_two(floats x) {
    static_assert(DEGREE == 3 || DEGREE == 5, "these have been fitted");
#if defined(__AVX512DQ__)
    const floats fraction = bits_of<floats>(_mm512_reduce_ps(bits_of<__m512>(x), 1));  // x - floor(x)
#else
    x = x < splat(-127.0f) ? splat(-127.0f) : x;
    ints whole = __builtin_convertvector(x, ints);
    whole += __builtin_convertvector(whole, floats) > x;  // a true lane is -1: towards minus infinity
    const floats fraction = x - __builtin_convertvector(whole, floats);
#endif
    floats result;
    if constexpr (DEGREE == 3) {
        result = fraction * 0.07826796919107437f + 0.2263076901435852f;
        result = result * fraction + 0.6954243183135986f;
    } else {
        result = fraction * 0.001879318617284298f + 0.008990995585918427f;
        result = result * fraction + 0.05581867694854736f;
        result = result * fraction + 0.240159273147583f;
        result = result * fraction + 0.6931517124176025f;
    }
    result = result * fraction + 1.0f;
#if defined(__AVX512DQ__)
    return bits_of<floats>(_mm512_scalef_ps(bits_of<__m512>(result), bits_of<__m512>(x)));  // times 2^floor(x)
#else
    return result * bits_of<floats>((whole + 127) << 23);  // 2^-127 becomes 0
#endif
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

// 1 / x for x >= 1, infinity included: within an ulp or two, without the slow division.
inline floats reciprocal(floats x) {
#if defined(__AVX512F__)
    const floats guess = bits_of<floats>(_mm512_rcp14_ps(bits_of<__m512>(x)));
    const floats better = guess * (splat(2.0f) - x * guess);
    return select(guess == floats{}, guess, better);  // infinity times zero is no number
#else
    return splat(1.0f) / x;
#endif
}

inline floats silu(floats x) {
    return x * reciprocal(splat(1.0f) + exp_of(-x));
}
// Within 2e-4 of it, where the instructions for that are: a tenth of what rounding to bf16 errs.
inline floats coarse_silu(floats x) {
#if defined(__AVX512DQ__)
    const __m512 whole = bits_of<__m512>(splat(1.0f) + power_of_two<3>(x * -LOG2_E));
    return x * bits_of<floats>(_mm512_rcp14_ps(whole));
#else
    return silu(x);
#endif
}
inline floats gelu(floats x) {
    return x * splat(0.5f) * (splat(1.0f) + erf_of(x * splat(0.70710678118654752f)));
}
inline floats gelu_tanh(floats x) {
    const floats inner = splat(0.79788456080286536f) * (x + splat(0.044715f) * x * x * x);
    return x * splat(0.5f) * (splat(1.0f) + tanh_of(inner));
}

enum class Activation : int32_t { silu = 0, gelu = 1, gelu_tanh = 2 };

// As exact as T is.
template <typename T>
inline floats activate(Activation kind, floats x) {
    switch (kind) {
        case Activation::silu: return sizeof(T) == 2 ? coarse_silu(x) : silu(x);
        case Activation::gelu: return gelu(x);
        default: return gelu_tanh(x);
    }
}

}  // namespace quire
