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

// The larger of each lane in one half of its group of 2 * WIDTH lanes and its partner in the other: a's groups' results
// first, then b's, group by group.
template <int WIDTH>
inline floats larger_halves(floats a, floats b) {
    ints low, high;
    for (int i = 0; i < LANES; i++) {
        const int group = i / WIDTH, lane = i % WIDTH;
        const int from = group % 2 * LANES + group / 2 * 2 * WIDTH + lane;
        low[i] = from;
        high[i] = from + WIDTH;
    }
    return larger(__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high));
}

// The largest lane of each of sixteen vectors, which it overwrites; each halves what is left to compare.
inline floats largest_of_each(floats (&x)[LANES]) {
    for (int i = 0; i < 8; i++) x[i] = larger_halves<8>(x[i], x[i + 8]);
    for (int i = 0; i < 4; i++) x[i] = larger_halves<4>(x[i], x[i + 4]);
    for (int i = 0; i < 2; i++) x[i] = larger_halves<2>(x[i], x[i + 2]);
    return larger_halves<1>(x[0], x[1]);
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

// Turn a row's scores into logits, but for the factor, and find the largest for each lane.
template <bool MASKED>
inline floats look(float* s, int groups, const Logits& logits, const Visible& visible) {
    floats most = splat(NOTHING);
    for (int g = 0; g < groups; g++) {
        floats x = load(s + g * LANES);
        if (logits.cap != 0) x = logits.capped(x);
        if (MASKED) x = visible.mask(x, g);
        if (MASKED || logits.cap != 0) store(x, s + g * LANES);
        most = larger(x, most);
    }
    return most;
}

// What sixteen rows' maxima become, what is subtracted from their logits, and what their weighted values so far are to
// be multiplied by.
struct Shift {
    floats offset, change;

    // `most`: `rows` vectors of `look`'s.
    Shift(floats (&most)[LANES], int rows, float factor, float* maxima) {
        floats found{};
        if (rows < 4) {
            for (int i = 0; i < rows; i++) found[i] = largest(most[i]);
        } else {
            for (int i = rows; i < LANES; i++) most[i] = splat(NOTHING);
            found = largest_of_each(most);
        }
        found *= factor;
        const floats before = load(maxima), maximum = select(found > before, found, before);
        store(maximum, maxima);
        offset = select(maximum == splat(NOTHING), floats{}, maximum);  // a row that sees nothing yet gets no weights
        change = select(before == maximum, splat(1.0f), power_of_two<5>(before - offset));
    }
};

// Turn a row's logits into weights `p`, filled up with zeros to an even number of groups, and update its sums (one a
// lane).
template <class Unit>
inline void soften(const float* s, int groups, float factor, float offset, float change, float* sums,
                   typename Unit::element* p) {
    constexpr int DEGREE = Unit::size == 1 ? 5 : 3;  // bf16 rounds by more than the coarser polynomial errs
    floats sum = load(sums);
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
}

}  // namespace quire
