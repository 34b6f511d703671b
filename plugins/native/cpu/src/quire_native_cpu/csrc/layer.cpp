// A decoder layer in one call: its phases follow one another in one parallel region, with barriers in between.
#include "layer.h"

#include "api.h"
#include "rows.h"

using namespace quire;

namespace {

// Memory between the phases. Rows that are multiplied next end in zeros up to the projection's padded K; their codes lie
// in one place, for no two projections are computed at a time.
template <typename T>
struct Scratch {
    int64_t qkv_stride, raw_stride;
    Rows<T> normed, mixed, gated;
    T *qkv, *raw;
    int64_t bytes;

    Scratch(const Layer& layer, int rows, void* base)
        : qkv_stride(layer.qkv.n()), raw_stride(layer.gates_at_once() ? 0 : layer.gate_up.n()) {
        int64_t at = 0;
        const auto take = [&](int64_t size) {
            char* const taken = static_cast<char*>(base) + at;
            at += (rows * size + 63) / 64 * 64;
            return taken;
        };
        const auto values = [&](int64_t stride) { return reinterpret_cast<T*>(take(stride * int64_t(sizeof(T)))); };
        uint8_t* const codes = reinterpret_cast<uint8_t*>(
            take(std::max({layer.qkv.code_bytes(), layer.out.code_bytes(), layer.gate_up.code_bytes(),
                           layer.down.code_bytes()})));
        float* const scales = reinterpret_cast<float*>(take(sizeof(float)));
        const auto operand = [&](int64_t stride) { return Rows<T>{values(stride), stride, codes, scales, rows}; };
        normed = operand(std::max(layer.qkv.padded_k(), layer.gate_up.padded_k()));
        mixed = operand(layer.out.padded_k());
        gated = operand(layer.down.padded_k());
        qkv = values(qkv_stride);
        raw = values(raw_stride);
        bytes = at;
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
void zero_ends(const Rows<T>& rows, int width, int first, int last) {
    if (rows.stride == width) return;
    for (int row = first; row < last; row++) std::memset(rows.row(row) + width, 0, (rows.stride - width) * sizeof(T));
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
                 s.normed.row(row), int(s.normed.stride));
        s.normed.quantize(layer.qkv, row);
    }
    zero_ends(s.mixed, layer.heads_width(), first, last);
    zero_ends(s.gated, intermediate, first, last);
    team.barrier();
    clock.lap(NORM);

    multiply(s.normed, layer.qkv, false, layer.activation, s.qkv, s.qkv_stride, team);
    team.barrier();
    clock.lap(QKV);

    T* const k = s.qkv + layer.heads_width();
    AttentionCall attention{};
    attention.plan = call.plan;
    attention.dtype = layer.dtype;
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
    attention.out = s.mixed.values;
    attention.out_stride = s.mixed.stride;
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

    s.mixed.quantize(layer.out, team);
    multiply(s.mixed, layer.out, false, layer.activation, out, hidden, team);
    team.barrier();
    clock.lap(OUT);

    for (int row = first; row < last; row++) {
        const int64_t at = int64_t(row) * hidden;
        add(out + at, stream + at, hidden, total + at);
        rms_norm(total + at, static_cast<const T*>(layer.post_norm.weight), layer.post_norm.eps, hidden,
                 s.normed.row(row), int(s.normed.stride));
        s.normed.quantize(layer.gate_up, row);
    }
    team.barrier();
    clock.lap(NORM);

    if (layer.gates_at_once()) {
        multiply(s.normed, layer.gate_up, true, layer.activation, s.gated.values, s.gated.stride, team);
        team.barrier();
        s.gated.quantize(layer.down, team);
    } else {
        multiply(s.normed, layer.gate_up, false, layer.activation, s.raw, s.raw_stride, team);
        team.barrier();
        for (int row = first; row < last; row++) {
            gate(s.raw + row * s.raw_stride, layer.activation, intermediate, s.gated.row(row), int(s.gated.stride));
            s.gated.quantize(layer.down, row);
        }
        team.barrier();
    }
    clock.lap(GATE_UP);

    multiply(s.gated, layer.down, false, layer.activation, out, hidden, team);
    if (call.seconds != nullptr) team.barrier();
    clock.lap(DOWN);
}

}  // namespace

// Bytes of scratch that a call of so many rows needs.
QUIRE_API int64_t quire_layer_scratch(const Layer* layer, int rows) {
    return layer->dtype == DType::bf16 ? Scratch<bf16>(*layer, rows, nullptr).bytes
                                           : Scratch<float>(*layer, rows, nullptr).bytes;
}

QUIRE_API void quire_layer(const Layer* layer, const LayerCall* call) {
    in_parallel(call->threads, [&](Team& team) {
        if (layer->dtype == DType::bf16)
            run<bf16>(*layer, *call, team);
        else
            run<float>(*layer, *call, team);
    });
}
