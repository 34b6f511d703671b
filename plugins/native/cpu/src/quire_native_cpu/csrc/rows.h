// What works row by row: norms, gates, copies. T is float or bf16; sums are fp32 and always in the same order.
#pragma once
#include <cmath>

#include "simd.h"
#include "simd_math.h"

namespace quire {

// out = rms_norm(x) * weight over n elements, rounded where Llama's checkpoints expect it: once normalised, once
// weighted. out may be x; its elements from n up to `padded` become zero.
template <typename T>
inline void rms_norm(const T* x, const T* weight, float eps, int n, T* out, int padded) {
    floats squares{};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        const floats v = load(x + i);
        squares += v * v;
    }
    if (i < n) {
        const floats v = load_first(x + i, n - i);
        squares += v * v;
    }
    const floats inverse = splat(1.0f / std::sqrt(sum(squares) / n + eps));
    for (i = 0; i < n; i += LANES) {
        const int some = n - i < LANES ? n - i : LANES;
        if (some == LANES)
            store(rounded<T>(load(x + i) * inverse) * load(weight + i), out + i);
        else
            store_first(rounded<T>(load_first(x + i, some) * inverse) * load_first(weight + i, some), out + i, some);
    }
    std::memset(out + n, 0, (padded - n) * sizeof(T));
}

// out = x + y, over n elements; out may be either.
template <typename T>
inline void add(const T* x, const T* y, int n, T* out) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(load(x + i) + load(y + i), out + i);
    if (i < n) store_first(load_first(x + i, n - i) + load_first(y + i, n - i), out + i, n - i);
}

// out = act(x[:n]) * x[n:2n], the activation rounded first, as when it is an operation of its own.
template <typename T>
inline void gate(const T* x, Activation activation, int n, T* out, int padded) {
    for (int i = 0; i < n; i += LANES) {
        const int some = n - i < LANES ? n - i : LANES;
        const floats once = rounded<T>(activate<T>(activation, load_first(x + i, some)));
        store_first(once * load_first(x + n + i, some), out + i, some);
    }
    std::memset(out + n, 0, (padded - n) * sizeof(T));
}

}  // namespace quire
