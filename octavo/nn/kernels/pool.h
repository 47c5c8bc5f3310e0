// Threads that run one function together and meet at barriers.
//
// A thread that waits spins, then yields its core: when another program takes a core, the others do not burn theirs.
// Between calls threads yield for a while and then sleep, so that the next step of a reply finds them awake.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "vector.h"

INLINE void pause_() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    const int threads;

    explicit Pool(int count) : threads(count) {
        for (int i = 1; i < threads; i++) workers.emplace_back([this, i] { work(i); });
    }
    ~Pool() {
        job = nullptr;
        launch();
        for (auto& worker : workers) worker.join();
    }
    Pool(const Pool&) = delete;

    // Call f(thread) on every thread, this one included; returns when all are done.
    template <class F>
    void run(F& f) {
        job = [](void* object, int thread) { (*static_cast<F*>(object))(thread); };
        argument = &f;
        launch();
        f(0);
        barrier();
    }

    // All threads call it with the same arguments: items 0 .. count-1 are handed out in runs of `step`; meets at the end.
    template <class F, class L>
    void each(int count, int step, F f, L last) {
        for (int first; (first = next.fetch_add(step, std::memory_order_relaxed)) < count;)
            f(first, first + step < count ? first + step : count);
        barrier(last);
    }
    template <class F>
    void each(int count, int step, F f) {
        each(count, step, f, [] {});
    }

    // All threads meet; the last to arrive runs `last` before the others go on.
    template <class F>
    void barrier(F last) {
        const unsigned mine = phase.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            last();
            arrived.store(0, std::memory_order_relaxed);
            next.store(0, std::memory_order_relaxed);
            phase.store(mine + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase.load(std::memory_order_acquire) == mine; spins++)
            spins < SPINS ? pause_() : (void)sched_yield();
    }
    void barrier() {
        barrier([] {});
    }

  private:
    static constexpr int SPINS = 400;
    static constexpr auto AWAKE = std::chrono::milliseconds(3);

    std::vector<std::thread> workers;
    void (*job)(void*, int) = nullptr;
    void* argument = nullptr;
    std::mutex lock;
    std::condition_variable wake;
    std::atomic<unsigned> launched{0};
    alignas(64) std::atomic<int> next{0};
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> phase{0};

    void launch() {
        {
            std::lock_guard<std::mutex> held(lock);
            launched.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
    }

    void work(int thread) {
        for (unsigned seen = 0;; seen++) {
            const auto since = std::chrono::steady_clock::now();
            for (int spins = 0; launched.load(std::memory_order_acquire) == seen; spins++) {
                if (spins < SPINS) {
                    pause_();
                } else if (std::chrono::steady_clock::now() - since < AWAKE) {
                    sched_yield();
                } else {
                    std::unique_lock<std::mutex> held(lock);
                    wake.wait(held, [&] { return launched.load(std::memory_order_acquire) != seen; });
                }
            }
            if (!job) return;
            job(argument, thread);
            barrier();
        }
    }
};
