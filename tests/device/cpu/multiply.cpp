#include <mistral/device/cpu/cpu.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
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
void check_products(const std::vector<std::array<Index, 3>>& shapes) {
    using A = Activation<S>;
    const BasicCpu<Architecture> device(2);
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
        device.template multiply<S>({x.values.data(), tokens, inputs}, matrix, {out.data(), tokens, outputs},
                                    Update::add, workspace);
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
            device.template multiply<S>({x.values.data() + t * inputs, 1, inputs}, matrix, {alone.data(), 1, outputs},
                                        Update::add, workspace);
            CHECK(std::memcmp(alone.data(), out.data() + t * outputs, alone.size() * sizeof(A)) == 0);
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("products agree with double precision, and a token alone gives the bits it gives in a chunk",
                   Architecture, MISTRAL_TEST_ARCHITECTURES) {
    // Around the sizes of registers, tiles and blocks; one input; one output.
    const std::vector<std::array<Index, 3>> shapes{
        {1, 1, 1},   {2, 3, 5},     {1, 9, 31},     {3, 8, 32},   {4, 17, 33},  {6, 7, 64},   {7, 40, 100},
        {13, 5, 65}, {16, 64, 128}, {1, 130, 1000}, {97, 12, 40}, {200, 9, 16}, {5, 300, 513}};
    check_products<float, Architecture>(shapes);
    check_products<half, Architecture>(shapes);
    check_products<bfloat16, Architecture>(shapes);
    check_products<double, Architecture>(shapes);
}

TEST_CASE("assigning forgets what stood there") {
    const Cpu device(1);
    Cpu::Workspace workspace;
    const std::vector<float> x{2, 3}, weights{10, 100};
    float out = NAN;
    device.multiply<float>({x.data(), 1, 2}, {{weights.data(), 1, 2}, nullptr}, {&out, 1, 1}, Update::assign,
                           workspace);
    CHECK(out == 320);
}
