#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "device/cuda/device_matrix.hpp"
#include "device/cuda/gated_product.hpp"
#include "emulation.hpp"

using namespace mistral;

namespace {

/// Tokens, outputs, inputs: around the sizes of pieces, chunks and blocks; one input, none, one output.
constexpr std::array<std::array<Index, 3>, 12> shapes{{{1, 1, 1},
                                                       {2, 3, 0},
                                                       {3, 5, 7},
                                                       {1, 9, 32},
                                                       {4, 2, 1024},
                                                       {5, 6, 1000},
                                                       {8, 4, 264},
                                                       {9, 7, 96},
                                                       {16, 3, 2056},
                                                       {17, 5, 64},
                                                       {1, 33, 5000},
                                                       {40, 1, 130}}};

/// x * weights to `out`, through the kernel, in a launch of its own.
template <class S>
void multiply(MatrixView<const float> x, MatrixView<const S> weights, MatrixView<float> out,
              Update update = Update::assign) {
    const cuda::WeightsFor<MatrixView<const S>> product{weights, out};
    cuda::multiply<S>(nullptr, x, std::span(&product, 1), update);
}

/// The largest error of out = 1 + x * weights, as a part of the sum of the magnitudes.
template <class S>
double worst_error(const DeviceMatrix<float>& x, const DeviceMatrix<S>& weights, const DeviceMatrix<float>& out,
                   double before) {
    double worst = 0;
    for (Index t = 0; t < out.const_view().rows(); ++t)
        for (Index r = 0; r < out.const_view().cols(); ++r) {
            const ExactProduct product(x, t, weights, r);
            const double error =
                std::abs(out(t, r) - (before + product.value)) / (std::abs(before) + product.magnitude + 1e-30);
            // Written so that a NaN is the worst.
            if (!(error <= worst)) worst = error;
        }
    return worst;
}

/// As many of the first rows of x as `tokens`, through the kernel.
template <class S>
void check_same_bits(const DeviceMatrix<float>& x, const DeviceMatrix<S>& weights, const DeviceMatrix<float>& out,
                     Index tokens) {
    DeviceMatrix<float> few(tokens, out.const_view().cols());
    multiply<S>(x.const_view().middle_rows(0, tokens), weights.view(), few.view());
    REQUIRE(few.download());
    for (Index t = 0; t < tokens; ++t)
        for (Index r = 0; r < out.const_view().cols(); ++r) REQUIRE(few(t, r) == out(t, r));
}

}  // namespace

TEST_CASE_TEMPLATE("products agree with double precision wherever the matrices lie, with the same bits", S, float, half,
                   bfloat16) {
    std::uint64_t seed = 0;
    for (const auto& shape : shapes) {
        const Index tokens = shape[0], outputs = shape[1], inputs = shape[2];
        CAPTURE(tokens);
        CAPTURE(outputs);
        CAPTURE(inputs);
        DeviceMatrix<float> reference(tokens, outputs);
        for (const Layout of_x : layouts)
            for (const Layout of_weights : layouts) {
                emulation::set_seed(seed++ % 4);
                const DeviceMatrix<float> x(tokens, inputs, of_x, NormalNumbers(1));
                const DeviceMatrix<S> weights(outputs, inputs, of_weights, NormalNumbers(2));
                DeviceMatrix<float> out(tokens, outputs, of_x);
                multiply<S>(x.view(), weights.view(), out.view());
                REQUIRE(out.download());
                // Each of 32 partial sums at least rounds as often as it is long: at most a few hundred times.
                CHECK(worst_error(x, weights, out, 0) < 1e-6);
                if (of_x.gap + of_x.offset + of_weights.gap + of_weights.offset == 0) {
                    multiply<S>(x.view(), weights.view(), reference.view());
                    REQUIRE(reference.download());
                }
                REQUIRE(out.same_bits(reference));
            }
    }
    emulation::set_seed(0);
}

TEST_CASE_TEMPLATE("a token gives the same bits in chunks of any length", S, float, half, bfloat16) {
    const Index tokens = 17;
    for (const Index inputs : {1024, 1000, 77, 4096}) {
        const DeviceMatrix<float> x(tokens, inputs, {}, NormalNumbers(1));
        const DeviceMatrix<S> weights(6, inputs, {}, NormalNumbers(2));
        DeviceMatrix<float> out(tokens, 6);
        multiply<S>(x.view(), weights.view(), out.view());
        REQUIRE(out.download());
        for (const Index few : {1, 2, 3, 4, 5, 8, 9, 16}) check_same_bits(x, weights, out, few);
    }
}

