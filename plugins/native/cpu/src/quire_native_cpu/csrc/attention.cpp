// What Python calls: plans, and attention by itself, outside a fused layer.
#include "attention.h"

#include <cstring>

#include "api.h"
#include "attention_scratch.h"

using namespace quire;

namespace quire {

int64_t attention_workspace(const AttentionPlan& plan) {
    return plan.threads * Scratch::bytes(plan) + plan.partials * plan.partial_floats() * int64_t(sizeof(float));
}

}  // namespace quire

QUIRE_API AttentionPlan* quire_attention_plan(const AttentionShape* shape, const int32_t* query_start,
                                              const int32_t* seq_lens, const int32_t* block_table, int64_t table_stride,
                                              const int64_t* slot_mapping) {
    auto* plan = new AttentionPlan{*shape, query_start, seq_lens, block_table, table_stride, slot_mapping, {}, {}, {}, {}};
    plan_attention(*plan);
    return plan;
}

QUIRE_API void quire_attention_free(AttentionPlan* plan) {
    delete plan;
}

QUIRE_API int64_t quire_attention_workspace(const AttentionPlan* plan) {
    return attention_workspace(*plan);
}

// Of tasks, merges and rows' partial results: for tests and benchmarks.
QUIRE_API void quire_attention_counts(const AttentionPlan* plan, int64_t* counts) {
    counts[0] = int64_t(plan->tasks.size());
    counts[1] = int64_t(plan->merges.size());
    counts[2] = plan->partials;
}

// Write and attend. q is rotated in a copy of [rows, q_heads * head_dim] at `call->q`, taken from `q`, unless that is
// null: then in place, if at all.
QUIRE_API void quire_attention(const AttentionCall* call, const void* q, int64_t q_stride, int rows) {
    const AttentionPlan& plan = *call->plan;
    const int64_t size = call->dtype == DType::f32 ? 4 : 2;
    in_parallel(plan.threads, [&](Team& team) {
        const int first = team.first(rows), last = team.last(rows);
        if (q)
            for (int row = first; row < last; row++)
                std::memcpy(static_cast<char*>(call->q) + row * call->q_stride * size,
                            static_cast<const char*>(q) + row * q_stride * size,
                            size_t(plan.q_heads) * plan.head_dim * size);
        attention_write(*call, first, last);
        team.barrier();
        attention_run(*call, team);
    });
}
