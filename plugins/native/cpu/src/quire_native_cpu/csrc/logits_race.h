// The race that tokens run by lots, see quire/ops/coupling.py: one row of logits.
#pragma once
#include "logits_row.h"

namespace quire {

inline words mixed(words bits) {
    bits = (bits ^ (bits >> 16)) * splat(0x21f0aaadu);
    bits = (bits ^ (bits >> 15)) * splat(0x735a2d97u);
    return bits ^ (bits >> 15);
}

// The token x for which p(x) / E(x) is greatest, E being the lots of a key; some token of a row that has no peak.
// With u in (0, 1) a lot is -log(1 - u), and no less than u: who would not win with u is out, without a logarithm.
template <typename T>
inline int race(const T* row, int n, uint32_t low, uint32_t high) {
    constexpr uint32_t STEP = 0x9e3779b1u;
    const Peak peak = peak_of(row, n);
    if (!(peak.value > LEAST)) return peak.index;
    words ids;
    for (int lane = 0; lane < LANES; lane++) ids[lane] = uint32_t(lane) * STEP + low;
    float best = 0;
    int winner = peak.index;
    for (int i = 0; i < n; i += LANES, ids += splat(LANES * STEP)) {
        const floats weight = exp_of(load_some(row + i, n - i) - splat(peak.value));
        const words bits = mixed(mixed(ids) ^ splat(high));
        const floats u = (__builtin_convertvector(bits, floats) + splat(0.5f)) * splat(0x1p-32f);
        for (uint32_t mask = mask_of(weight > u * splat(best)); mask; mask &= mask - 1) {
            const int lane = __builtin_ctz(mask);
            const float score = weight[lane] / -std::log1p(-u[lane]);
            if (score > best) best = score, winner = i + lane;
        }
    }
    return winner;
}

}  // namespace quire
