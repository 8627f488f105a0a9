#include <mistral/model/sliding_window_attention.hpp>

#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <vector>

#include "device/cpu/architectures.hpp"
#include "goldens.hpp"
#include "plain_mistral.hpp"

using namespace mistral;

namespace {

template <class A>
std::vector<A> numbers(const plain::Matrix& x) {
    return {x.values.begin(), x.values.end()};
}

/// Keys or values as a cache of scalar C holds them. Those of the tests are exact in every type but Q8.
template <class C>
plain::Matrix held(const plain::Matrix& x, Index head_dim) {
    if constexpr (!std::same_as<C, Q8>) return x;
    plain::Matrix result = x;
    std::vector<std::int8_t> row(static_cast<std::size_t>(CachedRow<Q8>::size(head_dim)));
    const auto exact = numbers<float>(x);
    for (std::size_t head = 0; head < exact.size(); head += static_cast<std::size_t>(head_dim)) {
        CachedRow<Q8>::write(exact.data() + head, head_dim, row.data());
        for (std::size_t i = 0; i < static_cast<std::size_t>(head_dim); ++i)
            result.values[head + i] = row[i] * static_cast<double>(CachedRow<Q8>::scale(row.data(), head_dim));
    }
    return result;
}

/// The largest absolute difference; a NaN is the largest of all.
template <class A>
double difference(const std::vector<A>& found, const plain::Matrix& expected) {
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double difference = std::abs(static_cast<double>(found[i]) - expected.values[i]);
        worst = difference <= worst ? worst : difference;
    }
    return worst;
}

/// The attention of all tokens, given in chunks of random sizes up to `largest` to a ring with `rewind` more slots.
template <class C, class D>
std::vector<Activation<C>> attend_in_chunks(const D& device, const plain::Matrix& queries, const plain::Matrix& keys,
                                            const plain::Matrix& values, const Shape& shape, const CacheLimits& limits,
                                            Index largest, plain::Random& random) {
    using A = Activation<C>;
    const auto q = numbers<A>(queries), k = numbers<A>(keys), v = numbers<A>(values);
    std::vector<A> out(q.size(), A(NAN));
    const SlidingWindowAttention<A, D> attention(device, shape);
    RollingKVCache<C, D> cache(device, shape, limits);
    typename D::Workspace workspace;
    for (Index done = 0; done < queries.rows;) {
        const Index n = std::min(random.number(1, largest), queries.rows - done);
        attention.forward({q.data() + done * queries.cols, n, queries.cols},
                          {k.data() + done * keys.cols, n, keys.cols}, {v.data() + done * keys.cols, n, keys.cols},
                          cache, {out.data() + done * queries.cols, n, queries.cols}, workspace);
        done += n;
    }
    return out;
}

