// A decoder layer in one call: its phases follow one another in one parallel region, with barriers in between.
#include "layer.h"

#include "api.h"
#include "gemm.h"
#include "rows.h"

using namespace quire;

namespace {

// Memory between the phases. Rows that are multiplied next end in zeros up to the weight's padded K.
template <typename T>
struct Scratch {
    int64_t normed_stride, qkv_stride, mixed_stride, raw_stride, gated_stride;
    T *normed, *qkv, *mixed, *raw, *gated;
    int64_t bytes;

    Scratch(const Layer& layer, int64_t rows, void* base)
        : normed_stride(layer.qkv.padded_k()),
          qkv_stride(layer.qkv.n),
          mixed_stride(layer.out.padded_k()),
          raw_stride(layer.gates_at_once() ? 0 : layer.gate_up.n),
          gated_stride(layer.down.padded_k()) {
        char* at = static_cast<char*>(base);
        const auto take = [&](int64_t stride) {
            T* const taken = reinterpret_cast<T*>(at);
            at += (rows * stride * int64_t(sizeof(T)) + 63) / 64 * 64;
            return taken;
        };
        normed = take(normed_stride);
        qkv = take(qkv_stride);
        mixed = take(mixed_stride);
        raw = take(raw_stride);
        gated = take(gated_stride);
        bytes = at - static_cast<char*>(base);
    }
};

// Adds the time between phases to the caller's sums, where he asked for it.
class Clock {
public:
    Clock(double* seconds, bool mine) : seconds_(mine ? seconds : nullptr), last_(seconds_ ? omp_get_wtime() : 0) {}

    void lap(int phase) {
        if (seconds_ == nullptr) return;
        const double now = omp_get_wtime();
        seconds_[phase] += now - last_;
        last_ = now;
    }

private:
    double* seconds_;
    double last_;
};

enum Phase { NORM, QKV, ROTARY, ATTENTION, OUT, GATE_UP, DOWN };

template <typename T>
void zero_ends(T* rows, int64_t stride, int width, int first, int last) {
    if (stride == width) return;
    for (int row = first; row < last; row++) std::memset(rows + row * stride + width, 0, (stride - width) * sizeof(T));
}

template <typename T>
void head_norm(const Norm& norm, T* row, int heads, int size) {
    for (int head = 0; head < heads; head++) {
        T* const x = row + head * size;
        rms_norm(x, static_cast<const T*>(norm.weight), norm.eps, size, x, size);
    }
}

template <typename T>
void run(const Layer& layer, const LayerCall& call, Team& team) {
    const int rows = call.rows, hidden = layer.hidden(), first = team.first(rows), last = team.last(rows);
    const int intermediate = layer.intermediate();
    const Scratch<T> s(layer, rows, call.scratch);
    const T* const x = static_cast<const T*>(call.x);
    T* const out = static_cast<T*>(call.out);
    T* const total = static_cast<T*>(call.residual_out);
    const T* stream = x;  // what the attention's output is added to
    Clock clock(call.seconds, team.rank == 0);

    if (call.residual != nullptr) stream = total;
    for (int row = first; row < last; row++) {
        const int64_t at = int64_t(row) * hidden;
        if (call.residual != nullptr) add(x + at, static_cast<const T*>(call.residual) + at, hidden, total + at);
        rms_norm(stream + at, static_cast<const T*>(layer.input_norm.weight), layer.input_norm.eps, hidden,
                 s.normed + row * s.normed_stride, int(s.normed_stride));
    }
    zero_ends(s.mixed, s.mixed_stride, layer.heads_width(), first, last);
    zero_ends(s.gated, s.gated_stride, intermediate, first, last);
    team.barrier();
    clock.lap(NORM);

    multiply<T>(s.normed, s.normed_stride, rows,
                {s.qkv, s.qkv_stride, Columns{layer.qkv, false}, layer.activation, layer.qkv.n}, team);
    team.barrier();
    clock.lap(QKV);

    T* const k = s.qkv + layer.heads_width();
    AttentionCall attention{};
    attention.plan = call.plan;
    attention.dtype = layer.qkv.dtype;
    attention.scale = layer.scale;
    attention.soft_cap = layer.soft_cap;
    attention.q = s.qkv;
    attention.k = k;
    attention.v = k + layer.kv_width();
    attention.q_stride = attention.k_stride = attention.v_stride = s.qkv_stride;
    attention.positions = call.positions;
    attention.cos_sin = layer.cos_sin;
    attention.rotary_dim = layer.rotary_dim;
    attention.interleaved = layer.interleaved;
    attention.k_cache = call.k_cache;
    attention.v_cache = call.v_cache;
    attention.out = s.mixed;
    attention.out_stride = s.mixed_stride;
    attention.workspace = call.workspace;
    for (int row = first; row < last; row++) {
        if (layer.q_norm.weight != nullptr)
            head_norm(layer.q_norm, s.qkv + row * s.qkv_stride, layer.q_heads, layer.head_dim);
        if (layer.k_norm.weight != nullptr)
            head_norm(layer.k_norm, k + row * s.qkv_stride, layer.kv_heads, layer.head_dim);
    }
    attention_write(attention, first, last);
    team.barrier();
    clock.lap(ROTARY);

    attention_run(attention, team);
    team.barrier();
    clock.lap(ATTENTION);

    multiply<T>(s.mixed, s.mixed_stride, rows, {out, hidden, Columns{layer.out, false}, layer.activation, hidden}, team);
    team.barrier();
    clock.lap(OUT);

    for (int row = first; row < last; row++) {
        const int64_t at = int64_t(row) * hidden;
        add(out + at, stream + at, hidden, total + at);
        rms_norm(total + at, static_cast<const T*>(layer.post_norm.weight), layer.post_norm.eps, hidden,
                 s.normed + row * s.normed_stride, int(s.normed_stride));
    }
    team.barrier();
    clock.lap(NORM);

    if (layer.gates_at_once()) {
        multiply<T>(s.normed, s.normed_stride, rows,
                    {s.gated, s.gated_stride, Columns{layer.gate_up, true}, layer.activation, intermediate}, team);
    } else {
        multiply<T>(s.normed, s.normed_stride, rows,
                    {s.raw, s.raw_stride, Columns{layer.gate_up, false}, layer.activation, layer.gate_up.n}, team);
        team.barrier();
        for (int row = first; row < last; row++)
            gate(s.raw + row * s.raw_stride, layer.activation, intermediate, s.gated + row * s.gated_stride,
                 int(s.gated_stride));
    }
    team.barrier();
    clock.lap(GATE_UP);

    multiply<T>(s.gated, s.gated_stride, rows, {out, hidden, Columns{layer.down, false}, layer.activation, hidden}, team);
    if (call.seconds != nullptr) team.barrier();
    clock.lap(DOWN);
}

}  // namespace

// Bytes of scratch that a call of so many rows needs.
QUIRE_API int64_t quire_layer_scratch(const Layer* layer, int rows) {
    return layer->qkv.dtype == DType::bf16 ? Scratch<bf16>(*layer, rows, nullptr).bytes
                                           : Scratch<float>(*layer, rows, nullptr).bytes;
}

QUIRE_API void quire_layer(const Layer* layer, const LayerCall* call) {
    in_parallel(call->threads, [&](Team& team) {
        if (layer->qkv.dtype == DType::bf16)
            run<bf16>(*layer, *call, team);
        else
            run<float>(*layer, *call, team);
    });
}
