// From logits to token ids, row by row: each row is one thread's, so that its bits never depend on its neighbours.
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "api.h"
#include "attention.h"
#include "logits_cut.h"
#include "logits_race.h"
#include "logits_row.h"
#include "team.h"

using namespace quire;

namespace {

constexpr int64_t SMALL = 1 << 14;  // elements below which waking threads costs more than it saves

// Calls `work(team)` in as many threads as are worth it; each takes rows by `team.next()`.
template <typename Work>
void share_rows(int rows, int n, int threads, const Work& work) {
    in_parallel(int64_t(rows) * n < SMALL ? 1 : std::min(threads, rows), work);
}

template <typename Work>
void each_row(int rows, int n, int threads, const Work& work) {
    share_rows(rows, n, threads, [&](Team& team) {
        for (int row = team.next(); row < rows; row = team.next()) work(row);
    });
}

// Calls `work(first element)` with the type that the dtype names.
template <typename Work>
void typed(const void* data, int dtype, const Work& work) {
    if (DType(dtype) == DType::bf16)
        work(static_cast<const bf16*>(data));
    else
        work(static_cast<const float*>(data));
}

// out = each(x), sixteen at a time.
template <typename T, typename Each>
void map_row(const T* row, int n, float* out, const Each& each) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(each(load(row + i)), out + i);
    if (i < n) store_first(each(load_first(row + i, n - i)), out + i, n - i);
}

void keep(const float* row, int n, Cut cut, float* out) {
    const floats value = splat(cut.value);
    map_row(row, n, out, [&](floats v) { return v < value ? splat(LEAST) : v; });
    if (!cut.split) return;
    int seen = 0;
    for (int i = 0; i < n; i++)
        if (out[i] == cut.value && ++seen > cut.equals) out[i] = LEAST;
}

struct Candidate {
    float value;
    int32_t order;  // of the value: NaN has its place too, which sorting needs
    int32_t id;

    Candidate(float value, int id) : value(value), order(bits_of<int32_t>(value + 0.0f)), id(id) {
        if (order < 0) order ^= 0x7fffffff;
    }
    bool operator<(const Candidate& other) const {
        return order != other.order ? order > other.order : id < other.id;
    }
};

// The k greatest, in descending order, the lower id first among equals.
template <typename T>
void greatest(Ranking<T>& ranking, const T* row, int n, float peak, int k, std::vector<Candidate>& found) {
    found.clear();
    const bool all = k == n || !std::isfinite(peak);
    const Cut cut = all ? Cut::nothing() : ranking.cut(row, n, peak, k, 1.0);
    int equals = 0;
    for (int i = 0; i < n; i += LANES) {
        const floats v = load_some(row + i, n - i);
        uint32_t mask = all ? 0xffffu : mask_of(v >= splat(cut.value));
        if (n - i < LANES) mask &= (1u << (n - i)) - 1;
        for (; mask; mask &= mask - 1) {
            const int id = i + __builtin_ctz(mask);
            const float value = widen(row[id]);
            if (all || value > cut.value || equals++ < cut.equals || cut.value == LEAST) found.push_back({value, id});
        }
    }
    std::sort(found.begin(), found.end());
}

template <typename T>
int above(const T* row, int n, float value) {
    int count = 0;
    for (int i = 0; i < n; i += LANES)
        count += __builtin_popcount(mask_of(load_some(row + i, n - i) > splat(value)));
    return count;
}

}  // namespace

// ids [rows]: the greatest element's, the lowest among equals, a NaN's if there is one; its value; and whether nothing
// can be drawn from the row, for it has a NaN or nothing above -infinity.
QUIRE_API void quire_peak(
    const void* logits, int64_t stride, int rows, int n, int dtype, int64_t* ids, float* values, bool* invalid,
    int threads) {
    typed(logits, dtype, [&](auto* first) {
        each_row(rows, n, threads, [&](int row) {
            const Peak peak = peak_of(first + row * stride, n);
            ids[row] = peak.index;
            values[row] = peak.value;
            invalid[row] = !(peak.value > LEAST);
        });
    });
}

// ids [rows]: drawn from softmax(row) by the row's number in [0, 1).
QUIRE_API void quire_draw(
    const void* logits, int64_t stride, int rows, int n, int dtype, const double* uniforms, int64_t* ids, int threads) {
    typed(logits, dtype, [&](auto* first) {
        share_rows(rows, n, threads, [&](Team& team) {
            std::vector<double> ends((n + MASS_BLOCK - 1) / MASS_BLOCK);
            for (int row = team.next(); row < rows; row = team.next())
                ids[row] = draw(first + row * stride, n, uniforms[row], ends.data());
        });
    });
}

