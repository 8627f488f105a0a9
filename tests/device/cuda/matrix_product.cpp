#include "device/cuda/emulation/tests/device_buffer.hpp"
#include "emulation.hpp"
#include "message_of.hpp"

#include <mistral/device/cuda/matrix_product.hpp>

#include <doctest/doctest.h>
#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace mistral::cuda {
namespace {

/// A product's sizes. Rows lie `padding` elements further apart than they are long, the first ones of x, the weights
/// and out so many elements behind an address that is aligned to 256 bytes.
struct Sizes {
    Index tokens = 20;
    Index inputs = 32;
    Index outputs = 24;
    Index padding = 0;
    std::array<Index, 3> offsets{};
};

template <class T>
class DeviceMatrix {
  public:
    DeviceMatrix(Index rows, Index cols, Index padding, Index offset)
        : rows_(rows), cols_(cols), stride_(cols + padding), offset_(offset), memory_(host()) {}

    /// Sets elements to numbers in [-1, 1), and what lies between and before rows to NaN.
    void fill(std::mt19937& random) {
        values_ = host();
        for (Index row = 0; row < rows_; ++row)
            for (Index col = 0; col < cols_; ++col)
                values_[at(row, col)] = T(static_cast<float>(random() % 4096) / 2048 - 1);
        REQUIRE(cudaMemcpy(memory_.data(), values_.data(), values_.size() * sizeof(T), cudaMemcpyHostToDevice) ==
                cudaSuccess);
    }

    [[nodiscard]] MatrixView<T> view() const { return {memory_.data() + offset_, rows_, cols_, stride_}; }
    [[nodiscard]] std::size_t at(Index row, Index col) const {
        return static_cast<std::size_t>(offset_ + row * stride_ + col);
    }
    /// As it was filled.
    [[nodiscard]] double operator()(Index row, Index col) const { return static_cast<double>(values_[at(row, col)]); }
    [[nodiscard]] std::vector<T> filled() const { return values_; }
    [[nodiscard]] std::vector<T> values() const { return memory_.values(); }

  private:
    [[nodiscard]] std::vector<T> host() const {
        return std::vector<T>(static_cast<std::size_t>(offset_ + rows_ * stride_),
                              T(std::numeric_limits<float>::quiet_NaN()));
    }

    Index rows_, cols_, stride_, offset_;
    std::vector<T> values_;
    DeviceBuffer<T> memory_;
};

template <class S>
class ProductProblem {
  public:
    explicit ProductProblem(const Sizes& sizes)
        : sizes_(sizes),
          x_(sizes.tokens, sizes.inputs, sizes.padding, sizes.offsets[0]),
          weights_(sizes.outputs, sizes.inputs, sizes.padding, sizes.offsets[1]),
          out_(sizes.tokens, sizes.outputs, sizes.padding, sizes.offsets[2]),
          scratch_(static_cast<std::size_t>(MatrixProduct::scratch_bytes)) {
        fill(1);
    }

    void fill(unsigned seed) {
        std::mt19937 random(seed);
        x_.fill(random);
        weights_.fill(random);
        out_.fill(random);
    }

    void run(MatrixProduct& product, Update update = Update::assign, cudaStream_t stream = nullptr) const {
        product.run<S>(stream, x_.view(), weights_.view(), out_.view(), update, scratch_.data());
    }

    /// The largest error in units of what it may be, infinite where what lies between rows was written. Each of the
    /// additions and multiplications in float, two for each input and two for out, errs by 2^-24 of the sum of
    /// magnitudes at most.
    [[nodiscard]] double error(Update update = Update::assign) const {
        const auto out = out_.values();
        double worst = 0;
        for (Index token = 0; token < sizes_.tokens; ++token)
            for (Index output = 0; output < sizes_.outputs; ++output) {
                double sum = update == Update::add ? out_(token, output) : 0;
                double magnitude = std::abs(sum);
                for (Index i = 0; i < sizes_.inputs; ++i) {
                    sum += x_(token, i) * weights_(output, i);
                    magnitude += std::abs(x_(token, i) * weights_(output, i));
                }
                const double tolerance = static_cast<double>(2 * sizes_.inputs + 2) * 0x1p-24 * magnitude;
                const double error = std::abs(static_cast<double>(out[out_.at(token, output)]) - sum);
                worst =
                    std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error / tolerance);
            }
        return is_clean(out) ? worst : std::numeric_limits<double>::infinity();
    }

    /// Whether out is as it was before.
    [[nodiscard]] bool is_untouched() const {
        const auto bits = [](const std::vector<float>& values) {
            std::vector<std::uint32_t> bits;
            for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
            return bits;
        };
        return bits(out_.values()) == bits(out_.filled());
    }

