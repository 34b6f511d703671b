// Packing int8 weights, and a linear layer on them as a call of its own.
#include <memory>

#include "api.h"
#include "attention.h"
#include "gemm_int8.h"

using namespace quire;

namespace {

template <typename T>
void linear(const T* x, int64_t stride, int m, const Int8Weight& weight, T* out, int threads) {
    const int64_t k = weight.padded_k();
    // Not std::vector: it would write zeros first. Padded, so that the codes begin at a cache line.
    const std::unique_ptr<uint8_t[]> room(new uint8_t[m * (k + sizeof(float)) + 64]);
    uint8_t* const codes = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(room.get()) + 63) & ~uintptr_t(63));
    const Int8Rows rows{codes, reinterpret_cast<float*>(codes + m * k), k, m};
    in_parallel(threads, [&](Team& team) {
        for (int row = team.first(m); row < team.last(m); row++) rows.quantize(row, x + row * stride, weight.k);
        team.barrier();
        multiply_int8<T>(rows, {out, weight.n, weight, false, Activation::silu}, team);
    });
}

}  // namespace

// Bytes that the codes of a packed [K, N] take.
QUIRE_API int64_t quire_int8_bytes(int k, int n) {
    const Int8Weight weight{nullptr, nullptr, nullptr, nullptr, k, n};
    return int64_t(weight.panels()) * INT8_COLUMNS * weight.padded_k();
}

// from [N, K] int8 to `to`, quire_int8_bytes long, and each column's sum to `sums`, N padded to a multiple of 16.
QUIRE_API void quire_int8_pack(const void* from, int k, int n, void* to, void* sums, int threads) {
    const Int8Weight weight{static_cast<int8_t*>(to), nullptr, nullptr, nullptr, k, n};
    in_parallel(threads, [&](Team& team) {
        const int64_t size = int64_t(weight.padded_k()) * INT8_COLUMNS;
        for (int panel = team.first(weight.panels()); panel < team.last(weight.panels()); panel++) {
            int8_t* const target = static_cast<int8_t*>(to) + panel * size;
            std::memset(target, 0, size);
            for (int column = 0; column < INT8_COLUMNS; column++) {
                const int row = panel * INT8_COLUMNS + column;
                const int8_t* const codes = static_cast<const int8_t*>(from) + int64_t(row) * k;
                int32_t sum = 0;
                for (int i = 0; row < n && i < k; i++) {
                    target[(i / INT8_QUAD * INT8_COLUMNS + column) * INT8_QUAD + i % INT8_QUAD] = codes[i];
                    sum += codes[i];
                }
                static_cast<int32_t*>(sums)[row] = sum;
            }
        }
    });
}

// out [m, N] = x [m, K], quantized row by row, times the packed weight, plus its bias. x and out have the dtype.
QUIRE_API void quire_int8_linear(
    const void* x, int64_t stride, int m, int dtype, const Int8Weight* weight, void* out, int threads) {
    if (DType(dtype) == DType::bf16)
        linear(static_cast<const bf16*>(x), stride, m, *weight, static_cast<bf16*>(out), threads);
    else
        linear(static_cast<const float*>(x), stride, m, *weight, static_cast<float*>(out), threads);
}
