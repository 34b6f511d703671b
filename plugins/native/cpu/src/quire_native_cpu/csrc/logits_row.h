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

// The greatest of n elements, or a NaN if there is one. Several maxima side by side: one alone waits for itself.
inline float block_peak(const float* x, int n) {
    constexpr int SIDE_BY_SIDE = 4;
    floats tops[SIDE_BY_SIDE];
    for (floats& top : tops) top = splat(LEAST);
    ints nan{};
    const auto see = [&](floats v, floats& top) {
        top = v > top ? v : top;
        nan |= v != v;
    };
    int i = 0;
    for (; i + SIDE_BY_SIDE * LANES <= n; i += SIDE_BY_SIDE * LANES)
        for (int c = 0; c < SIDE_BY_SIDE; c++) see(load(x + i + c * LANES), tops[c]);
    for (; i < n; i += LANES) see(load_some(x + i, n - i), tops[0]);
    if (mask_of(nan)) return NAN;
    float most = LEAST;
    for (const floats& top : tops)
        for (int lane = 0; lane < LANES; lane++) most = std::max(most, top[lane]);
    return most;
}

// bf16 as numbers that are ordered as they are: -0 comes before 0, NaNs lie beyond the infinities. Its own inverse.
inline shorts ordered(shorts bits) {
    return bits ^ (bits >> 15 & 0x7fff);
}

inline float block_peak(const bf16* x, int n) {
    constexpr int SIDE_BY_SIDE = 2, WIDTH = 2 * LANES;
    constexpr int16_t MOST = 0x7f80, LOWEST = int16_t(0x807f);  // of the infinities
    shorts tops[SIDE_BY_SIDE], lows[SIDE_BY_SIDE];
    for (int c = 0; c < SIDE_BY_SIDE; c++) tops[c] = shorts{} + LOWEST, lows[c] = shorts{} + MOST;
    const auto see = [&](shorts v, int c) {
        tops[c] = v > tops[c] ? v : tops[c];
        lows[c] = v < lows[c] ? v : lows[c];
    };
    int i = 0;
    for (; i + SIDE_BY_SIDE * WIDTH <= n; i += SIDE_BY_SIDE * WIDTH)
        for (int c = 0; c < SIDE_BY_SIDE; c++) see(ordered(load_as<shorts>(x + i + c * WIDTH)), c);
    for (; i < n; i += WIDTH) {
        shorts rest = shorts{} + int16_t(0xff80);
        std::memcpy(&rest, x + i, std::min(WIDTH, n - i) * sizeof(bf16));
        see(ordered(rest), 0);
    }
    int16_t most = LOWEST, least = MOST;
    for (int c = 0; c < SIDE_BY_SIDE; c++)
        for (int lane = 0; lane < WIDTH; lane++) {
            most = std::max(most, int16_t(tops[c][lane]));
            least = std::min(least, int16_t(lows[c][lane]));
        }
    if (most > MOST || least < LOWEST) return NAN;
    return widen(bf16{uint16_t(most ^ (most >> 15 & 0x7fff))});
}

// Ask for a block before it is needed. Logits lie in the last cache by now, and the processor's own prefetching ends
// with each page: 3 MB take 174 us without this, 122 with it. Past a row's end nothing is read, only asked for.
template <typename T>
inline void prefetch_block(const T* row, int first) {
    const uintptr_t block = reinterpret_cast<uintptr_t>(row) + first * sizeof(T);
    for (size_t at = 0; at < PEAK_BLOCK * sizeof(T); at += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(block + at), 0, 2);
}

// The greatest value and its lowest index; the first NaN if there is one.
template <typename T>
inline Peak peak_of(const T* row, int n) {
    float most = LEAST;
    int where = 0;  // the block it was seen in first
    for (int first = 0; first < n; first += PEAK_BLOCK) {
        prefetch_block(row, first + 2 * PEAK_BLOCK);
        const float here = block_peak(row + first, std::min(PEAK_BLOCK, n - first));
        if (here > most || here != here) {
            most = here;
            where = first;
        }
        if (here != here) break;
    }
    for (int i = where; i < n; i += LANES) {
        const floats v = load_some(row + i, n - i);
        const uint32_t found = mask_of(most == most ? v == splat(most) : v != v);
        if (found == 0) continue;
        const int index = i + __builtin_ctz(found);
        return {widen(row[index]), index};
    }
    return {most, 0};
}

// Whether `a` is the peak of the columns of both: found in parts, in any order, it is what `peak_of` finds in the whole.
inline bool goes_before(const Peak& a, const Peak& b) {
    const bool nan = a.value != a.value, other = b.value != b.value;
    if (nan || other) return nan && (!other || a.index < b.index);
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// Whether any of n elements is greater than a limit, or a NaN: to know no more than that takes no sum over lanes.
inline bool exceeds(const float* x, int n, float limit) {
    ints found{};
    for (int i = 0; i < n; i += LANES) {
        const floats v = load_some(x + i, n - i);
        found |= (v > splat(limit)) | (v != v);
    }
    return mask_of(found) != 0;
}

inline bool exceeds(const bf16* x, int n, float limit) {
    constexpr int WIDTH = 2 * LANES;
    const int16_t bits = int16_t(uint32_t(bits_of<int32_t>(limit)) >> 16);
    const shorts most = shorts{} + int16_t(bits ^ (bits >> 15 & 0x7fff)), least = shorts{} + int16_t(0x807f);
    shorts found{};
    for (int i = 0; i < n; i += WIDTH) {
        shorts v = shorts{} + int16_t(0xff80);  // -infinity
        if (n - i >= WIDTH)
            v = load_as<shorts>(x + i);
        else
            std::memcpy(&v, x + i, (n - i) * sizeof(bf16));
        v = ordered(v);
        found |= (v > most) | (v < least);
    }
    uint64_t parts[sizeof(shorts) / 8], any = 0;
    std::memcpy(parts, &found, sizeof found);
    for (const uint64_t part : parts) any |= part;
    return any != 0;
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