  private:
    [[nodiscard]] bool is_clean(const std::vector<float>& out) const {
        std::size_t numbers = 0;
        for (const float value : out) numbers += std::isnan(value) ? 0 : 1;
        return numbers == static_cast<std::size_t>(sizes_.tokens * sizes_.outputs);
    }

    Sizes sizes_;
    DeviceMatrix<S> x_;
    DeviceMatrix<S> weights_;
    DeviceMatrix<float> out_;
    DeviceBuffer<std::byte> scratch_;
};

struct Stream {
    cudaStream_t handle = nullptr;
    Stream() { MISTRAL_CUDA(cudaStreamCreate(&handle)); }
    ~Stream() { cudaStreamDestroy(handle); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
};

/// Times of the emulated algorithms, among which this one is the fastest.
void make_fastest(std::size_t algorithm) {
    std::vector<double> times(emulation::matmul_algorithms, 2.0);
    times[algorithm] = 1;
    emulation::set_matmul_milliseconds(times);
}

TEST_CASE_TEMPLATE("products of many tokens are those in double precision", S, float, half, bfloat16) {
    emulation::reset();
    std::mt19937 random(5);
    const auto any = [&](std::vector<Index> choices) { return choices[random() % choices.size()]; };
    MatrixProduct product;
    for (unsigned i = 0; i < 30; ++i) {
        const Sizes sizes{.tokens = any({1, 17, 20, 64, 65}),
                          .inputs = any({1, 31, 64, 100}),
                          .outputs = any({1, 8, 33, 72}),
                          .padding = any({0, 1, 8}),
                          .offsets = {any({0, 1, 8}), any({0, 1, 8}), any({0, 1, 8})}};
        const Update update = any({0, 1}) == 0 ? Update::assign : Update::add;
        CAPTURE(sizes.tokens);
        CAPTURE(sizes.inputs);
        CAPTURE(sizes.outputs);
        CAPTURE(sizes.padding);
        CAPTURE(sizes.offsets[0]);
        CAPTURE(sizes.offsets[1]);
        CAPTURE(sizes.offsets[2]);
        CAPTURE(update);
        ProductProblem<S> problem(sizes);
        for (const unsigned seed : {2 * i, 2 * i + 1}) {  // with a search, and without
            problem.fill(seed);
            problem.run(product, update);
            CHECK(problem.error(update) < 1);
        }
    }
}

TEST_CASE("the fastest algorithm is searched for once, and out is written once") {
    emulation::reset();
    MatrixProduct product;
    ProductProblem<bfloat16> problem({});
    make_fastest(4);
    problem.run(product, Update::add);
    CHECK(problem.error(Update::add) < 1);
    const auto searched = emulation::counts();
    CHECK(searched.matmul_heuristics == 1);
    CHECK(searched.matmuls > 8);
    CHECK(searched.last_matmul_algorithm == 4);
    CHECK(searched.live_allocations == 4);  // the problem's own

    make_fastest(0);
    problem.fill(2);
    problem.run(product, Update::add);
    CHECK(problem.error(Update::add) < 1);
    CHECK(emulation::counts().matmul_heuristics == 1);
    CHECK(emulation::counts().matmuls == searched.matmuls + 1);
    CHECK(emulation::counts().last_matmul_algorithm == 4);
    CHECK(emulation::counts().allocations == searched.allocations);
}

TEST_CASE("lengths up to the next power of two share a search, and nothing else does") {
    emulation::reset();
    MatrixProduct product;
    const auto searches = [&](const auto& problem, Update update = Update::assign) {
        const auto before = emulation::counts().matmul_heuristics;
        problem.run(product, update);
        CHECK(problem.error(update) < 1);
        return emulation::counts().matmul_heuristics - before;
    };
    CHECK(searches(ProductProblem<half>({.tokens = 20})) == 1);
    CHECK(searches(ProductProblem<half>({.tokens = 17})) == 0);
    CHECK(searches(ProductProblem<half>({.tokens = 32})) == 0);
    CHECK(searches(ProductProblem<half>({.tokens = 33})) == 1);
    CHECK(searches(ProductProblem<half>({.tokens = 16})) == 1);
    CHECK(searches(ProductProblem<half>({.inputs = 40})) == 1);
    CHECK(searches(ProductProblem<half>({.outputs = 32})) == 1);
    CHECK(searches(ProductProblem<half>({.padding = 8})) == 1);
    CHECK(searches(ProductProblem<half>({.offsets = {8, 0, 0}})) == 1);
    CHECK(searches(ProductProblem<half>({.offsets = {0, 8, 0}})) == 1);
    CHECK(searches(ProductProblem<half>({.offsets = {0, 0, 8}})) == 1);
    CHECK(searches(ProductProblem<half>({}), Update::add) == 1);
    CHECK(searches(ProductProblem<float>({})) == 1);
    CHECK(searches(ProductProblem<bfloat16>({})) == 1);
    CHECK(searches(ProductProblem<half>({})) == 0);
}

TEST_CASE("where the fastest algorithm does not take a length, cuBLASLt's own choice does") {
    emulation::reset();
    MatrixProduct product;
    make_fastest(2);  // of even lengths only
    for (const Index tokens : {20, 21, 22}) {
        const ProductProblem<float> problem({.tokens = tokens});
        problem.run(product);
        CHECK(problem.error() < 1);
        CHECK(emulation::counts().last_matmul_algorithm == (tokens % 2 == 0 ? 2 : 0));
    }
    CHECK(emulation::counts().matmul_heuristics == 2);
}

TEST_CASE("threads share what is found") {
    emulation::reset();
    MatrixProduct product;
    const std::array<ProductProblem<bfloat16>, 2> problems{ProductProblem<bfloat16>({}), ProductProblem<bfloat16>({})};
    const auto run = [&](const ProductProblem<bfloat16>& problem) {
        const Stream stream;
        for (int i = 0; i < 50; ++i) problem.run(product, Update::assign, stream.handle);
    };
    std::thread other(run, std::cref(problems[0]));
    run(problems[1]);
    other.join();
    for (const auto& problem : problems) CHECK(problem.error() < 1);
    CHECK(emulation::counts().matmul_heuristics == 1);
}

TEST_CASE("a product that is recorded is not timed, and is that of its operands when it is replayed") {
    emulation::reset();
    for (const bool known : {false, true}) {
        CAPTURE(known);
        MatrixProduct product;
        ProductProblem<half> problem({});
        make_fastest(3);
        if (known) problem.run(product, Update::add);
        problem.fill(3);

        const Stream stream;
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t recorded = nullptr;
        const auto before = emulation::counts().matmuls;
        MISTRAL_CUDA(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal));
        problem.run(product, Update::add, stream.handle);
        MISTRAL_CUDA(cudaStreamEndCapture(stream.handle, &graph));
        MISTRAL_CUDA(cudaGraphInstantiate(&recorded, graph));
        CHECK(emulation::counts().matmuls == before + 1);
        CHECK(emulation::counts().last_matmul_algorithm == (known ? 3 : 0));
        CHECK(problem.is_untouched());
        for (const unsigned seed : {4u, 5u}) {
            problem.fill(seed);
            MISTRAL_CUDA(cudaGraphLaunch(recorded, stream.handle));
            MISTRAL_CUDA(cudaStreamSynchronize(stream.handle));
            CHECK(problem.error(Update::add) < 1);
        }
        MISTRAL_CUDA(cudaGraphExecDestroy(recorded));
        MISTRAL_CUDA(cudaGraphDestroy(graph));
        problem.fill(6);
        problem.run(product, Update::add);  // which has time for a search where none was made
        CHECK(emulation::counts().last_matmul_algorithm == 3);
    }
}

