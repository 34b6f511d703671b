// Where a row of logits ends when its tokens are ranked by value and then by id: found without sorting the row.
// Tokens are counted, and their probability added up, in bins of 1/64 nat below the greatest; only the bin in which
// the row ends is sorted.
#pragma once
#include <functional>
#include <vector>

#include "logits_row.h"

namespace quire {

// What is kept: everything above `value`, and the first `equals` of what equals it.
struct Cut {
    float value;
    int equals;
    bool split;  // some equals are not kept

    static Cut nothing() {
        return {LEAST, 0, false};
    }
};

// One per thread, for many rows.
template <typename T>
class Ranking {
public:
    // The row's k greatest, and of these the shortest run whose probability, relative to them, reaches p.
    // The peak is finite, k at least 1, p above 0.
    Cut cut(const T* row, int n, float peak, int64_t k, double p) {
        row_ = row, n_ = n, peak_ = peak;
        const double whole = k < n ? 0 : mass_of(row, n, peak);
        // Most rows end close to their peak: what is far below it is looked at only if need be.
        for (const float depth : {NEAR, INFINITY}) {
            count(peak - depth);
            if (k >= n) {
                if (mass_ >= p * whole) return end_at_mass(p * whole).cut;
            } else if (count_ >= k) {
                const End last = end_at_count(k);
                if (p >= 1) return last.cut;
                const End end = end_at_mass(p * last.mass);
                return end.count < last.count ? end.cut : last.cut;
            }
        }
        // Fewer than k are above -infinity, or rounding put the target past the total.
        return p < 1 ? end_at_mass(p * mass_).cut : Cut::nothing();
    }

private:
    static constexpr float NEAR = 12.0f;  // nats
    static constexpr int BINS = 2048;
    static constexpr float BINS_PER_NAT = 64.0f;

    struct End {
        Cut cut;
        int64_t count;
        double mass;
    };

    // Calls `work(bin, e^(x - peak), x)` for the elements above a limit.
    template <typename Work>
    void each_above(float limit, const Work& work) const {
        for (int i = 0; i < n_; i += LANES) {
            const floats v = load_some(row_ + i, n_ - i);
            uint32_t mask = mask_of(v > splat(limit));
            if (mask == 0) continue;
            const floats depth = at_most((splat(peak_) - v) * splat(BINS_PER_NAT), BINS - 1);
            int32_t bins[LANES];
            float masses[LANES], values[LANES];
            const ints whole = __builtin_convertvector(depth, ints);
            std::memcpy(bins, &whole, sizeof(bins));
            store(exp_of(v - splat(peak_)), masses);
            store(v, values);
            for (; mask; mask &= mask - 1) {
                const int lane = __builtin_ctz(mask);
                work(bins[lane], masses[lane], values[lane]);
            }
        }
    }

    void count(float limit) {
        std::fill(counts_, counts_ + BINS, 0);
        std::fill(masses_, masses_ + BINS, 0.0);
        limit_ = limit;
        each_above(limit, [&](int bin, float mass, float) {
            counts_[bin]++;
            masses_[bin] += mass;
        });
        count_ = 0, mass_ = 0;
        for (int bin = 0; bin < BINS; bin++) {
            count_ += counts_[bin];
            mass_ += masses_[bin];
        }
    }

    // After the k-th element.
    End end_at_count(int64_t k) {
        int bin = 0;
        int64_t count = 0;
        double mass = 0;
        for (; count + counts_[bin] < k; bin++) {
            count += counts_[bin];
            mass += masses_[bin];
        }
        sort(bin);
        const int inside = int(k - count);
        for (int i = 0; i < inside; i++) mass += weight(i);
        return {cut_after(inside), k, mass};
    }

    // After the first element at which the running sum reaches `target`.
    End end_at_mass(double target) {
        int bin = 0, last = 0;  // the last bin with elements: rounding may put the target past it
        int64_t count = 0;
        double mass = 0;
        for (int b = 0; b < BINS; b++)
            if (counts_[b]) last = b;
        for (; bin < last && mass + masses_[bin] < target; bin++) {
            count += counts_[bin];
            mass += masses_[bin];
        }
        sort(bin);
        int inside = 0;
        while (inside < int(bin_.size()) && (inside == 0 || mass < target)) mass += weight(inside++);
        return {cut_after(inside), count + inside, mass};
    }

    // The elements of a bin, in descending order.
    void sort(int wanted) {
        bin_.clear();
        // Two bins' width more than needed, for rounding.
        const float limit = wanted < BINS - 1 ? peak_ - (wanted + 2) / BINS_PER_NAT : limit_;
        each_above(std::max(limit, limit_), [&](int bin, float, float value) {
            if (bin == wanted) bin_.push_back(value);
        });
        std::sort(bin_.begin(), bin_.end(), std::greater<float>());
    }

    double weight(int i) const {
        return std::exp(double(bin_[i]) - peak_);
    }

    Cut cut_after(int inside) const {
        const float value = bin_[inside - 1];
        int equals = 0;
        while (equals < inside && bin_[inside - 1 - equals] == value) equals++;
        return {value, equals, inside < int(bin_.size()) && bin_[inside] == value};
    }

    const T* row_ = nullptr;
    int n_ = 0;
    float peak_ = 0, limit_ = 0;
    int64_t count_ = 0;
    double mass_ = 0;
    int32_t counts_[BINS];
    double masses_[BINS];
    std::vector<float> bin_;
};

}  // namespace quire
