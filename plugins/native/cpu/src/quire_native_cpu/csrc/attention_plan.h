// What the layers of one step share: the list of tasks and of merges, and the cache's geometry.
#pragma once
#include <cstdint>
#include <vector>

#include "attention.h"

namespace quire {

// How a cache block of one KV head is laid out. A word is 4 bytes: an fp32, or two bf16 beside each other.
enum class CacheLayout : int32_t {
    rows = 0,   // k, v [block_size, head_dim]
    words = 1,  // k [head_dim / u, block_size] words, v [block_size / u, head_dim] words of u elements:
                // k's hold neighbours of a head, v's neighbouring tokens. Sixteen keys are one vector.
};

constexpr int TILE_KEYS = 128;    // keys between two looks at a row's maximum; tiles begin at its multiples
constexpr int TASK_ROWS = 64;     // rows that share one reading of the keys
constexpr int PACKED_ROWS = 16;   // a request of up to this many rows is one task, and may join a cascade
constexpr int FIXED_SPLIT = 1024; // keys of a part where the parts may not depend on the batch

// Rows of one KV head to be attended to a range of keys. A request's rows are its tokens times the query heads of
// the KV head, heads fastest.
struct AttentionTask {
    int32_t kv_head;
    int32_t first_member, members;  // requests in `AttentionPlan::members`, all of whose blocks there are the same
    int32_t first_row, rows;        // of the members' rows one after the other
    int32_t first_key, last_key;
    int32_t partial;                // place of the first row's partial result; -1: the result is final
    int64_t cost;
};

// Rows of one request and KV head whose result is in parts.
struct AttentionMerge {
    int32_t request, kv_head;
    int32_t first_row, rows;
    int32_t first_part, parts;  // in `AttentionPlan::parts`: places of the first row's partial results
};

struct AttentionShape {
    int32_t requests;
    int32_t block_size, q_heads, kv_heads, head_dim;
    int32_t window;  // 0: none
    int32_t dtype;   // DType
    int32_t layout;  // CacheLayout
    int32_t threads;
    int32_t deterministic;
};

struct AttentionPlan : AttentionShape {
    // The step's tensors, on the host; whoever made the plan keeps them.
    const int32_t* query_start;   // [requests + 1]
    const int32_t* seq_lens;      // [requests]
    const int32_t* block_table;   // [requests, ...]
    int64_t table_stride;
    const int64_t* slot_mapping;  // [T]

    std::vector<AttentionTask> tasks;  // the costliest first
    std::vector<int32_t> members;
    std::vector<AttentionMerge> merges;
    std::vector<int32_t> parts;
    int64_t partials = 0;  // places for partial results

    int group() const { return q_heads / kv_heads; }
    int tokens(int request) const { return query_start[request + 1] - query_start[request]; }
    int rows(int request) const { return tokens(request) * group(); }
    // Position of a row's token.
    int position(int request, int row) const { return seq_lens[request] - tokens(request) + row / group(); }
    // The first key that a row sees.
    int oldest(int position) const { return window && position >= window ? position - window + 1 : 0; }
    const int32_t* blocks(int request) const { return block_table + request * table_stride; }
    // Elements of a head, filled up to whole vectors.
    int padded_dim() const { return (head_dim + 31) / 32 * 32; }
    // Floats of a partial result: maximum, sum, and the weighted values from the sixteenth on.
    int64_t partial_floats() const { return 16 + padded_dim(); }
};

// Make `tasks`, `members`, `merges` and `parts` from the rest.
void plan_attention(AttentionPlan& plan);

}  // namespace quire
