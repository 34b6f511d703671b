// A decoder layer in one call: its phases follow one another in one parallel region, with barriers in between.
#include "layer.h"

#include "api.h"
#include "rows.h"

using namespace quire;

namespace {

// Few rows are computed by all threads together, who share the weights' columns. Many are shared out by threads: what a
// part's phases hand on stays in one core's caches, and nobody waits for anybody, while weights are read by each.
constexpr int ALONE = 256;  // rows for each thread from which on it computes them by itself

// Memory between the phases. Rows that are multiplied next end in zeros up to the projection's padded K; what else is
// wanted of them lies in one place, for no two projections are computed at a time.
template <typename T>
struct Scratch {
    int64_t qkv_stride, raw_stride, aside_bytes;
    Rows<T> normed, mixed, gated;
    T *qkv, *raw;
    int64_t bytes;

    // Rows an odd number of cache lines apart: rows beside each other, which tiles read together, then lie in different
    // sets of the caches. With a power of two in between they would push each other out.
    static int64_t spread(int64_t width) {
        constexpr int64_t line = 64 / sizeof(T);
        return ((width + line - 1) / line | 1) * line;
    }

    Scratch(const Layer& layer, int rows, void* base)
        : qkv_stride(layer.qkv.n()),
          raw_stride(layer.gates_at_once() ? 0 : layer.gate_up.n()),
          aside_bytes(round_up(int(std::max({layer.qkv.aside_bytes(), layer.out.aside_bytes(),
                                            layer.gate_up.aside_bytes(), layer.down.aside_bytes()})), 64)) {
        const int64_t places = rows + rows / ALONE;  // threads' shares are rounded up by less than a row each
        int64_t at = 0;
        const auto take = [&](int64_t size) {
            char* const taken = static_cast<char*>(base) + at;
            at += (places * size + 63) / 64 * 64;
            return taken;
        };
        const auto values = [&](int64_t stride) { return reinterpret_cast<T*>(take(stride * int64_t(sizeof(T)))); };
        uint8_t* const aside = reinterpret_cast<uint8_t*>(take(aside_bytes));
        float* const scales = reinterpret_cast<float*>(take(sizeof(float)));
        const auto operand = [&](int64_t width) {
            const int64_t stride = spread(width);
            return Rows<T>{values(stride), stride, aside, scales, rows};
        };
        normed = operand(std::max(layer.qkv.padded_k(), layer.gate_up.padded_k()));
        mixed = operand(layer.out.padded_k());
        gated = operand(layer.down.padded_k());
        qkv = values(qkv_stride);
        raw = values(raw_stride);
        bytes = at;
    }
};

// Some of a call's rows, and where in the scratch memory their intermediate results lie: at their own places if a whole
// team computes them, at those of the first so many rows if each thread computes some by itself.
struct Part {
    int first, rows, place;
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
void zero_end(const Rows<T>& rows, int row, int width) {
    if (rows.stride > width) std::memset(rows.row(row) + width, 0, (rows.stride - width) * sizeof(T));
}

template <typename T>
void head_norm(const Norm& norm, T* row, int heads, int size) {
    for (int head = 0; head < heads; head++) {
        T* const x = row + head * size;
        rms_norm(x, static_cast<const T*>(norm.weight), norm.eps, size, x, size);
    }
}

// A call's tensors, typed.
template <typename T>
struct Tensors {
    const T *x, *residual, *stream;  // stream: what the attention's output is added to
    T *out, *total;
    Scratch<T> scratch;
    AttentionCall attention;

