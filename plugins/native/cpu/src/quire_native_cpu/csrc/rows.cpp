// Row operations as calls of their own.
#include "rows.h"

#include "api.h"
#include "attention.h"
#include "team.h"

using namespace quire;

namespace {

constexpr int64_t SMALL = 1 << 15;  // elements below which waking threads costs more than it saves

template <typename Work>
void for_rows(int rows, int64_t elements, int threads, const Work& work) {
    in_parallel(elements < SMALL ? 1 : threads, [&](Team& team) {
        for (int row = team.first(rows); row < team.last(rows); row++) work(row);
    });
}

template <typename T>
void norm(const void* x, int64_t x_stride, const void* residual, int64_t residual_stride, const void* weight, float eps,
          int rows, int n, void* out, void* total, int threads) {
    for_rows(rows, int64_t(rows) * n, threads, [&](int row) {
        const T* from = static_cast<const T*>(x) + row * x_stride;
        T* const to = static_cast<T*>(out) + int64_t(row) * n;
        if (residual != nullptr) {
            T* const whole = static_cast<T*>(total) + int64_t(row) * n;
            add(from, static_cast<const T*>(residual) + row * residual_stride, n, whole);
            from = whole;
        }
        rms_norm(from, static_cast<const T*>(weight), eps, n, to, n);
    });
}

}  // namespace

// out [rows, n] = rms_norm(x) * weight; with a residual, total [rows, n] = x + residual is normalised instead.
QUIRE_API void quire_rms_norm(
    const void* x, int64_t x_stride, const void* residual, int64_t residual_stride, const void* weight, float eps,
    int rows, int n, int dtype, void* out, void* total, int threads) {
    const auto run = DType(dtype) == DType::bf16 ? norm<bf16> : norm<float>;
    run(x, x_stride, residual, residual_stride, weight, eps, rows, n, out, total, threads);
}

// out [rows, n] = act(x[:, :n]) * x[:, n:].
QUIRE_API void quire_gate(
    const void* x, int64_t x_stride, int activation, int rows, int n, int dtype, void* out, int threads) {
    for_rows(rows, int64_t(rows) * n * 4, threads, [&](int row) {
        if (DType(dtype) == DType::bf16)
            gate(static_cast<const bf16*>(x) + row * x_stride, Activation(activation), n,
                 static_cast<bf16*>(out) + int64_t(row) * n, n);
        else
            gate(static_cast<const float*>(x) + row * x_stride, Activation(activation), n,
                 static_cast<float*>(out) + int64_t(row) * n, n);
    });
}
