// Decoder layers one after the other in one call and one parallel region: between them neither a caller has to be
// woken, whose instructions and data the weights have driven out of the caches meanwhile, nor the other threads.
#include "api.h"
#include "layer.h"

using namespace quire;

// Python fills it in by `stack.py`: the two must agree.
struct StackLayer {
    const Layer* layer;
    void* k_cache;
    void* v_cache;
    int64_t group;  // KV group: which plan and workspace
};

// `call` is the first layer's, but for plan, workspace and cache; its `out` and `residual_out` are the last layer's.
// `spare_out` and `spare_residual` are as large: the layers write to the one and the other in turn.
QUIRE_API void quire_layers(
    const StackLayer* layers, int count, const LayerCall* call, const AttentionPlan* const* plans,
    void* const* workspaces, void* spare_out, void* spare_residual) {
    in_parallel(call->threads, [&](Team& team) {
        LayerCall one = *call;
        for (int i = 0; i < count; i++) {
            const StackLayer& layer = layers[i];
            const bool spare = (count - 1 - i) % 2;
            one.k_cache = layer.k_cache;
            one.v_cache = layer.v_cache;
            one.plan = plans[layer.group];
            one.workspace = workspaces[layer.group];
            one.out = spare ? spare_out : call->out;
            one.residual_out = spare ? spare_residual : call->residual_out;
            compute(*layer.layer, one, team);
            one.x = one.out;
            one.residual = one.residual_out;
        }
    });
}
