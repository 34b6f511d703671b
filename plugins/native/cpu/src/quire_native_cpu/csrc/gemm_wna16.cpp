// Packing weights of 8 bits or fewer, and a linear layer on them as a call of its own.
#include <memory>

#include "api.h"
#include "gemm_wna16.h"

using namespace quire;

namespace {

template <typename T>
void linear(const T* x, int64_t stride, int m, const Wna16Weight& weight, T* out, int threads) {
    // Not std::vector: it would write zeros first. Padded, so that rows begin at a cache line.
    const std::unique_ptr<uint8_t[]> room(new uint8_t[m * weight.aside_bytes() + 64]);
    uint8_t* const aside = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(room.get()) + 63) & ~uintptr_t(63));
    const Wna16Aside<T> given{weight, x, stride, aside, m};
    in_parallel(threads, [&](Team& team) {
        if (weight.aside_bytes() > 0) {
            for (int row = team.first(m); row < team.last(m); row++) given.prepare(row);
            team.barrier();
        }
        multiply_wna16<T>(given.rows(), weight, false, Activation::silu, out, weight.n, team);
    });
}

// Where a code of a panel lies: its byte, and the bits in it.
struct Place {
    int64_t byte;
    int shift;

    Place(int bits, int row, int column) {
        if (bits == 8) {
            byte = int64_t(row / 4 * PANEL + column) * 4 + row % 4;
            shift = 0;
        } else {
            const int within = row % 8, nibble = within % 2 * 4 + within / 2;
            byte = int64_t(row / 8 * PANEL + column) * 4 + nibble / 2;
            shift = nibble % 2 * 4;
        }
    }
};

}  // namespace

// Bytes that the codes of packed_k rows of N columns take.
QUIRE_API int64_t quire_wna16_bytes(int packed_k, int n, int bits) {
    return int64_t((n + PANEL - 1) / PANEL) * PANEL * packed_k * bits / 8;
}

// The weight's codes from [K, N] bytes, rows `stride` apart, signed or not, minus `centre`. Says whether all of them fit.
QUIRE_API bool quire_wna16_pack(
    const void* from, int64_t stride, bool is_signed, int centre, const Wna16Weight* weight, int threads) {
    const Wna16Weight& w = *weight;
    const int half = w.bits == 8 ? 128 : 8;
    std::atomic<bool> fit{true};
    in_parallel(threads, [&](Team& team) {
        bool own = true;
        for (int panel = team.first(w.panels()); panel < team.last(w.panels()); panel++) {
            uint8_t* const to = const_cast<uint8_t*>(w.codes) + panel * w.panel_bytes();
            std::memset(to, 0, w.panel_bytes());
            const int columns = std::min(PANEL, w.n - panel * PANEL);
            for (int row = 0; row < w.packed_k; row++) {
                const int source = w.gather == nullptr ? row : w.gather[row];
                const uint8_t* const line =
                    static_cast<const uint8_t*>(from) + std::max(source, 0) * stride + panel * PANEL;
                for (int column = 0; column < PANEL; column++) {
                    int code = 0;
                    if (source >= 0 && column < columns)
                        code = (is_signed ? int(int8_t(line[column])) : int(line[column])) - centre;
                    own &= -half <= code && code < half;
                    const Place place(w.bits, row, column);
                    const int kept = w.bits == 8 ? code : code + half;
                    to[place.byte] |= uint8_t((kept & (2 * half - 1)) << place.shift);
                }
            }
        }
        if (!own) fit = false;
    });
    return fit;
}

// out [m, N] = x [m, K] times the packed weight, plus its bias. x and out have the dtype.
QUIRE_API void quire_wna16_linear(
    const void* x, int64_t stride, int m, int dtype, const Wna16Weight* weight, void* out, int threads) {
    if (DType(dtype) == DType::bf16)
        linear(static_cast<const bf16*>(x), stride, m, *weight, static_cast<bf16*>(out), threads);
    else
        linear(static_cast<const float*>(x), stride, m, *weight, static_cast<float*>(out), threads);
}
