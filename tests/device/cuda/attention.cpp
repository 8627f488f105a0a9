#include "attention_problem.hpp"
#include "message_of.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

namespace mistral::cuda {
namespace {

constexpr Index far = (Index{1} << 33) + 77;

/// One of them.
template <class T>
T any(std::mt19937& random, const std::vector<T>& choices) {
    return choices[random() % choices.size()];
}

/// Random shapes and positions; the emulation's seed changes with them.
template <class C>
void check_random_shapes(int problems, const std::vector<Index>& tokens, const std::vector<Index>& head_dims,
                         const std::vector<Index>& paddings, bool on_tensor_cores) {
    std::mt19937 random(static_cast<unsigned>(problems + 7 * static_cast<int>(sizeof(C))));
    for (int i = 0; i < problems; ++i) {
        const Index kv_heads = any<Index>(random, {1, 2});
        const Index window = any<Index>(random, {1, 5, 31, 64, 100, 150, no_window});
        const Shape shape{.window = window,
                          .query_heads = kv_heads * any<Index>(random, {1, 2, 4, 8}),
                          .kv_heads = kv_heads,
                          .head_dim = any(random, head_dims)};
        const Index position = window == no_window ? any<Index>(random, {0, 1, 63, 64, 200})
                                                   : any<Index>(random, {0, 3, 64, 130, 1000, far});
        const Index capacity = window == no_window ? any<Index>(random, {70, 250})  // less than the position, or more
                                                   : window + any<Index>(random, {0, 0, 1, 50});
        const Index count = any(random, tokens);
        CAPTURE(window);
        CAPTURE(shape.query_heads);
        CAPTURE(kv_heads);
        CAPTURE(shape.head_dim);
        CAPTURE(position);
        CAPTURE(capacity);
        CAPTURE(count);
        emulation::set_seed(static_cast<std::uint64_t>(i));
        AttentionProblem<C> problem(shape, count, capacity, any(random, paddings));
        problem.move_to(position);
        problem.attend();
        CHECK(problem.error(on_tensor_cores) < 1);
    }
    emulation::reset();
}

TEST_CASE_TEMPLATE("a few tokens' attention is that in double precision", C, float, half, bfloat16) {
    check_random_shapes<C>(40, {1, 2, 7, 16}, {16, 20, 33, 64, 128, 256}, {0, 3, 8}, false);
}

TEST_CASE_TEMPLATE("many tokens' attention on tensor cores is that in double precision", C, half, bfloat16) {
    check_random_shapes<C>(30, {17, 64, 100, 129}, {64, 128}, {0, 8, 24}, true);
}

TEST_CASE_TEMPLATE("what tensor cores do not take is computed as a few tokens are", C, float, half) {
    check_random_shapes<C>(12, {17, 40}, {20, 80}, {0, 4}, false);
    check_random_shapes<C>(6, {17, 40}, {64}, {3}, false);
}

TEST_CASE("ranges are merged that outnumber the threads which merge them") {
    AttentionProblem<float> problem({.window = no_window, .query_heads = 2, .kv_heads = 1, .head_dim = 16}, 2, 5000);
    const RangeBlocks blocks{sizeof(float), 16};
    REQUIRE(blocks.ranges(0, 2, 5000, no_window) > RangeBlocks::threads);
    problem.move_to(4999);
    problem.attend();
    CHECK(problem.error(false) < 1);
}

/// The first tokens from `position` on, in chunks.
template <class C>
std::vector<std::vector<float>> in_chunks(const Shape& shape, Index capacity, Index position, Index tokens,
                                          Index chunk) {
    std::vector<std::vector<float>> results;
    AttentionProblem<C> problem(shape, chunk, capacity);
    for (Index first = 0; first < tokens; first += chunk) {
        problem.move_to(position + first);
        problem.attend();
        for (Index token = 0; token < chunk; ++token) results.push_back(problem.result(token));
    }
    return results;
}

TEST_CASE_TEMPLATE("a few tokens have the same bits in chunks of any size and rings of any capacity", C, float,
                   bfloat16) {
    const Shape shape{.window = 150, .query_heads = 6, .kv_heads = 2, .head_dim = 64};
    const auto one_by_one = in_chunks<C>(shape, 150, 1000, 16, 1);
    CHECK(in_chunks<C>(shape, 150, 1000, 16, 16) == one_by_one);
    CHECK(in_chunks<C>(shape, 211, 1000, 16, 4) == one_by_one);
}

TEST_CASE("many tokens have the same bits in chunks of any size and rings of any capacity") {
    const Shape shape{.window = 70, .query_heads = 6, .kv_heads = 2, .head_dim = 64};
    const auto at_once = in_chunks<bfloat16>(shape, 70, 1000, 120, 120);
    CHECK(in_chunks<bfloat16>(shape, 70, 1000, 120, 20) == at_once);
    CHECK(in_chunks<bfloat16>(shape, 97, 1000, 120, 60) == at_once);
}

/// Rows of several matrices, one after the other.
template <class T>
class JoinedRows {
  public:
    JoinedRows(Index rows, Index cols) : buffer_(static_cast<std::size_t>(rows * cols)), cols_(cols) {}

