// Attends: one task after the other, then the merging of what was attended to in parts.
#include "attention.h"

#include "attention_amx.h"
#include "attention_keys.h"
#include "attention_products.h"
#include "attention_scratch.h"
#include "attention_softmax.h"

namespace quire {
namespace {

// A result that may still be merged with others: maximum, sum, and values from the sixteenth float on.
void save_partial(float* to, float maximum, float sum, const float* o, int dim) {
    to[0] = maximum;
    to[1] = sum;
    std::memcpy(to + LANES, o, dim * sizeof(float));
}

void begin_partial(float* to, int dim) {
    std::memset(to, 0, (LANES + dim) * sizeof(float));
    to[0] = NOTHING;
}

// The result over both ranges of keys; the order matters to the last bit.
void merge_partial(float* into, const float* part, int dim) {
    const float maximum = part[0] > into[0] ? part[0] : into[0];
    const float offset = maximum == NOTHING ? 0.0f : maximum;
    const float old_share = power_of_two(into[0] - offset), new_share = power_of_two(part[0] - offset);
    into[0] = maximum;
    into[1] = into[1] * old_share + part[1] * new_share;
    for (int d = LANES; d < LANES + dim; d += LANES)
        store(load(into + d) * old_share + load(part + d) * new_share, into + d);
}

// Softmax's division, rounding to the output's dtype. Adding 0 turns -0 into 0, so that it does not
// matter whether a part without any weight was added.
template <class T>
void finish(const AttentionCall& call, int row_of_step, int q_head, const float* o, float sum) {
    const int dim = call.plan->head_dim;
    T* out = static_cast<T*>(call.out) + row_of_step * call.out_stride + q_head * dim;
    const float share = 1.0f / sum;
    for (int d = 0; d < dim; d += LANES) {
        const floats x = load(o + d) * share + 0.0f;
        if (d + LANES <= dim)
            store(x, out + d);
        else
            store_first(x, out + d, dim - d);
    }
}

// One task: its rows, and what each has seen so far.
template <class T, class Unit, class Keys>
struct Work {
    const AttentionCall& call;
    const AttentionPlan& plan;
    const AttentionTask& task;
    Scratch& scratch;
    const Logits logits;
    int step_rows[TASK_ROWS], heads[TASK_ROWS], positions[TASK_ROWS];
    int first_seen_by_all, last_seen_by_all;  // all rows see [first, last)

    const int dim, q_words, padded;
    const bool amx;

    Work(const AttentionCall& call, const AttentionTask& task, Scratch& scratch)
        : call(call), plan(*call.plan), task(task), scratch(scratch), logits{call.scale, call.soft_cap},
          dim(plan.head_dim), q_words(dim / Unit::size), padded(plan.padded_dim()),
          amx(Unit::size == 2 && dim % 32 == 0) {
        find_rows();
        first_seen_by_all = 0;
        last_seen_by_all = positions[0] + 1;
        for (int i = 0; i < task.rows; i++) {
            last_seen_by_all = std::min(last_seen_by_all, positions[i] + 1);
            first_seen_by_all = std::max(first_seen_by_all, plan.oldest(positions[i]));
        }
    }

    void find_rows() {
        const int group = plan.group();
        int i = 0, row = task.first_row;
        for (int member = 0; member < task.members; member++, row = 0) {
            const int request = plan.members[task.first_member + member];
            for (; row < plan.rows(request) && i < task.rows; row++, i++) {
                step_rows[i] = plan.query_start[request] + row / group;
                heads[i] = task.kv_head * group + row % group;
                positions[i] = plan.position(request, row);
            }
        }
    }

    // The rows' queries as words, filled up with zeros to whole tiles.
    void load_queries() {
        const int rows = (task.rows + LANES - 1) / LANES * LANES;
        std::memset(scratch.q, 0, size_t(rows) * padded * 4);
        for (int i = 0; i < task.rows; i++) {
            const T* q = static_cast<const T*>(call.q) + step_rows[i] * call.q_stride + heads[i] * dim;
            uint32_t* to = scratch.q + i * padded;
            if constexpr (Unit::size == 2) {
                std::memcpy(to, q, dim * sizeof(T));
            } else {
                for (int d = 0; d < dim; d++) to[d] = bits_of<uint32_t>(widen(q[d]));
            }
        }
    }

