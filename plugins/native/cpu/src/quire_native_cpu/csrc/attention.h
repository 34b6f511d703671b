// Paged attention: what one step plans, what one layer asks, and the two phases of a layer's work.
#pragma once
#include <cstdint>

#include "team.h"

namespace quire {

enum class DType : int32_t { f32 = 0, bf16 = 1 };

// One step of one KV group; made by the backend's `plan`, read by every layer. Defined in attention_plan.h.
struct AttentionPlan;

// One layer's work. Rows are the step's tokens; strides count elements. Heads, window and cache layout are the
// plan's, for they are the KV group's. Python fills it in by `attention.py`: the two must agree.
struct AttentionCall {
    const AttentionPlan* plan;
    void* q;                   // [T, q_heads * head_dim]; rotated in place by `attention_write`
    const void* k;             // [T, kv_heads * head_dim]
    const void* v;
    int64_t q_stride, k_stride, v_stride;
    const int64_t* positions;  // [T]
    const float* cos_sin;      // [P, rotary_dim]: cosines, then sines; null: q and k are not rotated here
    void* k_cache;             // as the backend's kv_layout declares them
    void* v_cache;
    void* out;                 // [T, q_heads * head_dim]
    int64_t out_stride;
    void* workspace;           // attention_workspace(...) bytes, at a multiple of 64
    DType dtype;               // of q, k, v and out, and of the cache
    int32_t rotary_dim;
    int32_t interleaved;       // pairs to rotate are (0, 1), (2, 3), ... and not (i, i + rotary_dim / 2)
    float scale;
    float soft_cap;            // 0: none
};

// Rotate q in place, rotate k, and put k and v where the plan says, for the given rows.
void attention_write(const AttentionCall& call, int first_row, int last_row);

// Attend, all threads of a team together, which has no more of them than the plan was made for.
// Begins after a barrier and ends before one: both are the caller's.
void attention_run(const AttentionCall& call, Team& team);

// Bytes of workspace that the plan's layers need, one after the other.
int64_t attention_workspace(const AttentionPlan& plan);

}  // namespace quire
