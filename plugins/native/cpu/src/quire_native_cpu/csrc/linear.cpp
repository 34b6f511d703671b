// Packing weights, and a linear layer as a call of its own.
#include <climits>
#include <vector>

#include "api.h"
#include "gemm.h"
#include "logits_row.h"

using namespace quire;

namespace {

template <typename T>
void pack(const T* from, const Weight& weight, T* to, Team& team) {
    const int k = weight.padded_k(), pair = sizeof(T) == 2 ? 2 : 1;
    for (int panel = team.first(weight.panels()); panel < team.last(weight.panels()); panel++) {
        T* const target = to + int64_t(panel) * k * PANEL;
        std::memset(target, 0, int64_t(k) * PANEL * sizeof(T));
        for (int column = 0; column < std::min(PANEL, weight.n - panel * PANEL); column++) {
            const T* const row = from + int64_t(panel * PANEL + column) * weight.k;
            for (int i = 0; i < weight.k; i++) target[(i / pair * PANEL + column) * pair + i % pair] = row[i];
        }
    }
}

// Rows whose end is not padded are copied to where it is, for what is read past their end must be zero. work(rows,
// stride, output, team) multiplies them, in every thread.
template <typename T, typename Work>
void with_rows(const T* x, int64_t stride, int m, const Weight& weight, T* out, int threads, const Work& work) {
    const int k = weight.padded_k();
    std::vector<T> padded;
    if (k != weight.k) padded.resize(size_t(m) * k);
    const Output<T> output{out, weight.n, Columns{weight, false}, Activation::silu, weight.n};
    in_parallel(threads, [&](Team& team) {
        if (k == weight.k) return work(x, stride, output, team);
        for (int row = team.first(m); row < team.last(m); row++)
            std::memcpy(padded.data() + int64_t(row) * k, x + row * stride, weight.k * sizeof(T));
        team.barrier();
        work(static_cast<const T*>(padded.data()), k, output, team);
    });
}

template <typename T>
void linear(const T* x, int64_t stride, int m, const Weight& weight, T* out, int threads) {
    const auto work = [&](const T* rows, int64_t stride, const Output<T>& output, Team& team) {
        multiply(rows, stride, m, output, team);
    };
    with_rows(x, stride, m, weight, out, threads, work);
}

// The same, and each row's peak.
template <typename T>
void head(
    const T* x, int64_t stride, int m, const Weight& weight, T* out, int64_t* ids, float* values, bool* invalid,
    int threads) {
    std::vector<Peak> peaks(size_t(threads) * m, Peak{LEAST, INT_MAX});  // [threads, m]
    const auto work = [&](const T* rows, int64_t stride, const Output<T>& output, Team& team) {
        Peak* const own = peaks.data() + size_t(team.rank) * m;
        multiply(rows, stride, m, output, team, [&](int first, int last, int column, int end) {
            for (int row = first; row < last; row++) {
                const T* const piece = out + int64_t(row) * weight.n + column;
                if (!exceeds(piece, end - column, own[row].value)) continue;
                Peak here = peak_of(piece, end - column);
                here.index += column;
                if (goes_before(here, own[row])) own[row] = here;
            }
        });
        team.barrier();
        for (int row = team.first(m); row < team.last(m); row++) {
            Peak peak = peaks[row];
            for (int rank = 1; rank < team.size; rank++)
                if (const Peak& other = peaks[size_t(rank) * m + row]; goes_before(other, peak)) peak = other;
            ids[row] = peak.index < INT_MAX ? peak.index : 0;
            values[row] = peak.value;
            invalid[row] = !(peak.value > LEAST);
        }
    };
    with_rows(x, stride, m, weight, out, threads, work);
}

}  // namespace

// Bytes that a packed [K, N] takes.
QUIRE_API int64_t quire_packed_bytes(int k, int n, int dtype) {
    const Weight weight{nullptr, nullptr, k, n, DType(dtype)};
    return int64_t(weight.panels()) * PANEL * weight.padded_k() * (weight.dtype == DType::bf16 ? 2 : 4);
}

// from [N, K] to `to`, quire_packed_bytes long.
QUIRE_API void quire_pack(const void* from, int k, int n, int dtype, void* to, int threads) {
    const Weight weight{to, nullptr, k, n, DType(dtype)};
    in_parallel(threads, [&](Team& team) {
        if (weight.dtype == DType::bf16)
            pack(static_cast<const bf16*>(from), weight, static_cast<bf16*>(to), team);
        else
            pack(static_cast<const float*>(from), weight, static_cast<float*>(to), team);
    });
}

// out [m, N] = x [m, K] times the packed weight, plus its bias.
QUIRE_API void quire_linear(const void* x, int64_t stride, int m, const Weight* weight, void* out, int threads) {
    if (weight->dtype == DType::bf16)
        linear(static_cast<const bf16*>(x), stride, m, *weight, static_cast<bf16*>(out), threads);
    else
        linear(static_cast<const float*>(x), stride, m, *weight, static_cast<float*>(out), threads);
}

// The same for a head, and of each row of `out` what quire_peak finds.
QUIRE_API void quire_head(
    const void* x, int64_t stride, int m, const Weight* weight, void* out, int64_t* ids, float* values, bool* invalid,
    int threads) {
    if (weight->dtype == DType::bf16)
        head(static_cast<const bf16*>(x), stride, m, *weight, static_cast<bf16*>(out), ids, values, invalid, threads);
    else
        head(static_cast<const float*>(x), stride, m, *weight, static_cast<float*>(out), ids, values, invalid, threads);
}
