// Cuts a step's attention into tasks: blocks of rows, shared prefixes once for all, long contexts in parts.
#include "attention_plan.h"

#include <algorithm>

namespace quire {
namespace {

constexpr int SHORTEST_PART = 256;  // keys; merging costs about as much as a few dozen keys
constexpr int TASKS_PER_THREAD = 4; // enough that whoever ends first finds something left to do

struct Cut {
    AttentionPlan& plan;
    std::vector<int> shared;                     // [requests]: keys that a cascade attends to for the request
    std::vector<AttentionTask> whole;            // before they are split over keys
    std::vector<std::vector<int32_t>> prefixes;  // [requests * kv_heads]: partial results of the cascade

    explicit Cut(AttentionPlan& plan)
        : plan(plan), shared(plan.requests), prefixes(size_t(plan.requests) * plan.kv_heads) {}

    bool packed(int request) const {
        return plan.tokens(request) > 0 && plan.rows(request) <= PACKED_ROWS;
    }

    // Requests of few rows whose tables begin alike attend to those blocks together (a cascade of two levels).
    // Not with a window: there few keys are old enough for all.
    void find_cascades() {
        if (plan.deterministic || plan.window) return;
        std::vector<int> order;
        for (int request = 0; request < plan.requests; request++)
            if (packed(request) && plan.seq_lens[request] > TILE_KEYS) order.push_back(request);
        const auto first = [&](int request) { return plan.blocks(request)[0]; };
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return first(a) < first(b); });
        for (size_t i = 0, j = 0; i < order.size(); i = j) {
            int keys = plan.position(order[i], 0) + 1;  // that all rows see
            for (j = i + 1; j < order.size() && first(order[j]) == first(order[i]); j++) {
                keys = std::min(keys, plan.position(order[j], 0) + 1);
                keys = std::min(keys, alike(order[i], order[j], keys));
            }
            keys = keys / TILE_KEYS * TILE_KEYS;
            if (j - i > 1 && keys) add_cascade(&order[i], int(j - i), keys);
        }
    }

    // Keys, up to `most`, in blocks that both tables begin with.
    int alike(int a, int b, int most) const {
        const int blocks = most / plan.block_size;
        int same = 0;
        while (same < blocks && plan.blocks(a)[same] == plan.blocks(b)[same]) same++;
        return same * plan.block_size;
    }

    void add_cascade(const int* requests, int count, int keys) {
        for (int i = 0; i < count;) {
            const int first_member = int(plan.members.size());
            int rows = 0;
            for (; i < count && rows + plan.rows(requests[i]) <= TASK_ROWS; i++) {
                plan.members.push_back(requests[i]);
                shared[requests[i]] = keys;
                rows += plan.rows(requests[i]);
            }
            const int members = int(plan.members.size()) - first_member;
            for (int head = 0; head < plan.kv_heads; head++)
                whole.push_back({head, first_member, members, 0, rows, 0, keys, -1, 0});
        }
    }

    void add_requests() {
        for (int request = 0; request < plan.requests; request++) {
            if (plan.tokens(request) == 0) continue;
            const int member = int(plan.members.size());
            plan.members.push_back(request);
            for (int row = 0; row < plan.rows(request); row += TASK_ROWS) {
                const int rows = std::min(TASK_ROWS, plan.rows(request) - row);
                const int oldest = plan.oldest(plan.position(request, row));
                const int first = std::max(shared[request], oldest / TILE_KEYS * TILE_KEYS);
                const int last = plan.position(request, row + rows - 1) + 1;
                for (int head = 0; head < plan.kv_heads; head++)
                    whole.push_back({head, member, 1, row, rows, first, last, -1, 0});
            }
        }
    }

    static int64_t cost(const AttentionTask& task) {  // reading a key costs about as much as eight rows' work
        return int64_t(task.last_key - task.first_key) * (8 + task.rows) + 512;
    }

    // Where the task's next part ends.
    int part_end(const AttentionTask& task, int first, int64_t target) const {
        const int keys = task.last_key - task.first_key;
        if (plan.deterministic) {
            if (task.rows > PACKED_ROWS) return task.last_key;  // it merges by itself, in the same order
            return std::min(task.last_key, (first / FIXED_SPLIT + 1) * FIXED_SPLIT);
        }
        const int64_t parts = std::min<int64_t>((cost(task) + target - 1) / target, keys / SHORTEST_PART);
        if (parts <= 1) return task.last_key;
        const int length = int((keys / parts + TILE_KEYS - 1) / TILE_KEYS) * TILE_KEYS;
        const int end = first / TILE_KEYS * TILE_KEYS + length;
        return end + length / 2 > task.last_key ? task.last_key : end;
    }

    void split() {
        int64_t total = 0;
        for (const AttentionTask& task : whole) total += cost(task);
        const int64_t target = total / (plan.threads * TASKS_PER_THREAD) + 1;
        for (const AttentionTask& task : whole) {  // cascades come first
            const bool cascade = task.last_key == shared[plan.members[task.first_member]] && task.first_key == 0;
            std::vector<int32_t> places;
            const bool alone = !cascade && shared[plan.members[task.first_member]] == 0 &&
                               part_end(task, task.first_key, target) == task.last_key;
            for (int first = task.first_key; first < task.last_key;) {
                AttentionTask part = task;
                part.first_key = first;
                part.last_key = first = part_end(task, first, target);
                part.cost = cost(part);
                if (!alone) {
                    part.partial = int32_t(plan.partials);
                    plan.partials += task.rows;
                    places.push_back(part.partial);
                }
                plan.tasks.push_back(part);
            }
            if (cascade)
                hand_out(task, places);
            else if (!alone)
                merge(task, places);
        }
    }

    // Each member finds its rows in the cascade's partial results.
    void hand_out(const AttentionTask& task, const std::vector<int32_t>& places) {
        int row = 0;
        for (int i = 0; i < task.members; i++) {
            const int request = plan.members[task.first_member + i];
            for (int32_t place : places)
                prefixes[size_t(request) * plan.kv_heads + task.kv_head].push_back(place + row);
            row += plan.rows(request);
        }
    }

    void merge(const AttentionTask& task, const std::vector<int32_t>& places) {
        const int request = plan.members[task.first_member];
        const int first_part = int(plan.parts.size());
        const auto& prefix = prefixes[size_t(request) * plan.kv_heads + task.kv_head];
        plan.parts.insert(plan.parts.end(), prefix.begin(), prefix.end());
        plan.parts.insert(plan.parts.end(), places.begin(), places.end());
        const int parts = int(plan.parts.size()) - first_part;
        plan.merges.push_back({request, task.kv_head, task.first_row, task.rows, first_part, parts});
    }
};

}  // namespace

void plan_attention(AttentionPlan& plan) {
    Cut cut(plan);
    cut.find_cascades();
    cut.add_requests();
    cut.split();
    std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                     [](const AttentionTask& a, const AttentionTask& b) { return a.cost > b.cost; });
}

}  // namespace quire
