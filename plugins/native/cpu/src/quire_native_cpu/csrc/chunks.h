// How a product's work is shared out among a team.
#pragma once
#include <algorithm>

#include "team.h"

namespace quire {

// Rows up to which reading the weights is all that takes time. With more, a task should be long enough to ask for its
// panels ahead.
constexpr int FEW_ROWS = 16;

// work(first_row, last_row, group, end) for m rows, in chunks of `most` at most, by groups [group, end) of columns. There
// are some such tasks for each thread, but for one that has nobody to share with; ends without a barrier.
template <typename Work>
inline void for_chunks(int m, int most, int groups, Team& team, const Work& work) {
    const int row_chunks = (m + most - 1) / most;
    const int tasks = team.size == 1 ? 1 : team.size * (m <= FEW_ROWS ? 8 : 4), wanted = std::max(1, tasks / row_chunks);
    const int per_task = std::max(1, groups / wanted);
    const int column_chunks = (groups + per_task - 1) / per_task;
    for (int task; (task = team.next()) < row_chunks * column_chunks;) {
        const int chunk = task / column_chunks, column = task % column_chunks;
        const int first = int(int64_t(m) * chunk / row_chunks), last = int(int64_t(m) * (chunk + 1) / row_chunks);
        work(first, last, column * per_task, std::min(groups, (column + 1) * per_task));
    }
}

}  // namespace quire
