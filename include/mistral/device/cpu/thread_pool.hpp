#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/intrinsics.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

namespace mistral {

/// Threads that share out the iterations of a loop. The calling thread takes part, so a pool of one has no other.
/// Any number of threads may call one pool: whoever finds it busy runs its loop alone instead of waiting.
class ThreadPool {
  public:
    /// Starts `threads` - 1 workers; 0 means one thread per core.
    /// Throws Error for a negative or absurd number.
    explicit ThreadPool(Index threads = 0) {
        constexpr Index most = 4096;
        require(threads >= 0 && threads <= most, "a pool of ", threads,
                " threads was asked for, expected 0 (all cores) to ", most);
        if (threads == 0) threads = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()));
        workers_.reserve(static_cast<std::size_t>(threads - 1));
        try {
            for (Index worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
        } catch (const std::system_error& error) {
            stop();
            fail("a pool of ", threads, " threads could not start its thread ", workers_.size() + 1, ": ",
                 error.what());
        }
    }

    ~ThreadPool() { stop(); }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    [[nodiscard]] Index threads() const { return static_cast<Index>(workers_.size()) + 1; }

    /// Calls body(worker, i) for every i in 0 … count - 1, each once, in no order, with 0 <= worker < threads() unique
    /// among the calls that run at the same time. `body` must not throw and must not call the pool again.
    template <class Body>
    void for_each(Index count, Body&& body) {
        std::unique_lock alone(busy_, std::defer_lock);
        if (count <= 1 || workers_.empty() || !alone.try_lock()) {
            for (Index i = 0; i < count; ++i) body(Index{0}, i);
            return;
        }
        loop_ = {[](void* context, Index worker, Index i) {
                     (*static_cast<std::remove_reference_t<Body>*>(context))(worker, i);
                 },
                 const_cast<void*>(static_cast<const void*>(std::addressof(body))), count};
        next_.store(0, std::memory_order_relaxed);
        unfinished_.store(static_cast<Index>(workers_.size()), std::memory_order_relaxed);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        take_part(0);
        wait_while(unfinished_, [](Index left) { return left > 0; });
    }

  private:
    struct Loop {
        void (*call)(void* context, Index worker, Index i) = nullptr;
        void* context = nullptr;
        Index count = 0;
    };

    void stop() {
        stopping_.store(true, std::memory_order_relaxed);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
    }

    void take_part(Index worker) {
        for (Index i = next_.fetch_add(1, std::memory_order_relaxed); i < loop_.count;
             i = next_.fetch_add(1, std::memory_order_relaxed))
            loop_.call(loop_.context, worker, i);
    }

    void serve(Index worker) {
        for (Index seen = 0;;) {
            seen = wait_while(round_, [seen](Index round) { return round == seen; });
            if (stopping_.load(std::memory_order_relaxed)) return;
            take_part(worker);
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
        }
    }

    /// Waits until `unchanged` no longer holds of the value, and returns it. Loops follow each other within
    /// microseconds in a forward pass, so it watches for a while before it sleeps.
    template <class Unchanged>
    static Index wait_while(const std::atomic<Index>& value, Unchanged unchanged) {
        constexpr int pauses_before_sleep = 2000;
        Index now = value.load(std::memory_order_acquire);
        for (int i = 0; i < pauses_before_sleep && unchanged(now); ++i) {
            pause();
            now = value.load(std::memory_order_acquire);
        }
        while (unchanged(now)) {
            value.wait(now, std::memory_order_acquire);
            now = value.load(std::memory_order_acquire);
        }
        return now;
    }

    static void pause() {
#if defined(MISTRAL_X86)
        _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
        asm volatile("yield");
#endif
    }

    std::mutex busy_;
    Loop loop_;
    std::atomic<bool> stopping_ = false;
    alignas(64) std::atomic<Index> round_ = 0;
    alignas(64) std::atomic<Index> next_ = 0;
    alignas(64) std::atomic<Index> unfinished_ = 0;
    std::vector<std::jthread> workers_;  // last, so that they end before what they use
};

}  // namespace mistral