    void begin() {
        std::memset(scratch.o, 0, size_t((task.rows + LANES - 1) / LANES * LANES) * padded * 4);
        std::memset(scratch.sums, 0, size_t(task.rows) * LANES * 4);
        for (int i = 0; i < TASK_ROWS; i++) scratch.maxima[i] = NOTHING;
    }

    void run() {
        load_queries();
        begin();
        const int request = plan.members[task.first_member];
        const Keys keys = find_keys(request);
        // Rows that would be split where they are few are merged here, at the same keys and in the same order.
        const bool cut = plan.deterministic && task.last_key - task.first_key / FIXED_SPLIT * FIXED_SPLIT > FIXED_SPLIT;
        if (cut)
            for (int i = 0; i < task.rows; i++) begin_partial(merged(i), padded);
        for (int first = task.first_key; first < task.last_key; first += TILE_KEYS) {
            if (cut && first % FIXED_SPLIT == 0 && first > task.first_key) flush();
            const int last = std::min(first + TILE_KEYS, task.last_key);
            keys.prefetch(last, std::min(last + TILE_KEYS, task.last_key));
            attend(keys.find(first, last), first);
        }
        if (cut) flush();
        for (int i = 0; i < task.rows; i++) {
            if (cut)
                finish<T>(call, step_rows[i], heads[i], merged(i) + LANES, merged(i)[1]);
            else if (task.partial >= 0)
                save_partial(partials(plan, call.workspace) + (task.partial + i) * plan.partial_floats(),
                             scratch.maxima[i], row_sum(i), scratch.o + i * padded, padded);
            else
                finish<T>(call, step_rows[i], heads[i], scratch.o + i * padded, row_sum(i));
        }
    }

    Keys find_keys(int request) {
        if constexpr (std::is_same_v<Keys, Rows<T>>)
            return Keys(plan, call.k_cache, call.v_cache, request, task.kv_head, scratch);
        else
            return Keys(plan, call.k_cache, call.v_cache, request, task.kv_head);
    }

    float* merged(int row) const { return scratch.merged + row * plan.partial_floats(); }
    float row_sum(int row) const { return sum(load(scratch.sums + row * LANES)); }

    void flush() {
        float part[LANES + 512];
        for (int i = 0; i < task.rows; i++) {
            save_partial(part, scratch.maxima[i], row_sum(i), scratch.o + i * padded, padded);
            merge_partial(merged(i), part, padded);
        }
        begin();
    }

    // All rows on one tile of keys.
    void attend(const KeyTile& tile, int first_key) {
        const bool masked = first_key < first_seen_by_all || first_key + tile.groups * LANES > last_seen_by_all;
#if defined(__AMX_BF16__)
        const uint32_t* values[TILE_KEYS / 32];
        int value_tiles = 0;
        if (amx) value_tiles = pair_groups(tile, dim, plan.block_size % 32 == 0, scratch.v, values);
#endif
        for (int row = 0; row < task.rows; row += BLOCK_ROWS) {
            const int rows = std::min(BLOCK_ROWS, task.rows - row);
            const uint32_t* q = scratch.q + row * padded;
            float* o = scratch.o + row * padded;
#if defined(__AMX_BF16__)
            if (amx) {
                if (rows > TILE_ROWS)
                    scores_amx<true>(q, padded, q_words, tile, scratch.s);
                else
                    scores_amx<false>(q, padded, q_words, tile, scratch.s);
                masked ? soften_rows<true>(row, rows, tile, first_key) : soften_rows<false>(row, rows, tile, first_key);
                if (rows > TILE_ROWS)
                    weigh_values_amx<true>(scratch.p, values, tile.v_stride, value_tiles, dim, o, padded);
                else
                    weigh_values_amx<false>(scratch.p, values, tile.v_stride, value_tiles, dim, o, padded);
                continue;
            }
#endif
            scores<Unit>(q, padded, q_words, rows, tile, scratch.s);
            masked ? soften_rows<true>(row, rows, tile, first_key) : soften_rows<false>(row, rows, tile, first_key);
            weigh_values<Unit>(scratch.p, rows, tile, (dim + LANES - 1) / LANES * LANES, o, padded);
        }
    }

