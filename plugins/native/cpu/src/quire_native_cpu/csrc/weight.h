// A packed matrix of weights, and how its columns lie: in panels of sixteen.
#pragma once
#include "attention.h"
#include "simd.h"

namespace quire {

constexpr int PANEL = 16;   // columns beside each other
constexpr int K_BLOCK = 32;  // rows of bf16 that one AMX tile takes; K is padded to a multiple of it

inline int round_up(int n, int unit) {
    return (n + unit - 1) / unit * unit;
}

// [K, N] as [ceil(N / 16)][K / 2][16][2] in bf16 (pairs of rows, as dot products take them), [..][K][16] in fp32.
// bf16 has K padded with zeros to a multiple of 32; both have N padded to a multiple of 16.
struct Weight {
    const void* data;
    const void* bias;  // [N] of the weight's dtype, or null
    int32_t k, n;
    DType dtype;

    int panels() const {
        return (n + PANEL - 1) / PANEL;
    }
    int padded_k() const {
        return dtype == DType::bf16 ? round_up(k, K_BLOCK) : k;
    }
    template <typename T>
    const T* panel(int index) const {
        return static_cast<const T*>(data) + int64_t(index) * padded_k() * PANEL;
    }
};

}  // namespace quire
