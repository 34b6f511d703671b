// One thread's memory while it attends, cut from the call's workspace.
#pragma once
#include "attention_plan.h"

namespace quire {

constexpr int BLOCK_ROWS = 32;  // rows of a task that go through one tile of keys together

struct Scratch {
    uint32_t* q;      // [TASK_ROWS, padded_dim] words
    float* s;         // [BLOCK_ROWS, TILE_KEYS]
    uint32_t* p;      // [BLOCK_ROWS, TILE_KEYS] words
    float* o;         // [TASK_ROWS, padded_dim]
    float* sums;      // [TASK_ROWS, 16]
    float* maxima;    // [TASK_ROWS]
    float* merged;    // [TASK_ROWS, partial_floats]
    uint32_t* k;      // [padded_dim, TILE_KEYS] words: keys that have to be rearranged
    uint32_t* v;      // [TILE_KEYS, padded_dim] words

    static int64_t bytes(const AttentionPlan& plan) {
        const int64_t dim = plan.padded_dim();
        return 4 * (TASK_ROWS * (2 * dim + 17 + plan.partial_floats()) + 2 * BLOCK_ROWS * TILE_KEYS + 2 * TILE_KEYS * dim);
    }

    Scratch(const AttentionPlan& plan, void* workspace, int rank) {
        const int64_t dim = plan.padded_dim();
        auto* at = reinterpret_cast<float*>(static_cast<char*>(workspace) + rank * bytes(plan));
        const auto take = [&](int64_t floats) {
            float* taken = at;
            at += floats;
            return taken;
        };
        q = reinterpret_cast<uint32_t*>(take(TASK_ROWS * dim));
        s = take(BLOCK_ROWS * TILE_KEYS);
        p = reinterpret_cast<uint32_t*>(take(BLOCK_ROWS * TILE_KEYS));
        o = take(TASK_ROWS * dim);
        sums = take(TASK_ROWS * 16);
        maxima = take(TASK_ROWS);
        merged = take(TASK_ROWS * plan.partial_floats());
        k = reinterpret_cast<uint32_t*>(take(TILE_KEYS * dim));
        v = reinterpret_cast<uint32_t*>(take(TILE_KEYS * dim));
    }
};

// Where the plan's partial results begin.
inline float* partials(const AttentionPlan& plan, void* workspace) {
    return reinterpret_cast<float*>(static_cast<char*>(workspace) + plan.threads * Scratch::bytes(plan));
}

}  // namespace quire