    template <bool MASKED>
    void soften_rows(int first_row, int rows, const KeyTile& tile, int first_key) {
        for (int some = 0; some < rows; some += LANES)
            soften_some<MASKED>(first_row + some, std::min(LANES, rows - some), scratch.s + some * TILE_KEYS,
                                scratch.p + some * (TILE_KEYS / Unit::size), tile, first_key);
    }

    // Up to sixteen rows from `first_row` on, a multiple of sixteen.
    template <bool MASKED>
    void soften_some(int first_row, int rows, float* s, uint32_t* p, const KeyTile& tile, int first_key) {
        floats most[LANES];
        for (int i = 0; i < rows; i++) {
            const int position = positions[first_row + i];
            const Visible visible{plan.oldest(position) - first_key, position + 1 - first_key};
            most[i] = look<MASKED>(s + i * TILE_KEYS, tile.groups, logits, visible);
        }
        const float factor = logits.factor();
        const Shift shift(most, rows, factor, scratch.maxima + first_row);
        float offsets[LANES], changes[LANES];
        store(shift.offset, offsets);
        store(shift.change, changes);
        for (int i = 0; i < rows; i++) {
            const int row = first_row + i;
            auto* weights = reinterpret_cast<typename Unit::element*>(p + i * (TILE_KEYS / Unit::size));
            soften<Unit>(s + i * TILE_KEYS, tile.groups, factor, offsets[i], changes[i], scratch.sums + row * LANES,
                         weights);
            if (changes[i] != 1.0f)
                for (int d = 0; d < dim; d += LANES)
                    store(load(scratch.o + row * padded + d) * changes[i], scratch.o + row * padded + d);
        }
    }
};

template <class T>
void merge(const AttentionCall& call, const AttentionMerge& merge) {
    const AttentionPlan& plan = *call.plan;
    const int64_t floats_each = plan.partial_floats();
    float* results = partials(plan, call.workspace);
    const int32_t* parts = plan.parts.data() + merge.first_part;
    const int group = plan.group();
    float result[LANES + 512];
    for (int i = 0; i < merge.rows; i++) {
        begin_partial(result, plan.padded_dim());
        for (int part = 0; part < merge.parts; part++)
            merge_partial(result, results + (parts[part] + i) * floats_each, plan.padded_dim());
        const int row = merge.first_row + i;
        finish<T>(call, plan.query_start[merge.request] + row / group, merge.kv_head * group + row % group,
                  result + LANES, result[1]);
    }
}

template <class T, class Unit, class Keys>
void run(const AttentionCall& call, Team& team) {
    const AttentionPlan& plan = *call.plan;
    Scratch scratch(plan, call.workspace, team.rank);
#if defined(__AMX_BF16__)
    const bool amx = Unit::size == 2 && plan.head_dim % 32 == 0;
    int configured = 0;
#endif
    const int tasks = int(plan.tasks.size()), merges = int(plan.merges.size());
    for (int i = team.next(); i < tasks; i = team.next()) {
        const AttentionTask& task = plan.tasks[i];
#if defined(__AMX_BF16__)
        const int rows = std::min<int>(task.rows, TILE_ROWS);
        if (amx && rows != configured) shape_tiles(configured = rows);
#endif
        Work<T, Unit, Keys>(call, task, scratch).run();
    }
#if defined(__AMX_BF16__)
    if (configured) _tile_release();
#endif
    if (merges == 0) return;
    team.barrier();
    for (int i = team.next(); i < merges; i = team.next()) merge<T>(call, plan.merges[i]);
}

}  // namespace

void attention_run(const AttentionCall& call, Team& team) {
    if (call.dtype == DType::f32) {
        if (call.plan->layout == int32_t(CacheLayout::words))
            run<float, Single, Blocks<Single>>(call, team);
        else
            run<float, Single, Rows<float>>(call, team);
    } else {
        if (call.plan->layout == int32_t(CacheLayout::words))
            run<bf16, Pair, Blocks<Pair>>(call, team);
        else
            run<bf16, Single, Rows<bf16>>(call, team);
    }
}

}  // namespace quire
