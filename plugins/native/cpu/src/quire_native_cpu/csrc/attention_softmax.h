// The softmax of one row on one tile of keys, with what it does to the row so far (online softmax: Milakov and
// Gimelshein 2018, https://arxiv.org/abs/1805.02867; Dao et al. 2022, https://arxiv.org/abs/2205.14135).
// Logits are in powers of two throughout.
#pragma once
#include <cmath>
#include <limits>

#include "attention_products.h"

namespace quire {

constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float NOTHING = -std::numeric_limits<float>::infinity();  // the maximum of no logits

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

inline float power_of_two(float x) {
    return power_of_two<5>(splat(x))[0];
}

inline floats larger(floats a, floats b) {
#if defined(__AVX512F__)
    return bits_of<floats>(_mm512_max_ps(bits_of<__m512>(a), bits_of<__m512>(b)));
#else
    return a > b ? a : b;
#endif
}

inline float largest(floats x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(bits_of<__m512>(x));
#else
    float result = x[0];
    for (int i = 1; i < LANES; i++) result = x[i] > result ? x[i] : result;
    return result;
#endif
}

// Weights as the product with the values takes them, two vectors at a time.
inline void store_weights(floats first, floats second, float* to) {
    store(first, to);
    store(second, to + LANES);
}
inline void store_weights(floats first, floats second, bf16* to) {
#if defined(__AVX512BF16__)
    const __m512bh both = _mm512_cvtne2ps_pbh(bits_of<__m512>(second), bits_of<__m512>(first));
    std::memcpy(to, &both, sizeof(both));
#else
    store(first, to);
    store(second, to + LANES);
#endif
}

// Which of a tile's keys a row sees: [first, last).
struct Visible {
    int first, last;

    floats mask(floats s, int group) const {
        const ints key = ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + group * LANES;
        return ((key >= first) & (key < last)) ? s : splat(NOTHING);
    }
};

// What makes logits of scores: a factor, in powers of two, and a soft cap before that (0: none).
struct Logits {
    float scale, cap;

    float factor() const { return cap == 0 ? scale * LOG2_E : 1.0f; }

    // cap * tanh(s * scale / cap), in powers of two; tanh(x) = 1 - 2 / (1 + e^2x).
    floats capped(floats s) const {
        floats x = s * (scale / cap * 2 * LOG2_E);
        x = x > splat(40.0f) ? splat(40.0f) : x;
        return (1.0f - 2.0f / (1.0f + power_of_two<5>(x))) * (cap * LOG2_E);
    }
};

// Turn a row's scores `s` into weights `p`, filled up with zeros to an even number of groups; update the row's
// maximum and its sums (one a lane); and return what its weighted values so far are to be multiplied by.
template <class Unit, bool MASKED>
inline float soften(float* s, int groups, const Logits& logits, const Visible& visible, float& maximum, float* sums,
                    typename Unit::element* p) {
    constexpr int DEGREE = Unit::size == 1 ? 5 : 3;  // bf16 rounds by more than the coarser polynomial errs
    const float factor = logits.factor();
    floats most = splat(NOTHING);
    for (int g = 0; g < groups; g++) {
        floats x = load(s + g * LANES);
        if (logits.cap != 0) x = logits.capped(x);
        if (MASKED) x = visible.mask(x, g);
        if (MASKED || logits.cap != 0) store(x, s + g * LANES);
        most = larger(x, most);
    }
    const float before = maximum;
    const float found = largest(most) * factor;
    maximum = found > before ? found : before;
    const float offset = maximum == NOTHING ? 0.0f : maximum;  // a row that sees nothing yet gets no weights
    floats sum = load(sums);
    const float change = before == maximum ? 1.0f : power_of_two(before - offset);
    sum *= change;
    for (int g = 0; g < groups; g += 2) {
        const floats first = power_of_two<DEGREE>(load(s + g * LANES) * factor - offset);
        floats second = {};
        if (g + 1 < groups) second = power_of_two<DEGREE>(load(s + (g + 1) * LANES) * factor - offset);
        sum += first;
        sum += second;
        store_weights(first, second, p + g * LANES);
    }
    store(sum, sums);
    return change;
}

}  // namespace quire
