#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/intrinsics.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace mistral {

/// Somebody else's threads: calls task(0) … task(tasks - 1), each once, on threads of its choice and as many at the
/// same time as it likes, and returns when all have returned. Tasks do not throw.
using Executor = std::function<void(Index tasks, const std::function<void(Index)>& task)>;

/// Threads that share out the iterations of a loop. The calling thread takes part, so a pool of one has no other.
/// Any number of threads may call one pool: whoever finds it busy runs its loop alone instead of waiting.
class ThreadPool {
  public:
    /// Starts `threads` - 1 workers; 0 means one thread per core.
    /// Throws Error for a negative or absurd number.
    explicit ThreadPool(Index threads = 0) {
        require(threads >= 0 && threads <= most_threads, "a pool of ", threads,
                " threads was asked for, expected 0 (all cores) to ", most_threads);
        const Index cores = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()));
        if (threads == 0) threads = cores;
        if (threads <= cores) pauses_before_sleep_ = 2000;
        workers_.reserve(static_cast<std::size_t>(threads - 1));
        try {
            for (Index worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
        } catch (const std::system_error& error) {
            stop();
            fail("a pool of ", threads, " threads could not start its thread ", workers_.size() + 1, ": ",
                 error.what());
        }
    }

    /// Starts no threads: loops run as `tasks` tasks of the executor. Throws Error for a nonsense number.
    ThreadPool(Index tasks, Executor executor) : executor_(std::move(executor)), tasks_(tasks) {
        require(1 <= tasks && tasks <= most_threads, "loops of ", tasks, " tasks were asked for, expected 1 to ",
                most_threads);
    }

    ~ThreadPool() { stop(); }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    /// The most iterations that run at the same time.
    [[nodiscard]] Index threads() const { return executor_ ? tasks_ : static_cast<Index>(workers_.size()) + 1; }

    /// Calls body(worker, i) for every i in 0 … count - 1, each once, in no order, with 0 <= worker < threads() unique
    /// among the calls that run at the same time. `body` must not throw and must not call the pool again.
    /// Waits for iterations, not for threads: one that the system does not run takes no part, and delays nobody.
    template <class Body>
    void for_each(Index count, Body&& body) {
        run_(*this, {[](void* context, Index worker, Index i) {
                         (*static_cast<std::remove_reference_t<Body>*>(context))(worker, i);
                     },
                     const_cast<void*>(static_cast<const void*>(std::addressof(body))), count});
    }

  private:
    static constexpr Index most_threads = 4096;

    struct Loop {
        void (*call)(void* context, Index worker, Index i) = nullptr;
        void* context = nullptr;
        Index count = 0;

        void operator()(Index worker, Index i) const { call(context, worker, i); }
    };

    // A ticket is the number of a loop in the upper half, and in the lower how many of its iterations nobody has taken
    // yet: taking one makes sure, in the same instant, that the loop is still the one that was looked at.
    static constexpr int round_shift = 32;
    static constexpr Index most_iterations = (Index{1} << round_shift) - 1;

    static Index iterations_left(std::uint64_t ticket) { return static_cast<Index>(ticket) & most_iterations; }

    void run(const Loop& loop) {
        if (executor_ && loop.count > 1) return execute(loop);
        std::unique_lock alone(busy_, std::defer_lock);
        if (loop.count <= 1 || loop.count > most_iterations || workers_.empty() || !alone.try_lock()) {
            for (Index i = 0; i < loop.count; ++i) loop(0, i);
            return;
        }
        loop_ = loop;
        unfinished_.store(loop.count, std::memory_order_relaxed);
        const std::uint64_t last_round = ticket_.load(std::memory_order_relaxed) >> round_shift;
        ticket_.store((last_round + 1) << round_shift | static_cast<std::uint64_t>(loop.count),
                      std::memory_order_release);
        ticket_.notify_all();
        take_part(0);
        wait_while(unfinished_, [](Index left) { return left > 0; });
    }

    void execute(const Loop& loop) const {
        std::atomic<Index> next = 0;
        executor_(std::min(loop.count, tasks_), [&](Index worker) {
            for (Index i = next.fetch_add(1, std::memory_order_relaxed); i < loop.count;
                 i = next.fetch_add(1, std::memory_order_relaxed))
                loop(worker, i);
        });
    }

    void stop() {
        stopping_.store(true, std::memory_order_relaxed);
        ticket_.fetch_add(std::uint64_t{1} << round_shift, std::memory_order_release);
        ticket_.notify_all();
    }

    /// Takes iterations of the current loop until none is left. Whoever holds one keeps the loop from ending, and so
    /// `loop_` from changing.
    void take_part(Index worker) {
        std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (iterations_left(ticket) > 0) {
            if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire)) continue;
            loop_(worker, loop_.count - iterations_left(ticket));
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
            ticket = ticket_.load(std::memory_order_acquire);
        }
    }

    void serve(Index worker) {
        const auto is_idle = [this](std::uint64_t ticket) {
            return iterations_left(ticket) == 0 && !stopping_.load(std::memory_order_relaxed);
        };
        while (wait_while(ticket_, is_idle), !stopping_.load(std::memory_order_relaxed)) take_part(worker);
    }

    /// Waits until `unchanged` no longer holds of the value. Loops follow each other within microseconds in a forward
    /// pass, so it watches for a while before it sleeps: not where threads outnumber cores, and others wait for this
    /// one.
    template <class T, class Unchanged>
    void wait_while(const std::atomic<T>& value, Unchanged unchanged) const {
        T now = value.load(std::memory_order_acquire);
        for (int i = 0; i < pauses_before_sleep_ && unchanged(now); ++i) {
            pause();
            now = value.load(std::memory_order_acquire);
        }
        while (unchanged(now)) {
            value.wait(now, std::memory_order_acquire);
            now = value.load(std::memory_order_acquire);
        }
    }

    static void pause() {
#if defined(MISTRAL_X86)
        _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
        asm volatile("yield");
#endif
    }

    /// `run`, as whoever made the pool has compiled it: kernels that are compiled for another instruction set call that
    /// one, since waiting needs state of the standard library, of which they may have a copy (see dispatched_cpu.hpp).
    void (*run_)(ThreadPool&, const Loop&) = [](ThreadPool& pool, const Loop& loop) { pool.run(loop); };
    Executor executor_;
    Index tasks_ = 1;
    std::mutex busy_;
    Loop loop_;
    std::atomic<bool> stopping_ = false;
    alignas(64) std::atomic<std::uint64_t> ticket_ = 0;
    alignas(64) std::atomic<Index> unfinished_ = 0;
    int pauses_before_sleep_ = 0;
    std::vector<std::jthread> workers_;  // last, so that they end before what they use
};

}  // namespace mistral
