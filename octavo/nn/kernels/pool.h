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

#include "crew.h"
#include "vector.h"

INLINE void pause_() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    static constexpr int MOST = 1024;  // threads; far below what `launched` has bits for
    const int threads;

    explicit Pool(int count) : threads(count) {
        for (int i = 1; i < threads; i++) workers.emplace_back([this, i] { work(i); });
    }
    ~Pool() {
        active = 0;
        launch();
        for (auto& worker : workers) worker.join();
    }
    Pool(const Pool&) = delete;

    // Call f(thread) on every thread that the crew has now, this one included; returns when all are done.
    // size: tells large calls from small ones, see `Crew`
    template <class F>
    void run(F& f, int size) {
        job = [](void* object, int thread) { (*static_cast<F*>(object))(thread); };
        argument = &f;
        active = crew.size();
        waited.store(0, std::memory_order_relaxed);
        const auto since = std::chrono::steady_clock::now();
        launch();
        f(0);
        barrier();
        const double took_s = seconds(std::chrono::steady_clock::now() - since);
        crew.ran(size, took_s, active > 1 ? waited.load() * 1e-9 / (took_s * (active - 1)) : 0);
    }

    // All threads call it with the same arguments: items 0 .. count-1 are handed out in runs of `step` at most, and in
    // smaller ones towards the end, so that all are done at about the same time; meets at the end.
    template <class F, class L>
    void each(int count, int step, F f, L last) {
        for (int first = next.load(std::memory_order_relaxed); first < count;) {
            const int fair = (count - first) / (2 * active), some = fair < 1 ? 1 : fair < step ? fair : step;
            if (!next.compare_exchange_weak(first, first + some, std::memory_order_relaxed)) continue;
            f(first, first + some);
            first = next.load(std::memory_order_relaxed);
        }
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
        const int all = active;  // read before arriving: afterwards the next call may begin
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
            last();
            arrived.store(0, std::memory_order_relaxed);
            next.store(0, std::memory_order_relaxed);
            phase.store(mine + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; spins < SPINS; spins++) {
            if (phase.load(std::memory_order_acquire) != mine) return;
            pause_();
        }
        const auto since = std::chrono::steady_clock::now();
        while (phase.load(std::memory_order_acquire) == mine) sched_yield();
        const std::chrono::nanoseconds lost = std::chrono::steady_clock::now() - since;
        waited.fetch_add(lost.count(), std::memory_order_relaxed);
    }
    void barrier() {
        barrier([] {});
    }

  private:
    static constexpr int SPINS = 400;
    static constexpr auto AWAKE = std::chrono::milliseconds(3);

    static double seconds(std::chrono::nanoseconds time) { return time.count() * 1e-9; }

    Crew crew{threads};
    int active = 1;                    // threads of the present call
    std::atomic<int64_t> waited{0};    // nanoseconds that threads of the present call waited for others
    std::vector<std::thread> workers;
    void (*job)(void*, int) = nullptr;
    void* argument = nullptr;
    std::mutex lock;
    std::condition_variable wake;
    std::atomic<uint64_t> launched{0};  // calls so far, and in the lowest 16 bits how many threads the last one has
    alignas(64) std::atomic<int> next{0};
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<unsigned> phase{0};

    void launch() {
        {
            std::lock_guard<std::mutex> held(lock);
            const uint64_t calls = (launched.load(std::memory_order_relaxed) >> 16) + 1;
            launched.store(calls << 16 | (uint64_t)active, std::memory_order_release);
        }
        wake.notify_all();
    }

    void work(int thread) {
        for (uint64_t seen = 0;;) {
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
            seen = launched.load(std::memory_order_acquire);
            if (!(seen & 65535)) return;
            if (thread >= (int)(seen & 65535)) continue;  // not in this call, which may be over by now
            job(argument, thread);
            barrier();
        }
    }
};
