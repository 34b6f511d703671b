// The threads that work on one call: OpenMP's, the pool that PyTorch uses too, with a barrier that spins.
#pragma once
#include <omp.h>
#include <sched.h>

#include <atomic>

namespace quire {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Shared by the threads of one parallel region.
struct Meeting {
    std::atomic<int> arrived{0};
    std::atomic<int> round{0};
    std::atomic<int> tasks{0};
};

// One thread's place in the region.
struct Team {
    int rank;
    int size;
    Meeting& meeting;

    // Wait for everybody. Steps are short, so it spins; a thread that lost its core is waited for politely.
    // The counter of `next` starts anew.
    void barrier() {
        const int round = meeting.round.load(std::memory_order_relaxed);
        if (meeting.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            meeting.arrived.store(0, std::memory_order_relaxed);
            meeting.tasks.store(0, std::memory_order_relaxed);
            meeting.round.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; meeting.round.load(std::memory_order_acquire) == round; spins++) {
            if (spins < 4096)
                relax();
            else
                sched_yield();
        }
    }

    // The next of a phase's tasks, 0, 1, ...: whoever is free takes it.
    int next() {
        return meeting.tasks.fetch_add(1, std::memory_order_relaxed);
    }

    // This thread's share of n things in a row.
    int first(int n) const {
        return int(int64_t(n) * rank / size);
    }
    int last(int n) const {
        return int(int64_t(n) * (rank + 1) / size);
    }
};

// Run `work(team)` in up to `threads` threads.
template <typename Work>
void in_parallel(int threads, const Work& work) {
    Meeting meeting;
#pragma omp parallel num_threads(threads)
    {
        Team team{omp_get_thread_num(), omp_get_num_threads(), meeting};
        work(team);
    }
}

}  // namespace quire
