// Finds a tile's keys and values in the cache, and rearranges those that are laid out in rows.
#pragma once
#include "attention_products.h"
#include "attention_scratch.h"

namespace quire {

// One KV head's part of the cache, behind a request's block table.
template <class Unit>
struct Blocks {
    const AttentionPlan& plan;
    const int32_t* table;
    const typename Unit::element *k, *v;  // of the KV head in block 0
    int64_t block_elements;               // from a block to the next

    Blocks(const AttentionPlan& plan, const void* k_cache, const void* v_cache, int request, int kv_head)
        : plan(plan), table(plan.blocks(request)) {
        const int64_t elements = int64_t(plan.block_size) * plan.head_dim;
        block_elements = elements * plan.kv_heads;
        k = static_cast<const typename Unit::element*>(k_cache) + kv_head * elements;
        v = static_cast<const typename Unit::element*>(v_cache) + kv_head * elements;
    }

    // The tile of keys [first, last), where they are.
    KeyTile find(int first, int last) const {
        KeyTile tile;
        tile.keys = last - first;
        tile.groups = (tile.keys + LANES - 1) / LANES;
        tile.k_stride = plan.block_size;
        tile.v_stride = plan.head_dim;
        for (int g = 0; g < tile.groups; g++) {
            const int key = first + g * LANES;
            const int64_t block = table[key / plan.block_size] * block_elements;
            const int offset = key % plan.block_size;
            tile.k[g] = reinterpret_cast<const uint32_t*>(k + block) + offset;
            tile.v[g] = reinterpret_cast<const uint32_t*>(v + block) + offset / Unit::size * plan.head_dim;
        }
        return tile;
    }

    // Ask for the keys and values that come after.
    void prefetch(int first, int last) const {
#if defined(__x86_64__)
        for (int key = first; key < last; key += LANES) {
            const int64_t at = table[key / plan.block_size] * block_elements;
            if (plan.block_size > LANES && key % plan.block_size) continue;  // the whole block was asked for
            const int64_t bytes = block_elements / plan.kv_heads * int64_t(sizeof(*k));
            for (int64_t i = 0; i < bytes; i += 64) {
                __builtin_prefetch(reinterpret_cast<const char*>(k + at) + i, 0, 3);
                __builtin_prefetch(reinterpret_cast<const char*>(v + at) + i, 0, 3);
            }
        }
#endif
    }
};

// The same for rows of T: turned into words of fp32, zeros after the last key and after a head's last element.
template <class T>
struct Rows {
    const AttentionPlan& plan;
    const int32_t* table;
    const T *k, *v;
    int64_t block_elements;
    Scratch& scratch;

    Rows(const AttentionPlan& plan, const void* k_cache, const void* v_cache, int request, int kv_head, Scratch& scratch)
        : plan(plan), table(plan.blocks(request)), scratch(scratch) {
        const int64_t elements = int64_t(plan.block_size) * plan.head_dim;
        block_elements = elements * plan.kv_heads;
        k = static_cast<const T*>(k_cache) + kv_head * elements;
        v = static_cast<const T*>(v_cache) + kv_head * elements;
    }

    KeyTile find(int first, int last) const {
        const int dim = plan.head_dim, padded = plan.padded_dim();
        KeyTile tile;
        tile.keys = last - first;
        tile.groups = (tile.keys + LANES - 1) / LANES;
        tile.k_stride = TILE_KEYS;
        tile.v_stride = padded;
        float* keys = reinterpret_cast<float*>(scratch.k);
        float* values = reinterpret_cast<float*>(scratch.v);
        for (int g = 0; g < tile.groups; g++) {
            tile.k[g] = scratch.k + g * LANES;
            tile.v[g] = scratch.v + g * LANES * padded;
        }
        for (int i = 0; i < tile.groups * LANES; i++) {
            float* value = values + i * padded;
            std::memset(value, 0, padded * sizeof(float));
            if (i >= tile.keys) {
                for (int d = 0; d < dim; d++) keys[d * TILE_KEYS + i] = 0;
                continue;
            }
            const int key = first + i;
            const int64_t at = table[key / plan.block_size] * block_elements + key % plan.block_size * int64_t(dim);
            for (int d = 0; d < dim; d++) keys[d * TILE_KEYS + i] = widen(k[at + d]);
            for (int d = 0; d < dim; d++) value[d] = widen(v[at + d]);
        }
        return tile;
    }

    void prefetch(int, int) const {}
};

}  // namespace quire
