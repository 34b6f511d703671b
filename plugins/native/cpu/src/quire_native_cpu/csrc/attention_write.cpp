// Rotates q and k (Su et al. 2021, https://arxiv.org/abs/2104.09864) and puts k and v into the cache.
#include "attention_plan.h"
#include "simd.h"

namespace quire {
namespace {

// One head, in fp32; elements from rotary_dim on are left as they are. `to` may be `from`.
template <class T>
void rotate(const T* from, T* to, const float* cos_sin, int rotary_dim, bool interleaved) {
    const int half = rotary_dim / 2;
    const float *cosines = cos_sin, *sines = cos_sin + half;
    int i = 0;
    if (!interleaved) {
        for (; i + LANES <= half; i += LANES) {
            const floats a = load(from + i), b = load(from + half + i), c = load(cosines + i), s = load(sines + i);
            store(a * c - b * s, to + i);
            store(b * c + a * s, to + half + i);
        }
    }
    for (; i < half; i++) {
        const int first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : half + i;
        const float a = widen(from[first]), b = widen(from[second]);
        narrow(a * cosines[i] - b * sines[i], to + first);
        narrow(b * cosines[i] + a * sines[i], to + second);
    }
}

// Sixteen elements, each to its own place two elements after the one before: tokens beside each other may be written
// by two threads at once, so nothing between them is touched.
inline void store_apart(const bf16* from, bf16* to) {
#if defined(__AVX512BW__)
    const __m512i wide = _mm512_cvtepu16_epi32(bits_of<__m256i>(load_as<halves>(from)));
    _mm512_mask_storeu_epi16(to, 0x55555555, wide);
#else
    for (int i = 0; i < LANES; i++) to[2 * i] = from[i];
#endif
}

// A key of [head_dim] to its column of [head_dim / u, block_size] words.
void write_key(const float* from, float* block, const AttentionPlan& plan, int offset) {
    for (int d = 0; d < plan.head_dim; d++) block[d * plan.block_size + offset] = from[d];
}
void write_key(const bf16* from, bf16* block, const AttentionPlan& plan, int offset) {
    for (int d = 0; d < plan.head_dim; d += 2) std::memcpy(block + d * plan.block_size + 2 * offset, from + d, 4);
}

// A value of [head_dim] to its row of [block_size / u, head_dim] words.
void write_value(const float* from, float* block, const AttentionPlan& plan, int offset) {
    std::memcpy(block + offset * plan.head_dim, from, plan.head_dim * sizeof(float));
}
void write_value(const bf16* from, bf16* block, const AttentionPlan& plan, int offset) {
    bf16* to = block + offset / 2 * 2 * plan.head_dim + offset % 2;
    for (int d = 0; d < plan.head_dim; d += LANES) store_apart(from + d, to + 2 * d);
}

template <class T>
void write(const AttentionCall& call, int first_row, int last_row) {
    const AttentionPlan& plan = *call.plan;
    const int dim = plan.head_dim;
    const int64_t block_elements = int64_t(plan.block_size) * dim;  // of one head
    T rotated[512];
    for (int row = first_row; row < last_row; row++) {
        const float* cos_sin = call.cos_sin ? call.cos_sin + call.positions[row] * call.rotary_dim : nullptr;
        if (cos_sin) {
            T* q = static_cast<T*>(call.q) + row * call.q_stride;
            for (int head = 0; head < plan.q_heads; head++)
                rotate(q + head * dim, q + head * dim, cos_sin, call.rotary_dim, call.interleaved);
        }
        const int64_t slot = plan.slot_mapping[row];
        if (slot < 0) continue;
        const int offset = int(slot % plan.block_size);
        for (int head = 0; head < plan.kv_heads; head++) {
            const T* k = static_cast<const T*>(call.k) + row * call.k_stride + head * dim;
            const T* v = static_cast<const T*>(call.v) + row * call.v_stride + head * dim;
            if (cos_sin) {
                rotate(k, rotated, cos_sin, call.rotary_dim, call.interleaved);
                std::memcpy(rotated + call.rotary_dim, k + call.rotary_dim, (dim - call.rotary_dim) * sizeof(T));
                k = rotated;
            }
            const int64_t block = (slot / plan.block_size * plan.kv_heads + head) * block_elements;
            T *k_block = static_cast<T*>(call.k_cache) + block, *v_block = static_cast<T*>(call.v_cache) + block;
            if (plan.layout == int32_t(CacheLayout::words)) {
                write_key(k, k_block, plan, offset);
                write_value(v, v_block, plan, offset);
            } else {
                std::memcpy(k_block + offset * dim, k, dim * sizeof(T));
                std::memcpy(v_block + offset * dim, v, dim * sizeof(T));
            }
        }
    }
}

}  // namespace

void attention_write(const AttentionCall& call, int first_row, int last_row) {
    if (call.dtype == DType::f32)
        write<float>(call, first_row, last_row);
    else
        write<bf16>(call, first_row, last_row);
}

}  // namespace quire
