#pragma once

#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <span>

namespace mistral::cpu {

/// How a product is cut into tasks: so many tokens at a time; and rows in long stretches, which memory reads faster
/// than short ones, but so few that threads finish together. Where several tasks of tokens want the same rows, these
/// come from a shared cache again, as the tokens do for the next stretch: both get a similar part of it.
struct TaskSize {
    Index tokens = 0;
    Index rows = 0;
    Index token_tasks = 0;
    Index row_tasks = 0;

    TaskSize() = default;
    TaskSize(Index threads, Index all_tokens, Index tokens_per_task, Index all_rows, Index row_bytes,
             Index row_multiple)
        : tokens(tokens_per_task) {
        constexpr Index row_bytes_per_task = 256 * 1024;
        constexpr Index most_shared_bytes = 8 * 1024 * 1024;
        constexpr Index tasks_per_thread = 8;
        token_tasks = divide_up(all_tokens, tokens);
        const Index even = all_rows * row_bytes * token_tasks / (tasks_per_thread * threads);
        const Index shared = std::min(row_bytes_per_task * token_tasks, most_shared_bytes);
        rows = fit(std::max(row_bytes_per_task, token_tasks == 1 ? even : std::min(even, shared)), row_bytes,
                   row_multiple);
        row_tasks = divide_up(all_rows, rows);
    }

    /// Blocks of at most so many tokens and rows, for products that keep a block's sums in a core's cache.
    static TaskSize blocks(Index threads, Index all_tokens, Index most_tokens, Index all_rows, Index most_rows,
                           Index row_multiple) {
        constexpr Index tasks_per_thread = 4;
        TaskSize size;
        size.tokens = most_tokens;
        size.token_tasks = divide_up(all_tokens, most_tokens);
        const Index share = divide_up(all_rows, tasks_per_thread * threads);
        size.rows = std::clamp(round_up(share, row_multiple), row_multiple, most_rows);
        size.row_tasks = divide_up(all_rows, size.rows);
        return size;
    }

    [[nodiscard]] Index count() const { return row_tasks * token_tasks; }

    /// `most` or somewhat fewer, so that all tasks of tokens are about equally large: a small one would read as much.
    static Index even_tokens(Index all_tokens, Index most) {
        return divide_up(all_tokens, std::max<Index>(1, divide_up(all_tokens, most)));
    }

    /// As many tokens as stay in a core's L2 while rows pass.
    static Index tokens_in_cache(Index token_bytes, Index multiple) { return fit(352 * 1024, token_bytes, multiple); }

  private:
    static Index fit(Index bytes, Index each, Index multiple) {
        return std::max(multiple, bytes / std::max<Index>(1, each) / multiple * multiple);
    }
};

/// Calls body(item, worker, task) for count(item) tasks of each of so many items, on the pool's threads.
template <class Count, class Body>
void for_each_task(ThreadPool& pool, std::size_t items, Count count, Body body) {
    Index tasks = 0;
    for (std::size_t i = 0; i < items; ++i) tasks += count(i);
    pool.for_each(tasks, [&](Index worker, Index task) noexcept {
        std::size_t i = 0;
        for (; task >= count(i); ++i) task -= count(i);
        body(i, worker, task);
    });
}

/// Cuts each product into tasks, size(weights) telling how, and calls body(product, worker, first_row, first_token,
/// size) for all of them, on the pool's threads.
template <class M, class A, class Size, class Body>
void for_each_product_task(ThreadPool& pool, std::span<const Product<M, A>> products, Size size, Body body) {
    assert(products.size() <= most_products);
    std::array<TaskSize, most_products> sizes;
    std::transform(products.begin(), products.end(), sizes.begin(),
                   [&](const auto& product) { return size(product.weights); });
    const auto count = [&](std::size_t i) { return sizes[i].count(); };
    for_each_task(pool, products.size(), count, [&](std::size_t i, Index worker, Index task) {
        body(products[i], worker, task / sizes[i].token_tasks * sizes[i].rows,
             task % sizes[i].token_tasks * sizes[i].tokens, sizes[i]);
    });
}

}  // namespace mistral::cpu
