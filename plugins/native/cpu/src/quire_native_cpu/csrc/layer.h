// A whole pre-norm decoder layer: its constants, one call's tensors, and its scratch memory.
#pragma once
#include "attention.h"
#include "projection.h"
#include "simd_math.h"
#include "team.h"

namespace quire {

struct Norm {
    const void* weight;  // null: there is no such norm
    float eps;
};

// Python fills it in by `layer.py`: the two must agree.
struct Layer {
    Norm input_norm, post_norm, q_norm, k_norm;
    Projection qkv, out, gate_up, down;
    DType dtype;  // of rows, norms and cache, and of weights that are not quantized
    int32_t q_heads, kv_heads, head_dim;
    float scale, soft_cap;  // soft_cap 0: none
    const float* cos_sin;   // null: no rotation
    int32_t rotary_dim, interleaved;
    Activation activation;

    int hidden() const {
        return qkv.k();
    }
    int heads_width() const {  // of q; then come k and v
        return q_heads * head_dim;
    }
    int kv_width() const {
        return kv_heads * head_dim;
    }
    int intermediate() const {
        return down.k();
    }
    // Gate and up meet before they are stored if both begin with a panel.
    bool gates_at_once() const {
        static_assert(PANEL == INT8_COLUMNS, "all kinds of weight have the same panels");
        return intermediate() % PANEL == 0;
    }
};

// As `Layer`.
struct LayerCall {
    int32_t rows, threads;
    const void* x;             // [T, H]
    const void* residual;      // [T, H] or null
    const int64_t* positions;  // [T]
    const AttentionPlan* plan;
    void* k_cache;
    void* v_cache;
    void* workspace;     // attention's
    void* scratch;       // quire_layer_scratch(...) bytes
    void* out;           // [T, H]
    void* residual_out;  // [T, H]
    double* seconds;     // [PHASES] to add to, or null
};

// One layer, by a team whose threads all call this; when it returns, the result is there for each of them.
void compute(const Layer& layer, const LayerCall& call, Team& team);

constexpr int PHASES = 7;  // norm, qkv, rotary, attention, out, gate_up, down

}  // namespace quire
