#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "device/cpu/architectures.hpp"

using namespace mistral;

namespace {

/// Numbers of T, which double precision holds exactly.
template <class T>
struct Numbers {
    std::vector<T> values;

    Numbers(Index count, std::mt19937& random) {
        std::normal_distribution<float> normal;
        for (Index i = 0; i < count; ++i) values.push_back(static_cast<T>(normal(random)));
    }
    double operator[](Index i) const { return static_cast<double>(values[static_cast<std::size_t>(i)]); }
};

template <class S, class Architecture>
void check_products(const std::vector<std::array<Index, 3>>& shapes, const CpuOptions& options = {.threads = 2}) {
    using A = Activation<S>;
    const BasicCpu<Architecture> device(options);
    typename BasicCpu<Architecture>::Workspace workspace;
    std::mt19937 random(11);
    for (const auto& shape : shapes) {
        const Index tokens = shape[0], outputs = shape[1], inputs = shape[2];
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        Numbers<A> x(tokens * inputs, random);
        // Some instruction sets round activations to the type of the weights.
        if constexpr (!std::is_same_v<S, double>)
            for (A& value : x.values)
                value = static_cast<A>(static_cast<typename cpu::WeightLanes<S, Architecture>::Packed>(value));
        const Numbers<S> weights(outputs * inputs, random);
        std::vector<A> out(static_cast<std::size_t>(tokens * outputs), A(1));
        const HostMatrix<S> matrix{{weights.values.data(), outputs, inputs}, nullptr};
        device.multiply({x.values.data(), tokens, inputs},
                        std::array{Product{matrix, MatrixView<A>(out.data(), tokens, outputs)}}, Update::add,
                        workspace);
        double worst = 0;
        for (Index t = 0; t < tokens; ++t)
            for (Index r = 0; r < outputs; ++r) {
                double exact = 1;
                double magnitude = 1;
                for (Index i = 0; i < inputs; ++i) {
                    exact += x[t * inputs + i] * weights[r * inputs + i];
                    magnitude += std::abs(x[t * inputs + i] * weights[r * inputs + i]);
                }
                worst = std::max(worst, std::abs(out[static_cast<std::size_t>(t * outputs + r)] - exact) / magnitude);
            }
        // Each of a few dozen partial sums rounds as often as it is long; the bound for it is far below this one.
        CHECK(worst < (sizeof(A) == 8 ? 1e-14 : 2e-6));

        for (Index t = 0; t < tokens; ++t) {
            std::vector<A> alone(static_cast<std::size_t>(outputs), A(1));
            device.multiply({x.values.data() + t * inputs, 1, inputs},
                            std::array{Product{matrix, MatrixView<A>(alone.data(), 1, outputs)}}, Update::add,
                            workspace);
            CHECK(std::memcmp(alone.data(), out.data() + t * outputs, alone.size() * sizeof(A)) == 0);
        }
    }
}

// Around the sizes of registers, tiles, pieces and blocks; one input; one output.
const std::vector<std::array<Index, 3>> shapes{{1, 1, 1},     {2, 3, 5},      {1, 9, 31},     {3, 8, 32},
                                               {4, 17, 33},   {6, 7, 64},     {7, 40, 100},   {13, 5, 65},
                                               {16, 64, 128}, {1, 130, 1000}, {97, 12, 40},   {200, 9, 16},
                                               {5, 300, 513}, {23, 83, 600},  {103, 20, 257}, {70, 134, 1055}};

}  // namespace

TEST_CASE_TEMPLATE("products agree with double precision, and a token alone gives the bits it gives in a chunk",
                   Architecture, MISTRAL_TEST_ARCHITECTURES) {
    check_products<float, Architecture>(shapes);
    check_products<half, Architecture>(shapes);
    check_products<bfloat16, Architecture>(shapes);
    check_products<double, Architecture>(shapes);
}

TEST_CASE("so do those of bfloat16 without tiles" * doctest::skip(!has_tiles())) {
    check_products<bfloat16, NativeInstructionSet>(shapes, {.threads = 2, .amx = false});
}

#if defined(MISTRAL_HAS_AVX512_DOT)
TEST_CASE("and those of bfloat16 in float, as on cores without fast dot products") {
    check_products<bfloat16, Avx512Float>(shapes);
}
#endif

TEST_CASE("the kind of cores is that of the processor that Linux names" *
          doctest::skip(!std::ifstream("/proc/cpuinfo").is_open())) {
    std::ifstream processors("/proc/cpuinfo");
    bool is_intel = false, is_amd = false, has_tiles_of_bfloat16 = false;
    int family = 0;
    for (std::string line; std::getline(processors, line);) {
        const std::string value = line.substr(std::min(line.size(), line.find(':') + 1));
        if (line.starts_with("vendor_id")) {
            is_intel = value == " GenuineIntel";
            is_amd = value == " AuthenticAMD";
        }
        if (line.starts_with("flags")) has_tiles_of_bfloat16 = (value + " ").find(" amx_bf16 ") != std::string::npos;
        if (line.starts_with("cpu family")) family = std::stoi(value);
    }
    CHECK(cpu::core_kind_of_processor() == (is_intel                   ? cpu::CoreKind::intel
                                            : is_amd && family >= 0x1a ? cpu::CoreKind::zen5
                                                                       : cpu::CoreKind::common));
    CHECK(cpu::multiplies_faster_in_float() == (is_intel && !has_tiles_of_bfloat16));
}

