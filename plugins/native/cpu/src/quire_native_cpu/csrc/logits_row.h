// One row of logits: its greatest value, its softmax, a draw from it. T is float or bf16.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"
#include "simd_math.h"

namespace quire {

constexpr float LEAST = -INFINITY;
constexpr int MASS_BLOCK = 256;  // elements summed in fp32; blocks are added up in fp64
constexpr int PEAK_BLOCK = 1024;

// `n` elements, the lanes after them -infinity.
template <typename T>
inline floats load_some(const T* from, int n) {
    if (n >= LANES) return load(from);
    float some[LANES];
    for (int i = 0; i < LANES; i++) some[i] = i < n ? widen(from[i]) : LEAST;
    return load(some);
}

struct Peak {
    float value;
    int index;
};

// The greatest value and its lowest index; the first NaN if there is one.
template <typename T>
inline Peak peak_of(const T* row, int n) {
    float most = LEAST;
    int where = 0;  // the block it was seen in first
    for (int first = 0; first < n; first += PEAK_BLOCK) {
        const int last = std::min(n, first + PEAK_BLOCK);
        floats top = splat(LEAST);
        ints nan{};
        for (int i = first; i < last; i += LANES) {
            const floats v = load_some(row + i, last - i);
            top = v > top ? v : top;
            nan |= v != v;
        }
        float tops[LANES];
        store(top, tops);
        const float here = *std::max_element(tops, tops + LANES);
        if (mask_of(nan)) {
            most = NAN;
            where = first;
            break;
        }
        if (here > most) {
            most = here;
            where = first;
        }
    }
    for (int i = where; i < n; i++) {
        const float v = widen(row[i]);
        if (v == most || (v != v && most != most)) return {v, i};
    }
    return {most, 0};
}

// e^(x - peak) of up to MASS_BLOCK elements, summed; also kept, if `kept` has room for whole vectors of them.
template <typename T>
inline float block_mass(const T* row, int n, float peak, float* kept = nullptr) {
    floats total{};
    for (int i = 0; i < n; i += LANES) {
        const floats e = exp_of(load_some(row + i, n - i) - splat(peak));
        if (kept != nullptr) store(e, kept + i);
        total += e;
    }
    return sum(total);
}

// The sum of e^(x - peak): a number of 1 or more, or NaN where the peak is not finite.
template <typename T>
inline double mass_of(const T* row, int n, float peak) {
    double total = 0;
    for (int first = 0; first < n; first += MASS_BLOCK)
        total += block_mass(row + first, std::min(MASS_BLOCK, n - first), peak);
    return total;
}

// The first id at which the running sum of softmax(row) exceeds `uniform`; one without mass is never drawn, also
// where rounding puts the target past the total. `ends` has room for a number per MASS_BLOCK elements.
template <typename T>
inline int draw(const T* row, int n, double uniform, double* ends) {
    const float peak = peak_of(row, n).value;
    const int blocks = (n + MASS_BLOCK - 1) / MASS_BLOCK;
    double total = 0;
    for (int b = 0; b < blocks; b++) {
        const int first = b * MASS_BLOCK;
        ends[b] = total += block_mass(row + first, std::min(MASS_BLOCK, n - first), peak);
    }
    if (!(total > 0)) return 0;  // NaN: nothing can be drawn
    const double target = uniform * total;
    const double* end = std::upper_bound(ends, ends + blocks, target);
    if (end == ends + blocks) end = std::lower_bound(ends, ends + blocks, total);
    const int first = int(end - ends) * MASS_BLOCK;
    const int some = std::min(MASS_BLOCK, n - first);
    float masses[MASS_BLOCK];
    block_mass(row + first, some, peak, masses);
    double reached = first ? end[-1] : 0.0;
    int last = first;
    for (int i = 0; i < some; i++) {
        if (masses[i] == 0) continue;
        last = first + i;
        reached += masses[i];
        if (reached > target) break;
    }
    return last;
}

}  // namespace quire