TEST_CASE_TEMPLATE("a product is added to what stands there", S, float, half, bfloat16) {
    for (const Index tokens : {1, 3, 12})
        for (const Layout layout : layouts) {
            const DeviceMatrix<float> x(tokens, 200, layout, NormalNumbers(1));
            const DeviceMatrix<S> weights(5, 200, layout, NormalNumbers(2));
            DeviceMatrix<float> out(tokens, 5, layout, [](Index, Index) { return 100; });
            multiply<S>(x.view(), weights.view(), out.view(), Update::add);
            REQUIRE(out.download());
            CHECK(worst_error(x, weights, out, 100) < 1e-6);
        }
}

TEST_CASE_TEMPLATE("several products of one input give the bits of each alone, whatever the rows", S, float, half,
                   bfloat16) {
    // One, two and four warps for a group of rows; no rows at all; fewer products.
    constexpr Index inputs = 1100;
    const std::vector<std::vector<Index>> all_rows{{4100, 2050, 5}, {7, 0, 9}, {0, 0, 3}, {0, 0, 0}, {6, 11}};
    for (const auto& rows : all_rows) {
        const Index tokens = rows[0] < 10 && rows.size() == 3 ? 11 : 1;
        emulation::set_seed(static_cast<std::uint64_t>(rows[0]));
        const DeviceMatrix<float> x(tokens, inputs, {}, NormalNumbers(1));
        std::deque<DeviceMatrix<S>> weights;
        std::deque<DeviceMatrix<float>> together, alone;
        std::vector<cuda::WeightsFor<MatrixView<const S>>> products;
        for (const Index outputs : rows) {
            weights.emplace_back(outputs, inputs, Layout{}, NormalNumbers(2 + static_cast<unsigned>(products.size())));
            together.emplace_back(tokens, outputs);
            alone.emplace_back(tokens, outputs);
            multiply<S>(x.view(), weights.back().view(), alone.back().view());
            products.push_back({weights.back().view(), together.back().view()});
        }
        cuda::multiply<S>(nullptr, x.view(), products, Update::assign);
        for (std::size_t i = 0; i < products.size(); ++i) {
            REQUIRE(together[i].download());
            REQUIRE(alone[i].download());
            REQUIRE(together[i].same_bits(alone[i]));
        }
    }
    emulation::set_seed(0);
}

TEST_CASE_TEMPLATE("a gate's products agree with double precision, with the same bits in chunks of any length", S,
                   float, half, bfloat16) {
    std::uint64_t seed = 0;
    for (const auto& shape : {std::pair<Index, Index>{1, 1}, {5, 7}, {9, 264}, {6, 3000}, {33, 1096}})
        for (const Layout layout : layouts) {
            const Index outputs = shape.first, inputs = shape.second;
            CAPTURE(outputs);
            CAPTURE(inputs);
            const Index tokens = 17;
            const DeviceMatrix<float> x(tokens, inputs, layout, NormalNumbers(1, 0.3f));
            const DeviceMatrix<S> gate(outputs, inputs, layout, NormalNumbers(2));
            const DeviceMatrix<S> up(outputs, inputs, layout, NormalNumbers(3));
            DeviceMatrix<float> all(tokens, outputs, layout);
            for (const Index count : {tokens, Index{1}, Index{2}, Index{3}, Index{8}}) {
                emulation::set_seed(seed++ % 4);
                DeviceMatrix<float> few(count, outputs, layout);
                DeviceMatrix<float>& out = count == tokens ? all : few;
                DeviceMatrix<float> unused(count, outputs);
                const std::array products{cuda::WeightsFor<MatrixView<const S>>{gate.view(), out.view()},
                                          cuda::WeightsFor<MatrixView<const S>>{up.view(), unused.view()}};
                cuda::multiply<S>(nullptr, x.const_view().middle_rows(0, count), std::span(products), Update::assign,
                                  true);
                REQUIRE(out.download());
                if (count == tokens) CHECK(worst_gated_error(x, gate, up, out) < 1);
                for (Index t = 0; t < count; ++t)
                    for (Index r = 0; r < outputs; ++r) REQUIRE(out(t, r) == all(t, r));
            }
        }
    emulation::set_seed(0);
}

TEST_CASE("groups of rows that one, two and four warps share read every column of theirs") {
    // More columns than two warps take at once; every 37th counts.
    constexpr Index cols = 2200;
    const DeviceMatrix<float> x(1, cols, {}, [](Index, Index i) { return i % 37 == 0 ? 1 : 0; });
    for (const Index rows : {500, 2050, 4100, 65535 * 2 + 3}) {
        const Index inputs = rows < 10'000 ? cols : 8;
        const DeviceMatrix<float> weights(rows, inputs, {}, [](Index i, Index j) { return j % 37 == 0 ? i : -1; });
        const MatrixView<const float> some(x.view().data(), 1, inputs);
        DeviceMatrix<float> out(1, rows);
        multiply<float>(some, weights.view(), out.view());
        REQUIRE(out.download());
        const Index counted = (inputs + 36) / 37;
        for (Index r = 0; r < rows; ++r) REQUIRE(out(0, r) == static_cast<float>(r * counted));
    }
}
