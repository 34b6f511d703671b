// The two products of attention on one tile of keys, in words of 4 bytes: scores of queries and keys, and weighted
// sums of values. A word is an fp32 (`Single`) or two bf16 (`Pair`); one loop serves both.
#pragma once
#include "attention_plan.h"
#include "simd.h"

namespace quire {

struct Single {
    typedef float element;
    static constexpr int size = 1;  // elements of a word
    static floats dot(floats acc, words a, words b) { return acc + bits_of<floats>(a) * bits_of<floats>(b); }
};

struct Pair {
    typedef bf16 element;
    static constexpr int size = 2;
    static floats dot(floats acc, words a, words b) { return dot_pairs(acc, a, b); }
};

// A tile's keys and values, sixteen keys to a group.
struct KeyTile {
    int keys, groups;                       // the last group may have fewer than sixteen keys, finite all the same
    const uint32_t* k[TILE_KEYS / LANES];   // a group's [words of a head, 16 keys], k_stride words from row to row
    const uint32_t* v[TILE_KEYS / LANES];   // a group's [16 / size, elements of a head], v_stride words
    int64_t k_stride, v_stride;
};

#if defined(__AVX512F__)
constexpr int MOST_ROWS = 8, MOST_COLUMNS = 2;  // of a block of accumulators in registers
#elif defined(__AVX2__)
constexpr int MOST_ROWS = 4, MOST_COLUMNS = 1;
#else
constexpr int MOST_ROWS = 2, MOST_COLUMNS = 1;
#endif

// acc[r][c] += sum over i of a[r][i] . b[c][i]: `a` has one word for all lanes, `b` sixteen.
template <class Unit, int ROWS, int COLUMNS>
inline void multiply(const uint32_t* a, int64_t a_stride, const uint32_t* const* b, int64_t b_stride, int length,
                     floats (&acc)[ROWS][COLUMNS]) {
    for (int i = 0; i < length; i++) {
        words column[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) column[c] = load_as<words>(b[c] + i * b_stride);
        for (int r = 0; r < ROWS; r++) {
            const words row = splat(a[r * a_stride + i]);
            for (int c = 0; c < COLUMNS; c++) acc[r][c] = Unit::dot(acc[r][c], row, column[c]);
        }
    }
}

// Few rows leave registers for more columns, whose sums then do not wait for each other.
constexpr int most_columns(int rows) {
    return rows * 4 <= MOST_ROWS * MOST_COLUMNS ? 4 : MOST_COLUMNS;
}

// s[rows][16 * groups] = q . k
template <class Unit, int ROWS, int COLUMNS>
inline void score_block(const uint32_t* q, int64_t q_stride, int length, const KeyTile& tile, int group, float* s) {
    floats acc[ROWS][COLUMNS] = {};
    multiply<Unit>(q, q_stride, tile.k + group, tile.k_stride, length, acc);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) store(acc[r][c], s + r * TILE_KEYS + (group + c) * LANES);
}

// o[rows][16 columns at `column`] += p . v
template <class Unit, int ROWS, int COLUMNS>
inline void value_block(const uint32_t* p, const KeyTile& tile, int column, float* o, int64_t o_stride) {
    floats acc[ROWS][COLUMNS];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) acc[r][c] = load(o + r * o_stride + column + c * LANES);
    for (int g = 0; g < tile.groups; g++) {
        constexpr int length = LANES / Unit::size;
        const uint32_t* v[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) v[c] = tile.v[g] + column + c * LANES;
        multiply<Unit>(p + g * length, TILE_KEYS / Unit::size, v, tile.v_stride, length, acc);
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) store(acc[r][c], o + r * o_stride + column + c * LANES);
}

// Call work(first, count) over n things, `count` a compile-time number of at most MOST.
template <int MOST, class Work>
inline void in_blocks(int first, int n, const Work& work) {
    for (; n - first >= MOST; first += MOST) work(first, std::integral_constant<int, MOST>());
    if constexpr (MOST == 4)
        if (n - first == 3) return work(first, std::integral_constant<int, 3>());  // a usual number of query heads
    if constexpr (MOST > 1)
        if (first < n) in_blocks<MOST / 2>(first, n, work);
}

template <class Unit>
inline void scores(const uint32_t* q, int64_t q_stride, int length, int rows, const KeyTile& tile, float* s) {
    in_blocks<MOST_ROWS>(0, rows, [&](int row, auto some_rows) {
        in_blocks<most_columns(some_rows())>(0, tile.groups, [&](int group, auto some_groups) {
            score_block<Unit, some_rows(), some_groups()>(q + row * q_stride, q_stride, length, tile, group,
                                                          s + row * TILE_KEYS);
        });
    });
}

// `width`: elements of a head in whole vectors.
template <class Unit>
inline void weigh_values(const uint32_t* p, int rows, const KeyTile& tile, int width, float* o, int64_t o_stride) {
    in_blocks<MOST_ROWS>(0, rows, [&](int row, auto some_rows) {
        in_blocks<most_columns(some_rows())>(0, width / LANES, [&](int chunk, auto some_chunks) {
            value_block<Unit, some_rows(), some_chunks()>(p + row * (TILE_KEYS / Unit::size), tile, chunk * LANES,
                                                          o + row * o_stride, o_stride);
        });
    });
}

}  // namespace quire