TEST_CASE("a call that fails leaves nothing behind, and the next product is right") {
    emulation::reset();
    ProductProblem<bfloat16> problem({});
    const auto run = [&] {
        MatrixProduct product;
        problem.run(product, Update::add);
    };
    const auto before = emulation::counts();
    run();
    const auto calls = emulation::counts().calls - before.calls;
    REQUIRE(calls > 50);
    for (std::size_t call = 1; call <= calls; ++call) {
        CAPTURE(call);
        problem.fill(static_cast<unsigned>(call));
        emulation::fail_call(call);
        const std::string message = message_of(run);
        emulation::reset();
        CHECK((message.find(" failed: ") != std::string::npos || problem.error(Update::add) < 1));
        CHECK((message.empty() || problem.is_untouched()));
        CHECK(emulation::counts().live_handles == before.live_handles);
        CHECK(emulation::counts().live_allocations == before.live_allocations);
    }
    problem.fill(0);
    run();
    CHECK(problem.error(Update::add) < 1);
}

TEST_CASE("products without an algorithm are refused") {
    emulation::reset();
    emulation::set_matmul_milliseconds({});
    MatrixProduct product;
    const ProductProblem<bfloat16> problem({.padding = 1, .offsets = {2, 4, 1}});
    CHECK(
        message_of([&] { problem.run(product); }) ==
        "cuBLASLt has no algorithm for the product of x [20, 32] and weights [24, 32] of bfloat16 with strides of 33, "
        "33 and, of out, 25, aligned to 4, 8 and 4 bytes");
    emulation::reset();
}

}  // namespace
}  // namespace mistral::cuda
