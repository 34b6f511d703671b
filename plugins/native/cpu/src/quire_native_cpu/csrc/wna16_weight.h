// A packed matrix of weights of 8 bits or fewer with scales for groups of rows, and how it becomes numbers again.
#pragma once
#include "weight.h"

namespace quire {

constexpr int MOST_SPAN = 256;  // rows of k with one scale: four panels of them, as bf16, stay in a first-level cache

// How scales and zeros are kept: what is narrower is taken where it is the same number, for then less is read.
enum class Kept : int32_t { fp32, fp16, bf16, int8 };

inline int bytes_of(Kept kept) {
    return kept == Kept::fp32 ? 4 : kept == Kept::int8 ? 1 : 2;
}

// Sixteen numbers, finite ones where they are fp16.
inline floats load_kept(const void* from, Kept kept) {
    switch (kept) {
        case Kept::fp32: return load(static_cast<const float*>(from));
        case Kept::bf16: return load(static_cast<const bf16*>(from));
        case Kept::int8: return load(static_cast<const int8_t*>(from));
        default: return load_fp16(static_cast<const uint16_t*>(from));
    }
}

// [K, N] as [ceil(N / 16)][K / 8][16][8] codes of 4 bits or [..][K / 4][16][4] of 8, N padded to a multiple of 16. Of eight
// codes of 4 bits, those of even rows are the lower half of 32 bits, those of odd rows the upper one. Codes are kept
// centred, those of 4 bits plus 8. Every `span` rows share a scale: w = scale * (code - shift). Rows are those of the
// matrix in the order that `gather` gives, -1 for one of zeros; a group of rows is padded to whole spans.
// Python fills it in by `wna16.py`: the two must agree.
struct Wna16Weight {
    const uint8_t* codes;
    const void* scales;     // [ceil(N / 16)][spans()][16]
    const void* shifts;     // the same, or null: all are zero
    const float* bias;      // [N padded], or null
    const int32_t* gather;  // [packed_k], or null: rows are in order
    int32_t k, n, packed_k;
    int32_t span;  // a multiple of K_BLOCK, MOST_SPAN at most
    int32_t bits;  // 4 or 8
    Kept scales_kept, shifts_kept;
    int32_t exact;  // whether a row's result may not depend on how many rows there are

    int panels() const {
        return (n + PANEL - 1) / PANEL;
    }
    int spans() const {
        return packed_k / span;
    }
    int64_t panel_bytes() const {
        return int64_t(packed_k) * PANEL * bits / 8;
    }
    // Bytes that a row of x takes beside itself: its elements in the packed order, and its sums over spans. An odd
    // number of cache lines, so that rows do not push each other out of caches.
    int64_t aside_bytes() const {
        const int64_t bytes = gathered_bytes() + (shifts != nullptr ? int64_t(spans()) * 4 : 0);
        return bytes == 0 ? 0 : ((bytes + 63) / 64 | 1) * 64;
    }
    int64_t gathered_bytes() const {
        return gather != nullptr ? int64_t(packed_k) * 4 : 0;
    }
    // Where a panel's scales of a span lie, and its shifts, where it has any.
    const void* scales_at(int panel, int span_index) const {
        return static_cast<const uint8_t*>(scales) + at(panel, span_index) * bytes_of(scales_kept);
    }
    const void* shifts_at(int panel, int span_index) const {
        return static_cast<const uint8_t*>(shifts) + at(panel, span_index) * bytes_of(shifts_kept);
    }

private:
    int64_t at(int panel, int span_index) const {
        return (int64_t(panel) * spans() + span_index) * PANEL;
    }
};

// Codes of one 64 byte line, centred, as pairs of bf16: 16 / BITS of them. Whole numbers up to 256 are exact in bf16.
template <int BITS>
inline void unpack_line(const uint8_t* line, words* pairs) {
#if defined(__AVX512BW__)
    if constexpr (BITS == 4) {
        // A permutation looks up 5 bits; the fifth is the next code's, so the table repeats itself.
        alignas(64) static constexpr uint16_t TABLE[32] = {
            0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
            0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
            0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
        const __m512i table = _mm512_load_si512(TABLE), codes = _mm512_loadu_si512(line);
        pairs[0] = bits_of<words>(_mm512_permutexvar_epi16(codes, table));
        pairs[1] = bits_of<words>(_mm512_permutexvar_epi16(_mm512_srli_epi32(codes, 4), table));
        pairs[2] = bits_of<words>(_mm512_permutexvar_epi16(_mm512_srli_epi32(codes, 8), table));
        pairs[3] = bits_of<words>(_mm512_permutexvar_epi16(_mm512_srli_epi32(codes, 12), table));
        return;
    }
#endif
    const words codes = load_as<words>(line);
    for (int pair = 0; pair < 16 / BITS; pair++) {
        ints even, odd;
        if constexpr (BITS == 4) {
            even = bits_of<ints>((codes >> 4 * pair) & splat(15u)) - 8;
            odd = bits_of<ints>((codes >> (4 * pair + 16)) & splat(15u)) - 8;
        } else {
            even = bits_of<ints>(codes << (24 - 16 * pair)) >> 24;
            odd = bits_of<ints>(codes << (16 - 16 * pair)) >> 24;
        }
        pairs[pair] = (bits_of<words>(__builtin_convertvector(even, floats)) >> 16) |
                      bits_of<words>(__builtin_convertvector(odd, floats));
    }
}

// Centred codes of whole lines, one row after another, as a panel of a `Weight` of T has them.
template <int BITS, typename T>
inline void unpack_lines(const uint8_t* line, int rows, T* to) {
    constexpr int PAIRS = 16 / BITS;
    for (int row = 0; row < rows; row += 2 * PAIRS, line += 64) {
        words pairs[PAIRS];
        unpack_line<BITS>(line, pairs);
        for (int pair = 0; pair < PAIRS; pair++) {
            T* const at = to + int64_t(row + 2 * pair) * PANEL;
            if constexpr (sizeof(T) == 2) {
                std::memcpy(at, &pairs[pair], sizeof(words));
            } else {
                store(bits_of<floats>(pairs[pair] << 16), at);
                store(bits_of<floats>(pairs[pair] & splat(0xffff0000u)), at + PANEL);
            }
        }
    }
}

// Of `rows` rows of a panel from `first` on.
template <typename T>
inline void unpack(const Wna16Weight& weight, int panel, int first, int rows, T* to) {
    const uint8_t* const line = weight.codes + panel * weight.panel_bytes() + int64_t(first) * PANEL * weight.bits / 8;
    if (weight.bits == 4)
        unpack_lines<4>(line, rows, to);
    else
        unpack_lines<8>(line, rows, to);
}

// Two rows of a panel as pairs of bf16.
inline words pairs_of(floats even, floats odd) {
#if defined(__AVX512BF16__)
    alignas(64) static constexpr uint16_t ORDER[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = bits_of<__m512i>(_mm512_cvtne2ps_pbh(bits_of<__m512>(odd), bits_of<__m512>(even)));
    return bits_of<words>(_mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both));
#else
    return (bits_of<words>(rounded<bf16>(even)) >> 16) | bits_of<words>(rounded<bf16>(odd));
#endif
}

}  // namespace quire