    Tensors(const Layer& layer, const LayerCall& call)
        : x(static_cast<const T*>(call.x)),
          residual(static_cast<const T*>(call.residual)),
          stream(residual != nullptr ? static_cast<const T*>(call.residual_out) : x),
          out(static_cast<T*>(call.out)),
          total(static_cast<T*>(call.residual_out)),
          scratch(layer, call.rows, call.scratch),
          attention{} {
        T* const k = scratch.qkv + layer.heads_width();
        attention.plan = call.plan;
        attention.dtype = layer.dtype;
        attention.scale = layer.scale;
        attention.soft_cap = layer.soft_cap;
        attention.q = scratch.qkv;
        attention.k = k;
        attention.v = k + layer.kv_width();
        attention.q_stride = attention.k_stride = attention.v_stride = scratch.qkv_stride;
        attention.positions = call.positions;
        attention.cos_sin = layer.cos_sin;
        attention.rotary_dim = layer.rotary_dim;
        attention.interleaved = layer.interleaved;
        attention.k_cache = call.k_cache;
        attention.v_cache = call.v_cache;
        attention.out = scratch.mixed.values;
        attention.out_stride = scratch.mixed.stride;
        attention.workspace = call.workspace;
    }
};

// From the layer's input to q, k and v, rotated and written to the cache.
template <typename T>
void before_attention(const Layer& layer, const Tensors<T>& t, const Part& part, Team& team, Clock& clock) {
    const Scratch<T>& s = t.scratch;
    const int hidden = layer.hidden(), first = team.first(part.rows), last = team.last(part.rows);
    const Rows<T> normed = s.normed.part(part.place, part.rows, part.place, s.aside_bytes);
    for (int row = first; row < last; row++) {
        const int64_t at = int64_t(part.first + row) * hidden;
        if (t.residual != nullptr) add(t.x + at, t.residual + at, hidden, t.total + at);
        rms_norm(t.stream + at, static_cast<const T*>(layer.input_norm.weight), layer.input_norm.eps, hidden,
                 normed.row(row), int(normed.stride));
        normed.prepare(layer.qkv, row);
        zero_end(s.mixed, part.first + row, layer.heads_width());
        zero_end(s.gated, part.place + row, layer.intermediate());
    }
    team.barrier();
    clock.lap(NORM);

    T* const qkv = s.qkv + part.first * s.qkv_stride;
    multiply(normed, layer.qkv, false, layer.activation, qkv, s.qkv_stride, team);
    team.barrier();
    clock.lap(QKV);

    for (int row = first; row < last; row++) {
        T* const q = qkv + row * s.qkv_stride;
        if (layer.q_norm.weight != nullptr) head_norm(layer.q_norm, q, layer.q_heads, layer.head_dim);
        if (layer.k_norm.weight != nullptr)
            head_norm(layer.k_norm, q + layer.heads_width(), layer.kv_heads, layer.head_dim);
    }
    attention_write(t.attention, part.first + first, part.first + last);
    team.barrier();
    clock.lap(ROTARY);
}

// From what attention gave to the layer's output.
template <typename T>
void after_attention(const Layer& layer, const Tensors<T>& t, const Part& part, Team& team, Clock& clock) {
    const Scratch<T>& s = t.scratch;
    const int hidden = layer.hidden(), intermediate = layer.intermediate();
    const int first = team.first(part.rows), last = team.last(part.rows);
    const Rows<T> mixed = s.mixed.part(part.first, part.rows, part.place, s.aside_bytes);
    const Rows<T> normed = s.normed.part(part.place, part.rows, part.place, s.aside_bytes);
    const Rows<T> gated = s.gated.part(part.place, part.rows, part.place, s.aside_bytes);
    T* const out = t.out + int64_t(part.first) * hidden;

    mixed.prepare(layer.out, team);
    multiply(mixed, layer.out, false, layer.activation, out, hidden, team);
    team.barrier();
    clock.lap(OUT);

    for (int row = first; row < last; row++) {
        const int64_t at = int64_t(part.first + row) * hidden;
        add(t.out + at, t.stream + at, hidden, t.total + at);
        rms_norm(t.total + at, static_cast<const T*>(layer.post_norm.weight), layer.post_norm.eps, hidden,
                 normed.row(row), int(normed.stride));
        normed.prepare(layer.gate_up, row);
    }
    team.barrier();
    clock.lap(NORM);

    if (layer.gates_at_once()) {
        multiply(normed, layer.gate_up, true, layer.activation, gated.values, gated.stride, team);
        team.barrier();
        gated.prepare(layer.down, team);
    } else {
        T* const raw = s.raw + part.place * s.raw_stride;
        multiply(normed, layer.gate_up, false, layer.activation, raw, s.raw_stride, team);
        team.barrier();
        for (int row = first; row < last; row++) {
            gate(raw + row * s.raw_stride, layer.activation, intermediate, gated.row(row), int(gated.stride));
            gated.prepare(layer.down, row);
        }
        team.barrier();
    }
    clock.lap(GATE_UP);

    multiply(gated, layer.down, false, layer.activation, out, hidden, team);
    team.barrier();
    clock.lap(DOWN);
}

template <typename Work>
void in_parts(const Work& work, int rows, Team& team, Clock& clock) {
    if (rows < ALONE * team.size) return work(Part{0, rows, 0}, team, clock);
    const int rounds = (rows + MOST_ROWS * team.size - 1) / (MOST_ROWS * team.size), parts = rounds * team.size;
    const int most = (rows + parts - 1) / parts;  // a thread's place in the scratch memory
    Meeting nobody;
    Team alone{0, 1, nobody};
    for (int index; (index = team.next()) < parts;) {
        const int first = int(int64_t(rows) * index / parts), last = int(int64_t(rows) * (index + 1) / parts);
        work(Part{first, last - first, team.rank * most}, alone, clock);
    }
    team.barrier();
}

template <typename T>
void run(const Layer& layer, const LayerCall& call, Team& team) {
    Clock clock(call.seconds, team.rank == 0);
    const Tensors<T> tensors(layer, call);
    in_parts([&](const Part& part, Team& by, Clock& c) { before_attention(layer, tensors, part, by, c); }, call.rows,
                team, clock);
    attention_run(tensors.attention, team);
    team.barrier();
    clock.lap(ATTENTION);
    in_parts([&](const Part& part, Team& by, Clock& c) { after_attention(layer, tensors, part, by, c); }, call.rows,
                team, clock);
}

}  // namespace

void quire::compute(const Layer& layer, const LayerCall& call, Team& team) {
    if (layer.dtype == DType::bf16)
        run<bf16>(layer, call, team);
    else
        run<float>(layer, call, team);
}

// Bytes of scratch that a call of so many rows needs.
QUIRE_API int64_t quire_layer_scratch(const Layer* layer, int rows) {
    return layer->dtype == DType::bf16 ? Scratch<bf16>(*layer, rows, nullptr).bytes
                                           : Scratch<float>(*layer, rows, nullptr).bytes;
}

QUIRE_API void quire_layer(const Layer* layer, const LayerCall* call) {
    in_parallel(call->threads, [&](Team& team) { compute(*layer, *call, team); });
}