template <class C, class D>
void check_random_shapes(const D& device, double tolerance) {
    using A = Activation<C>;
    for (unsigned seed = 0; seed < 24; ++seed) {
        plain::Random random(seed);
        const Index kv_heads = random.number(1, 3);
        const Shape shape{.window = random.choice<Index>({1, 2, 3, 4, 5, 8, 63, 64, 65, 100, no_window}),
                          .query_heads = kv_heads * random.number(1, 5),
                          .kv_heads = kv_heads,
                          .head_dim = random.choice<Index>({1, 2, 7, 16, 40, 64, 128})};
        const Index around = shape.window == no_window ? 50 : shape.window;
        const Index tokens = std::max<Index>(1, random.number(1, 4) * around + random.number(-1, 1));
        CAPTURE(seed);
        CAPTURE(shape.window);
        CAPTURE(tokens);
        const auto queries = random.matrix(tokens, shape.query_heads * shape.head_dim, 2.0);
        const auto keys = random.matrix(tokens, shape.kv_heads * shape.head_dim, 1.0);
        const auto values = random.matrix(tokens, shape.kv_heads * shape.head_dim, 1.0);
        const auto expected =
            plain::attend(queries, held<C>(keys, shape.head_dim), held<C>(values, shape.head_dim), shape);
        const CacheLimits limits{.context = shape.window == no_window ? tokens : no_window};

        const auto alone = attend_in_chunks<C>(device, queries, keys, values, shape, limits, 1, random);
        CHECK(difference(alone, expected) < tolerance);
        // Steps of 1 / 127 of a head's largest magnitude, which is about 3, turn scores by a standard deviation of 0.02
        // and results by as much of the values, which are up to 4. Measured: 0.06.
        if (std::same_as<C, Q8>) CHECK(difference(alone, plain::attend(queries, keys, values, shape)) < 0.15);

        const CacheLimits roomy{.context = limits.context, .rewind = random.number(0, 9)};
        for (const Index largest : {around + 1, 3 * around + 20}) {
            const auto chunked = attend_in_chunks<C>(device, queries, keys, values, shape, roomy, largest, random);
            CHECK(std::memcmp(chunked.data(), alone.data(), alone.size() * sizeof(A)) == 0);
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE(
    "random shapes, windows, chunks and rings agree with brute force over absolute positions, and all "
    "chunks and rings give the same bits",
    Architecture, MISTRAL_TEST_ARCHITECTURES) {
    const BasicCpu<Architecture> device(2);
    // The inputs are exact in every type, so only the arithmetic differs: scores of order 10 in float have errors of
    // 1e-6, which the softmax passes on.
    check_random_shapes<double>(device, 1e-13);
    check_random_shapes<float>(device, 1e-5);
    check_random_shapes<half>(device, 1e-5);
    // Queries and weights rounded to 8 bits turn scores of order 10 by up to 2^-9 of that, and the result by as much of
    // the values, which are up to 4.
    check_random_shapes<bfloat16>(device, std::same_as<Architecture, Avx512Dot> ? 3e-2 : 1e-5);
    // Keys and values, whose products with the scale have more bits, are then rounded too. Measured: 2e-2.
    check_random_shapes<Q8>(device, std::same_as<Architecture, Avx512Dot> ? 4e-2 : 1e-5);
}

TEST_CASE("so do random shapes without tiles" * doctest::skip(!has_tiles())) {
    const Cpu device(CpuOptions{.threads = 2, .amx = false});
    check_random_shapes<bfloat16>(device, 3e-2);
    check_random_shapes<Q8>(device, 4e-2);
}

TEST_CASE("thousands of keys agree with brute force, and any number of threads gives the same bits") {
    // One head and many threads: the keys of a decode step are shared out too.
    for (const Index window : {Index{1100}, no_window}) {
        const Shape shape{.window = window, .query_heads = 4, .kv_heads = 1, .head_dim = 32};
        const CacheLimits limits{.context = window == no_window ? 2100 : no_window};
        plain::Random random(1);
        const auto queries = random.matrix(2100, 128, 2.0), keys = random.matrix(2100, 32, 1.0),
                   values = random.matrix(2100, 32, 1.0);
        const auto check = [&]<class C>(C*, double tolerance) {
            const auto expected = plain::attend(queries, held<C>(keys, 32), held<C>(values, 32), shape);
            const auto attend = [&](Index threads, Index largest) {
                return attend_in_chunks<C>(Cpu(threads), queries, keys, values, shape, limits, largest, random);
            };
            const auto alone = attend(1, 1);
            CHECK(difference(alone, expected) < tolerance);
            CHECK(attend(3, 1) == alone);
            CHECK(attend(8, 7) == alone);
            CHECK(attend(2, 2100) == alone);
        };
        constexpr bool rounds = std::same_as<NativeInstructionSet, Avx512Dot>;
        check(static_cast<float*>(nullptr), 1e-5);
        check(static_cast<bfloat16*>(nullptr), rounds ? 3e-2 : 1e-5);
        check(static_cast<Q8*>(nullptr), rounds ? 4e-2 : 1e-5);
    }
}

TEST_CASE("many sequences at once have the bits that each has alone, on any number of threads") {
    using Cache = RollingKVCache<bfloat16, Cpu>;
    constexpr Shape shape{.window = 1500, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
    constexpr Index width = shape.query_heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
    const SlidingWindowAttention<float, Cpu> attention(Cpu(1), shape);
    Cpu::Workspace workspace;
    plain::Random random(6);
    std::vector<Cache> caches;
    for (Index i = 0; i < 3 + Index{most_sequences}; ++i) {  // more than a verb takes, over no, one or several spans
        caches.emplace_back(Cpu(1), shape, CacheLimits{.rewind = i});
        const Index past = i % 3 == 0 ? i : random.number(1000, 4000);
        const auto keys = numbers<float>(random.matrix(past, kv_width, 1.0));
        const auto values = numbers<float>(random.matrix(past, kv_width, 1.0));
        attention.append({keys.data(), past, kv_width}, {values.data(), past, kv_width}, caches.back(), workspace);
    }
    for (const Index longest : {1, 40}) {
        std::vector<Index> tokens(caches.size(), 1);
        tokens[4] = longest;
        const Index all = static_cast<Index>(caches.size()) - 1 + longest;
        const auto queries = numbers<float>(random.matrix(all, width, 2.0));
        const auto keys = numbers<float>(random.matrix(all, kv_width, 1.0));
        const auto values = numbers<float>(random.matrix(all, kv_width, 1.0));
        std::vector<float> expected(queries.size(), NAN), found;
        std::vector<Cache> alone = caches;
        for (std::size_t i = 0, row = 0; i < alone.size(); row += static_cast<std::size_t>(tokens[i++]))
            attention.forward({queries.data() + row * width, tokens[i], width},
                              {keys.data() + row * kv_width, tokens[i], kv_width},
                              {values.data() + row * kv_width, tokens[i], kv_width}, alone[i],
                              {expected.data() + row * width, tokens[i], width}, workspace);
        for (const Index threads : {1, 2, 16}) {
            CAPTURE(threads);
            std::vector<Cache> together = caches;
            found.assign(expected.size(), NAN);
            SlidingWindowAttention<float, Cpu>(Cpu(threads), shape)
                .forward_each<bfloat16>(
                    {queries.data(), all, width}, {keys.data(), all, kv_width}, {values.data(), all, kv_width},
                    [&](auto visit) {
                        for (std::size_t i = 0; i < together.size(); ++i) visit(together[i], tokens[i]);
                    },
                    {found.data(), all, width}, workspace);
            CHECK(found == expected);
            for (std::size_t i = 0; i < together.size(); ++i)
                CHECK(together[i].next_position() == alone[i].next_position());
        }
    }
}

TEST_CASE_TEMPLATE("the attention agrees with transformers, in float64 and as it comes, in chunks too", A, double,
                   float) {
    const auto file = goldens::components();
    goldens::for_each_component("sliding_window", [&](const nlohmann::json& component, const std::string& name) {
        CAPTURE(name);
        const Shape shape = goldens::shape_of(component);
        const auto queries = file.matrix(name + "queries");
        for (const Index largest : {Index{1}, Index{4}, queries.rows}) {
            plain::Random random(1);
            const auto out =
                attend_in_chunks<A>(Cpu(2), queries, file.matrix(name + "keys"), file.matrix(name + "values"), shape,
                                    {.context = queries.rows}, largest, random);
            goldens::check_component<A>(file, name, {out.data(), queries.rows, queries.cols});
        }
    });
}

TEST_CASE("a fixed shape computes the same bits as the same numbers at run time") {
    constexpr Shape fixed{.window = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8};
    const Cpu device(1);
    const SlidingWindowAttention<float, Cpu, fixed> attention(device);
    RollingKVCache<float, Cpu, fixed> cache(device);
    Cpu::Workspace workspace;
    plain::Random random(1);
    const auto queries = random.matrix(11, 32, 2.0), keys = random.matrix(11, 16, 1.0),
               values = random.matrix(11, 16, 1.0);
    const auto q = numbers<float>(queries), k = numbers<float>(keys), v = numbers<float>(values);
    std::vector<float> out(q.size());
    attention.forward({q.data(), 11, 32}, {k.data(), 11, 16}, {v.data(), 11, 16}, cache, {out.data(), 11, 32},
                      workspace);
    CHECK(attention.shape() == fixed);
    CHECK(out == attend_in_chunks<float>(device, queries, keys, values, fixed, {}, 4, random));
}

TEST_CASE("scores far beyond exp's range give the softmax they should") {
    const Shape shape{.window = 3, .query_heads = 1, .kv_heads = 1, .head_dim = 1};
    plain::Matrix queries(4, 1), keys(4, 1), values(4, 1);
    queries.values = {1000, 1000, -1000, 1000};
    keys.values = {900, -900, 900, 901};
    values.values = {1, 2, 3, 4};
    plain::Random random(1);
    const auto out = attend_in_chunks<float>(Cpu(1), queries, keys, values, shape, {}, 4, random);
    CHECK(out == std::vector<float>{1, 1, 2, 4});
}

TEST_CASE("wrong shapes, caches and missing numbers are refused, and the cache stays as it was") {
    const Cpu device(1);
    const Shape shape{.window = 3, .query_heads = 2, .kv_heads = 1, .head_dim = 4};
    const SlidingWindowAttention<float, Cpu> attention(device, shape);
    Cpu::Workspace workspace;
    std::vector<float> memory(64);
    const auto matrix = [&](Index rows, Index cols) { return MatrixView<float>(memory.data(), rows, cols); };
    RollingKVCache<float, Cpu> cache(device, shape);
    CHECK_THROWS_WITH_AS(attention.forward(matrix(2, 8), matrix(2, 8), matrix(2, 4), cache, matrix(2, 8), workspace),
                         "the attention's keys are [2, 8], expected [2, 4]", Error);
    CHECK_THROWS_AS(attention.forward(matrix(2, 8), matrix(2, 4), matrix(1, 4), cache, matrix(2, 8), workspace), Error);
    CHECK_THROWS_AS(attention.forward(matrix(2, 8), matrix(2, 4), matrix(2, 4), cache, matrix(2, 4), workspace), Error);
    CHECK(cache.next_position() == 0);
    RollingKVCache<float, Cpu> narrow(device, {.window = 2, .kv_heads = 1, .head_dim = 4});
    CHECK_THROWS_WITH_AS(attention.forward(matrix(1, 8), matrix(1, 4), matrix(1, 4), narrow, matrix(1, 8), workspace),
                         "the cache keeps a window of 2, the attention looks back 3", Error);
    RollingKVCache<float, Cpu> other(device, {.window = 3, .kv_heads = 2, .head_dim = 2});
    CHECK_THROWS_WITH_AS(attention.forward(matrix(1, 8), matrix(1, 4), matrix(1, 4), other, matrix(1, 8), workspace),
                         "the cache has 2 heads of 2, the attention 1 of 4", Error);
    CHECK_THROWS_WITH_AS((SlidingWindowAttention<float, Cpu>(device, {.query_heads = 2, .kv_heads = 1, .head_dim = 4})),
                         "the attention's window is not given", Error);
    CHECK_THROWS_AS((SlidingWindowAttention<float, Cpu, Shape{.head_dim = 64}>(device, shape)), Error);
}