TEST_CASE_TEMPLATE("the kind of cores changes no bit of the products", Architecture, MISTRAL_TEST_ARCHITECTURES) {
    // [tokens, outputs, inputs]: all sizes of tiles; several pieces of rows and inputs and what is left of them; more
    // tasks of the same rows than threads.
    std::vector<std::array<Index, 3>> sizes{{25, 134, 2048}, {66, 135, 4233}, {30, 9, 130}, {130, 9, 4233}};
    for (const Index tokens : {1, 2, 3, 4, 5, 6, 7, 12, 13, 30}) sizes.push_back({tokens, 61, 300});
    const auto check = [&](auto scalar) {
        using S = decltype(scalar);
        std::mt19937 random(13);
        for (const auto& size : sizes) {
            const Index tokens = size[0], outputs = size[1], inputs = size[2];
            CAPTURE(tokens);
            const Numbers<S> weights(outputs * inputs, random);
            const Numbers<float> x(tokens * inputs, random);
            std::vector<float> out(static_cast<std::size_t>(tokens * outputs));
            const Product product{HostMatrix<S>{{weights.values.data(), outputs, inputs}, nullptr},
                                  MatrixView<float>(out.data(), tokens, outputs)};
            const MatrixView<const float> all(x.values.data(), tokens, inputs);
            const auto multiply = [&](cpu::CoreKind core_kind) {
                ThreadPool pool(2);
                CpuBase::Workspace workspace;
                std::fill(out.begin(), out.end(), NAN);
                cpu::multiply<Architecture, S>(pool, all, std::span(&product, 1), Update::assign, core_kind, workspace);
                return out;
            };
            const auto common = multiply(cpu::CoreKind::common);
            CHECK(multiply(cpu::CoreKind::intel) == common);
            CHECK(multiply(cpu::CoreKind::zen5) == common);
        }
    };
    check(float{});
    check(half{});
    check(bfloat16{});
}

TEST_CASE("assigning forgets what stood there") {
    const Cpu device(1);
    Cpu::Workspace workspace;
    const std::vector<float> x{2, 3}, weights{10, 100};
    float out = NAN;
    const HostMatrix<float> matrix{{weights.data(), 1, 2}, nullptr};
    device.multiply({x.data(), 1, 2}, std::array{Product{matrix, MatrixView<float>(&out, 1, 1)}}, Update::assign,
                    workspace);
    CHECK(out == 320);
}

TEST_CASE_TEMPLATE("several products at once give the bits of each alone", S, float, bfloat16, Q8, Q4) {
    constexpr Index inputs = 1000;
    constexpr std::array<Index, 3> outputs{300, 7, 130};
    const Cpu device(3);
    Cpu::Workspace workspace;
    std::mt19937 random(5);
    for (const Index tokens : {1, 2, 50}) {
        const Numbers<float> x(tokens * inputs, random);
        const MatrixView<const float> input(x.values.data(), tokens, inputs);
        std::vector<std::vector<float>> together, alone;
        std::vector<Cpu::Matrix<S>> weights;
        std::vector<Numbers<float>> numbers;
        for (const Index rows : outputs) {
            numbers.emplace_back(rows * inputs, random);
            together.emplace_back(static_cast<std::size_t>(tokens * rows), NAN);
            alone.push_back(together.back());
            const float* from = numbers.back().values.data();
            if constexpr (QuantizedScalar<S>) {
                weights.push_back(device.quantize<S>(
                    rows, inputs, [=](Index row, float* to) { std::copy_n(from + row * inputs, inputs, to); }));
            } else {
                const auto copy = std::make_shared<std::vector<S>>();
                for (Index i = 0; i < rows * inputs; ++i) copy->push_back(static_cast<S>(from[i]));
                weights.push_back({{copy->data(), rows, inputs}, copy});
            }
        }
        const auto product = [&](std::vector<std::vector<float>>& out, std::size_t i) {
            return Product{weights[i], MatrixView<float>(out[i].data(), tokens, outputs[i])};
        };
        device.multiply(input, std::array{product(together, 0), product(together, 1), product(together, 2)},
                        Update::assign, workspace);
        for (std::size_t i = 0; i < outputs.size(); ++i)
            device.multiply(input, std::array{product(alone, i)}, Update::assign, workspace);
        CHECK(together == alone);
    }
}