    void add(MatrixView<T> rows) {
        for (Index i = 0; i < rows.rows(); ++i, ++rows_)
            cudaMemcpy(buffer_.data() + rows_ * cols_, rows.row(i), static_cast<std::size_t>(cols_) * sizeof(T),
                       cudaMemcpyDeviceToDevice);
    }
    [[nodiscard]] MatrixView<T> view() const { return {buffer_.data(), rows_, cols_}; }

  private:
    DeviceBuffer<std::remove_const_t<T>> buffer_;
    Index cols_;
    Index rows_ = 0;
};

TEST_CASE_TEMPLATE("several sequences have the bits that each has alone", C, float, bfloat16) {
    struct Run {
        Index tokens, capacity, position;
    };
    // Alone in a launch, several in one, so many that they need several, and long ones among short ones.
    const std::vector<std::vector<Run>> passes{
        {{1, 90, 0}, {1, 91, 1000}, {1, 300, 89}},
        {{16, 90, 500}, {15, 120, 3}, {1, 90, 64}, {2, 90, 4}},
        {{1, 90, 7}, {40, 95, 100}, {1, 90, 200}, {17, 90, 0}, {3, 400, far}},
        std::vector<Run>(16, {2, 90, 111}),
    };
    const Shape shape{.window = 90, .query_heads = 6, .kv_heads = 2, .head_dim = 64};
    for (const auto& pass : passes) {
        std::vector<std::unique_ptr<AttentionProblem<C>>> alone;
        std::vector<CachedRun<C>> runs;
        std::vector<Index> positions;
        Index tokens = 0;
        for (const auto& [count, capacity, position] : pass) {
            alone.push_back(std::make_unique<AttentionProblem<C>>(shape, count, capacity));
            alone.back()->move_to(position);
            alone.back()->attend();
            runs.push_back(alone.back()->attention().runs.front());
            positions.push_back(position);
            tokens += count;
        }
        JoinedRows<const float> queries(tokens, shape.query_heads * shape.head_dim);
        JoinedRows<const C> keys(tokens, shape.kv_heads * shape.head_dim);
        JoinedRows<const C> values(tokens, shape.kv_heads * shape.head_dim);
        for (const auto& problem : alone) {
            queries.add(problem->attention().queries);
            keys.add(problem->attention().keys);
            values.add(problem->attention().values);
        }
        const DeviceBuffer<Index> device_positions(positions);
        const DeviceBuffer<float> out(static_cast<std::size_t>(tokens * shape.query_heads * shape.head_dim));
        const DeviceBuffer<std::byte> scratch(
            static_cast<std::size_t>(attention_scratch(std::span<const CachedRun<C>>(runs), shape)));
        cuda::attend(nullptr,
                     Attention<C>{.queries = queries.view(),
                                  .keys = keys.view(),
                                  .values = values.view(),
                                  .runs = runs,
                                  .positions = device_positions.data(),
                                  .shape = shape,
                                  .out = {out.data(), tokens, shape.query_heads * shape.head_dim}},
                     scratch.data());
        const auto found = out.values();
        auto row = found.begin();
        for (const auto& problem : alone)
            for (Index token = 0; token < problem->attention().queries.rows(); ++token) {
                const auto expected = problem->result(token);
                CHECK(std::equal(expected.begin(), expected.end(), row));
                row += static_cast<Index>(expected.size());
            }
    }
}

TEST_CASE("a recorded launch computes at whatever position it is replayed at") {
    for (const Index tokens : {2, 30}) {
        AttentionProblem<bfloat16> problem({.window = 100, .query_heads = 8, .kv_heads = 2, .head_dim = 64}, tokens,
                                           110);
        cudaStream_t stream = nullptr;
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t recorded = nullptr;
        MISTRAL_CUDA(cudaStreamCreate(&stream));
        problem.move_to(0);
        MISTRAL_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        problem.attend(stream);
        MISTRAL_CUDA(cudaStreamEndCapture(stream, &graph));
        MISTRAL_CUDA(cudaGraphInstantiate(&recorded, graph));
        for (const Index position : {Index{0}, Index{127}, Index{128}, far}) {
            CAPTURE(position);
            problem.move_to(position);
            MISTRAL_CUDA(cudaGraphLaunch(recorded, stream));
            MISTRAL_CUDA(cudaStreamSynchronize(stream));
            CHECK(problem.error(tokens > RangeBlocks::tokens) < 1);
        }
        MISTRAL_CUDA(cudaGraphExecDestroy(recorded));
        MISTRAL_CUDA(cudaGraphDestroy(graph));
        MISTRAL_CUDA(cudaStreamDestroy(stream));
    }
}

TEST_CASE("heads of more than 256 elements are refused") {
    const AttentionProblem<float> problem({.window = 4, .query_heads = 1, .kv_heads = 1, .head_dim = 257}, 1, 4);
    CHECK(message_of([&] { problem.attend(); }) == "head_dim is 257, the GPU's attention takes 256 at most");
}

}  // namespace
}  // namespace mistral::cuda
