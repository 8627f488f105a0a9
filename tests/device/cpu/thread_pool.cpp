#include <mistral/device/cpu/thread_pool.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

using namespace mistral;

TEST_CASE("every iteration runs once, for any number of threads and iterations") {
    for (const Index threads : {1, 2, 3, 8}) {
        ThreadPool pool(threads);
        CHECK(pool.threads() == threads);
        for (const Index count : {0, 1, 2, 3, 7, 100, 10'000}) {
            std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
            pool.for_each(count, [&](Index, Index i) noexcept { ++calls[static_cast<std::size_t>(i)]; });
            CHECK(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
        }
    }
}

TEST_CASE("a worker's number is its own while it runs") {
    ThreadPool pool(4);
    std::vector<std::atomic<int>> inside(4);
    std::atomic<bool> shared = false;
    for (int round = 0; round < 50; ++round)
        pool.for_each(200, [&](Index worker, Index) noexcept {
            if (inside[static_cast<std::size_t>(worker)]++ != 0) shared = true;
            inside[static_cast<std::size_t>(worker)]--;
        });
    CHECK_FALSE(shared);
}

TEST_CASE("any number of threads may call one pool at the same time") {
    ThreadPool pool(3);
    std::vector<Index> sums(6, 0);
    {
        std::vector<std::jthread> callers;
        for (Index& sum : sums)
            callers.emplace_back([&pool, &sum] {
                std::vector<Index> squares(50);
                for (int round = 0; round < 200; ++round) {
                    pool.for_each(50, [&](Index, Index i) noexcept { squares[static_cast<std::size_t>(i)] = i * i; });
                    for (const Index square : squares) sum += square;
                }
            });
    }
    for (const Index sum : sums) CHECK(sum == 200 * 40'425);
}

TEST_CASE("an executor of the caller's runs the loops, with as many tasks as it was promised") {
    Index most_tasks = 0;
    const Executor reversed = [&](Index tasks, const std::function<void(Index)>& task) {
        most_tasks = std::max(most_tasks, tasks);
        std::vector<std::jthread> threads;
        for (Index i = tasks; i-- > 0;) threads.emplace_back([&task, i] { task(i); });
    };
    ThreadPool pool(3, reversed);
    CHECK(pool.threads() == 3);
    for (const Index count : {0, 1, 2, 3, 100}) {
        std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
        std::atomic<bool> absurd = false;
        pool.for_each(count, [&](Index worker, Index i) noexcept {
            ++calls[static_cast<std::size_t>(i)];
            if (worker < 0 || worker >= 3) absurd = true;
        });
        CHECK(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
        CHECK_FALSE(absurd);
    }
    CHECK(most_tasks == 3);
    CHECK_THROWS_WITH_AS(ThreadPool(0, reversed), "loops of 0 tasks were asked for, expected 1 to 4096", Error);
}

TEST_CASE("more threads than cores take part when they can, and delay nobody when they cannot") {
    ThreadPool pool(16);
    std::vector<Index> results(1000);
    for (Index round = 0; round < 500; ++round) {
        pool.for_each(1000, [&](Index, Index i) noexcept { results[static_cast<std::size_t>(i)] = i * round; });
        Index wrong = 0;
        for (Index i = 0; i < 1000; ++i) wrong += results[static_cast<std::size_t>(i)] != i * round;
        REQUIRE(wrong == 0);
    }
}

TEST_CASE("zero threads means one per core, and absurd numbers are refused") {
    CHECK(ThreadPool(0).threads() == std::max<Index>(1, std::thread::hardware_concurrency()));
    CHECK_THROWS_WITH_AS(ThreadPool(-1), "a pool of -1 threads was asked for, expected 0 (all cores) to 4096", Error);
    CHECK_THROWS_AS(ThreadPool(1'000'000), Error);
}
