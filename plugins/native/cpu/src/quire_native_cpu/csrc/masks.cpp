// Which tokens of a row of logits are legal, a bit each, and the greatest of those: one pass over the row.
#include <cstring>

#include "api.h"
#include "attention.h"
#include "logits_row.h"
#include "team.h"

using namespace quire;

namespace {

constexpr int64_t SMALL = 1 << 14;  // elements below which waking threads costs more than it saves
constexpr int WORD = 32;            // tokens of a word of bits

// Sixteen elements as the integers that they are: bf16 must not be converted, which loses denormals.
template <typename T>
struct Raw;
template <>
struct Raw<float> {
    using Vector = words;
    using Element = uint32_t;
    static constexpr Element LEAST_BITS = 0xff800000u;
};
template <>
struct Raw<bf16> {
    using Vector = halves;
    using Element = uint16_t;
    static constexpr Element LEAST_BITS = 0xff80u;
};

// Sixteen elements where the lowest sixteen bits are set, -infinity where they are not.
template <typename T>
inline void keep_sixteen(const T* from, uint32_t bits, T* to) {
    using Vector = typename Raw<T>::Vector;
    using Element = typename Raw<T>::Element;
    constexpr Vector LANE_BITS = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                  1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    const Vector legal = bits_of<Vector>(((Vector{} + Element(bits)) & LANE_BITS) != Vector{});  // all ones
    const Vector kept = (load_as<Vector>(from) & legal) | ((Vector{} + Raw<T>::LEAST_BITS) & ~legal);
    std::memcpy(to, &kept, sizeof(kept));
}

template <typename T>
inline void keep_legal(const T* row, const uint32_t* bits, int n, T* out) {
    int i = 0;
    for (; i + WORD <= n; i += WORD) {
        const uint32_t word = bits[i / WORD];
        keep_sixteen(row + i, word, out + i);
        keep_sixteen(row + i + LANES, word >> LANES, out + i + LANES);
    }
    for (; i < n; i++) {
        if (bits[i / WORD] >> (i % WORD) & 1)
            out[i] = row[i];
        else
            narrow(LEAST, out + i);
    }
}

template <typename T>
void mask_rows(
    const T* logits, int64_t stride, int rows, int n, const uint32_t* bits, int64_t width, const int32_t* mask_of_row,
    T* out, int64_t* ids, float* values, bool* invalid, int threads) {
    in_parallel(int64_t(rows) * n < SMALL ? 1 : std::min(threads, rows), [&](Team& team) {
        for (int row = team.next(); row < rows; row = team.next()) {
            const T* const from = logits + row * stride;
            T* const to = out + int64_t(row) * n;
            if (mask_of_row[row] >= 0)
                keep_legal(from, bits + mask_of_row[row] * width, n, to);
            else
                std::memcpy(to, from, n * sizeof(T));
            const Peak peak = peak_of(to, n);  // while the row is near
            ids[row] = peak.index;
            values[row] = peak.value;
            invalid[row] = !(peak.value > LEAST);
        }
    });
}

}  // namespace

// out [rows, n] = the logits, -infinity where the row's mask has no bit: mask `mask_of_row[row]` of `bits`, which
// has `width` words for each; a negative one is no mask. Of the rows of `out` also what quire_peak finds.
QUIRE_API void quire_mask(
    const void* logits, int64_t stride, int rows, int n, int dtype, const uint32_t* bits, int64_t width,
    const int32_t* mask_of_row, void* out, int64_t* ids, float* values, bool* invalid, int threads) {
    if (DType(dtype) == DType::bf16)
        mask_rows(
            static_cast<const bf16*>(logits), stride, rows, n, bits, width, mask_of_row, static_cast<bf16*>(out), ids,
            values, invalid, threads);
    else
        mask_rows(
            static_cast<const float*>(logits), stride, rows, n, bits, width, mask_of_row, static_cast<float*>(out), ids,
            values, invalid, threads);
}