// ids [rows]: drawn from softmax(row) by the lots of the row's key, two numbers below 2^32 of `keys` [rows, 2].
QUIRE_API void quire_race(
    const void* logits, int64_t stride, int rows, int n, int dtype, const int64_t* keys, int64_t* ids, int threads) {
    typed(logits, dtype, [&](auto* first) {
        each_row(rows, n, threads, [&](int row) {
            ids[row] = race(first + row * stride, n, uint32_t(keys[2 * row]), uint32_t(keys[2 * row + 1]));
        });
    });
}

// out [rows, n] fp32 = row / its temperature.
QUIRE_API void quire_temperature(
    const void* logits, int64_t stride, int rows, int n, int dtype, const float* temperatures, float* out,
    int threads) {
    typed(logits, dtype, [&](auto* first) {
        each_row(rows, n, threads, [&](int row) {
            const floats by = splat(temperatures[row]);
            map_row(first + row * stride, n, out + int64_t(row) * n, [&](floats v) { return v / by; });
        });
    });
}

// out [rows, n] = -infinity where the row is below its greatest element plus its margin.
QUIRE_API void quire_min_p(
    const float* logits, int64_t stride, int rows, int n, const float* margins, float* out, int threads) {
    each_row(rows, n, threads, [&](int row) {
        const float* const from = logits + row * stride;
        const floats floor = splat(peak_of(from, n).value + margins[row]);
        map_row(from, n, out + int64_t(row) * n, [&](floats v) { return v < floor ? splat(LEAST) : v; });
    });
}

// out [rows, n] = -infinity outside of the row's k greatest, and of these outside of the nucleus of p. A k of n or
// more and a p of 1 or more are off. A row without a finite greatest element is copied.
QUIRE_API void quire_top_k_top_p(
    const float* logits, int64_t stride, int rows, int n, const int64_t* top_k, const double* top_p, float* out,
    int threads) {
    share_rows(rows, n, threads, [&](Team& team) {
        const auto ranking = std::make_unique<Ranking<float>>();
        for (int row = team.next(); row < rows; row = team.next()) {
            const float* const from = logits + row * stride;
            float* const to = out + int64_t(row) * n;
            const float peak = peak_of(from, n).value;
            if (std::isfinite(peak) && (top_k[row] < n || top_p[row] < 1))
                keep(from, n, ranking->cut(from, n, peak, top_k[row], top_p[row]), to);
            else
                std::memcpy(to, from, n * sizeof(float));
        }
    });
}

// Of log_softmax(row): chosen [rows] and its rank [rows] (1 for the greatest), top [rows, k] in descending order
// and its ids [rows, k].
QUIRE_API void quire_logprobs(
    const void* logits, int64_t stride, int rows, int n, int dtype, const int64_t* ids, int k, float* chosen,
    int64_t* rank, float* top, int64_t* top_ids, int threads) {
    typed(logits, dtype, [&](auto* first) {
        share_rows(rows, n, threads, [&](Team& team) {
            using T = std::remove_const_t<std::remove_pointer_t<decltype(first)>>;
            const auto ranking = std::make_unique<Ranking<T>>();
            std::vector<Candidate> found;
            for (int row = team.next(); row < rows; row = team.next()) {
                const T* const from = first + row * stride;
                const float peak = peak_of(from, n).value;
                const double base = peak + std::log(mass_of(from, n, peak));
                const float own = widen(from[ids[row]]);
                chosen[row] = float(own - base);
                rank[row] = above(from, n, own) + 1;
                if (k == 0) continue;
                greatest(*ranking, from, n, peak, k, found);
                for (int i = 0; i < k; i++) {
                    top[int64_t(row) * k + i] = float(found[i].value - base);
                    top_ids[int64_t(row) * k + i] = found[i].id;
                }
            }
        });
    });
}

// out [rows, width] bytes: rows of a table. False, and nothing written, if an id is not in [0, table_rows).
QUIRE_API bool quire_embedding(
    const int64_t* ids, int rows, const char* table, int64_t stride, int64_t table_rows, int64_t width, char* out,
    int threads) {
    for (int row = 0; row < rows; row++)
        if (ids[row] < 0 || ids[row] >= table_rows) return false;
    in_parallel(rows * width < (1 << 17) ? 1 : threads, [&](Team& team) {
        for (int row = team.first(rows); row < team.last(rows); row++)
            std::memcpy(out + row * width, table + ids[row] * stride, width);
    });
    return true;
}
