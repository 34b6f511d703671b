// The softmax of one row on one tile of keys, with what it does to the row so far (online softmax: Milakov and
// Gimelshein 2018, https://arxiv.org/abs/1805.02867; Dao et al. 2022, https://arxiv.org/abs/2205.14135).
// Logits are in powers of two throughout.
#pragma once
#include <cmath>
#include <limits>

#include "attention_products.h"
#include "simd_math.h"

namespace quire {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();  // the maximum of no logits

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
        store(first, second, p + g * LANES);
    }
    store(sum, sums);
    return change;
}

}  // namespace quire
