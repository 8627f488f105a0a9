#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <deque>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "device/cuda/device_matrix.hpp"
#include "device/cuda/gated_product.hpp"
#include "emulation.hpp"

using namespace mistral;

namespace {

/// Random levels and scales in the device's order. What pads rows and inputs are random codes, and scales of NaN.
template <QuantizedScalar Q>
class Weights {
  public:
    Weights(Index rows, Index cols, unsigned seed = 1) : view_{nullptr, nullptr, rows, cols} {
        std::mt19937 random(seed);
        codes_.resize(static_cast<std::size_t>(view_.code_bytes()));
        for (std::uint8_t& byte : codes_) byte = static_cast<std::uint8_t>(random());
        scales_.resize(static_cast<std::size_t>(view_.scale_count()), static_cast<half>(std::nanf("")));
        const NormalNumbers normal(2, 0.05f);
        for (Index row = 0; row < rows; ++row)
            for (Index group = 0; group < view_.groups(); ++group)
                scales_[static_cast<std::size_t>(view_.scale_index(row, group))] = static_cast<half>(normal());
        for (Index row = 0; row < rows; ++row)
            for (Index col = 0; col < cols; ++col) set_level(row, col, static_cast<std::uint8_t>(random()));
        device_codes_ = std::make_unique<DeviceMatrix<std::uint8_t>>(
            1, view_.code_bytes(), Layout{}, [&](Index, Index i) { return codes_[static_cast<std::size_t>(i)]; });
        device_scales_ = std::make_unique<DeviceMatrix<half>>(
            1, view_.scale_count(), Layout{}, [&](Index, Index i) { return scales_[static_cast<std::size_t>(i)]; });
        view_.codes = device_codes_->view().data();
        view_.scales = device_scales_->view().data();
    }

    [[nodiscard]] const cuda::QuantizedView<Q>& view() const { return view_; }

    /// The weight as the format says: exact in double precision.
    [[nodiscard]] double operator()(Index row, Index col) const {
        const half scale = scales_[static_cast<std::size_t>(view_.scale_index(row, col / group_size))];
        return static_cast<double>(scale) * levels_.at(static_cast<std::size_t>(row * view_.cols + col)) / 128;
    }

  private:
    void set_level(Index row, Index col, std::uint8_t number) {
        std::uint8_t& byte = codes_[static_cast<std::size_t>(view_.code_byte(row, col))];
        if constexpr (std::same_as<Q, Q8>) {
            const int level = number % 255 - 127;
            byte = static_cast<std::uint8_t>(level);
            levels_.push_back(level);
        } else {
            const int shift = col % 2 == 0 ? 0 : 4;
            byte = static_cast<std::uint8_t>((byte & ~(15 << shift)) | number % 16 << shift);
            levels_.push_back(q4_levels[number % 16]);
        }
    }

    cuda::QuantizedView<Q> view_;
    std::vector<std::uint8_t> codes_;
    std::vector<half> scales_;
    std::vector<int> levels_;
    std::unique_ptr<DeviceMatrix<std::uint8_t>> device_codes_;
    std::unique_ptr<DeviceMatrix<half>> device_scales_;
};

/// x * weights to `out`, through the kernel, in a launch of its own.
template <QuantizedScalar Q>
void multiply(MatrixView<const float> x, const Weights<Q>& weights, MatrixView<float> out,
              Update update = Update::assign) {
    const cuda::WeightsFor<cuda::QuantizedView<Q>> product{weights.view(), out};
    cuda::multiply<Q>(nullptr, x, std::span(&product, 1), update);
}

/// Rows and columns around the sizes of tiles, groups and chunks.
constexpr std::array<std::array<Index, 2>, 9> shapes{
    {{1, 1}, {4, 64}, {5, 63}, {7, 72}, {3, 1024}, {8, 2055}, {2, 4096}, {9, 196}, {6, 520}}};

}  // namespace

TEST_CASE_TEMPLATE("products with quantised weights agree with double precision, wherever activations lie", Q, Q8, Q4) {
    std::uint64_t seed = 0;
    for (const auto& shape : shapes) {
        const Index outputs = shape[0], inputs = shape[1];
        const Weights<Q> weights(outputs, inputs);
        for (const Index tokens : {1, 2, 3, 8, 9, 17}) {
            std::unique_ptr<DeviceMatrix<float>> first;
            for (const Layout layout : layouts) {
                CAPTURE(outputs);
                CAPTURE(inputs);
                CAPTURE(tokens);
                emulation::set_seed(seed++ % 4);
                const DeviceMatrix<float> x(tokens, inputs, layout, NormalNumbers(3));
                auto out = std::make_unique<DeviceMatrix<float>>(tokens, outputs, layout);
                multiply<Q>(x.view(), weights, out->view());
                REQUIRE(out->download());
                for (Index t = 0; t < tokens; ++t)
                    for (Index r = 0; r < outputs; ++r) {
                        const ExactProduct exact(x, t, weights, r);
                        // A lane adds up a few dozen numbers, some of which are sums of eight.
                        REQUIRE(std::abs((*out)(t, r) - exact.value) <= 1e-6 * exact.magnitude);
                    }
                if (first)
                    REQUIRE(out->same_bits(*first));
                else
                    first = std::move(out);
            }
        }
    }
    emulation::set_seed(0);
}

TEST_CASE_TEMPLATE("a token gives the same bits in chunks of any length with quantised weights", Q, Q8, Q4) {
    for (const Index inputs : {4096, 1000, 77}) {
        const Weights<Q> weights(6, inputs);
        const DeviceMatrix<float> x(17, inputs, {}, NormalNumbers(3));
        DeviceMatrix<float> out(17, 6);
        multiply<Q>(x.view(), weights, out.view());
        REQUIRE(out.download());
        for (const Index tokens : {1, 2, 3, 4, 5, 8, 9, 16}) {
            DeviceMatrix<float> few(tokens, 6, {}, [](Index, Index) { return 0; });
            multiply<Q>(x.const_view().middle_rows(0, tokens), weights, few.view(), Update::add);
            REQUIRE(few.download());
            for (Index t = 0; t < tokens; ++t)
                for (Index r = 0; r < 6; ++r) REQUIRE(few(t, r) == out(t, r));
        }
    }
}

TEST_CASE_TEMPLATE("rows of tiles that two warps share, and those of one alone, agree with double precision", Q, Q8,
                   Q4) {
    // More columns than a warp takes at once.
    for (const Index outputs : {4100, 8200}) {
        const Weights<Q> weights(outputs, 1100);
        const DeviceMatrix<float> x(1, 1100, {}, NormalNumbers(3));
        DeviceMatrix<float> out(1, outputs);
        multiply<Q>(x.view(), weights, out.view());
        REQUIRE(out.download());
        for (const Index r : {Index{0}, Index{2047}, outputs - 1}) {
            const ExactProduct exact(x, 0, weights, r);
            // As above.
            CHECK(std::abs(out(0, r) - exact.value) <= 1e-6 * exact.magnitude);
        }
    }
}

TEST_CASE_TEMPLATE("a gate's products agree with double precision with quantised weights", Q, Q8, Q4) {
    for (const auto& shape : {std::pair<Index, Index>{1, 1}, {5, 63}, {9, 200}, {6, 2300}, {33, 1100}}) {
        const Index outputs = shape.first, inputs = shape.second;
        CAPTURE(outputs);
        CAPTURE(inputs);
        const Weights<Q> gate(outputs, inputs, 1), up(outputs, inputs, 2);
        for (const Index tokens : {1, 3, 9}) {
            const DeviceMatrix<float> x(tokens, inputs, {}, NormalNumbers(3));
            DeviceMatrix<float> out(tokens, outputs), unused(tokens, outputs);
            const std::array products{cuda::WeightsFor<cuda::QuantizedView<Q>>{gate.view(), out.view()},
                                      cuda::WeightsFor<cuda::QuantizedView<Q>>{up.view(), unused.view()}};
            cuda::multiply<Q>(nullptr, x.view(), std::span(products), Update::assign, true);
            REQUIRE(out.download());
            CHECK(worst_gated_error(x, gate, up, out) < 1);
        }
    }
}

TEST_CASE_TEMPLATE("several products of one input give the bits of each alone with quantised weights", Q, Q8, Q4) {
    // Groups of rows that four warps share, or two.
    const Weights<Q> first(5, 1100), second(4100, 1100), third(9, 1100);
    const DeviceMatrix<float> x(2, 1100, {}, NormalNumbers(3));
    std::deque<DeviceMatrix<float>> together, alone;
    std::vector<cuda::WeightsFor<cuda::QuantizedView<Q>>> products;
    for (const Weights<Q>* weights : {&first, &second, &third}) {
        together.emplace_back(2, weights->view().rows);
        alone.emplace_back(2, weights->view().rows);
        multiply<Q>(x.view(), *weights, alone.back().view());
    }
    products = {
        {first.view(), together[0].view()}, {second.view(), together[1].view()}, {third.view(), together[2].view()}};
    cuda::multiply<Q>(nullptr, x.view(), products, Update::assign);
    for (std::size_t i = 0; i < products.size(); ++i) {
        REQUIRE(together[i].download());
        REQUIRE(alone[i].download());
        REQUIRE(together[i].same_bits(alone[i]));
    }
}

TEST_CASE_TEMPLATE("weights are dequantised to the nearest bfloat16", Q, Q8, Q4) {
    for (const auto& [rows, cols] : shapes)
        for (const Layout layout : layouts) {
            const Weights<Q> weights(rows, cols);
            DeviceMatrix<bfloat16> out(rows, cols, layout);
            cuda::dequantize<Q>(nullptr, weights.view(), out.view());
            REQUIRE(out.download());
            for (Index i = 0; i < rows; ++i)
                for (Index j = 0; j < cols; ++j)
                    REQUIRE(out(i, j) == static_cast<bfloat16>(static_cast<float>(weights(i, j))));
        }
}

TEST_CASE_TEMPLATE("every code and every scale of a matrix has a place of its own", Q, Q8, Q4) {
    const cuda::QuantizedView<Q> view{nullptr, nullptr, 8, 192};
    std::vector<int> codes(static_cast<std::size_t>(view.code_bytes()));
    std::vector<int> scales(static_cast<std::size_t>(view.scale_count()));
    for (Index row = 0; row < view.rows; ++row) {
        for (Index col = 0; col < view.cols; ++col) ++codes.at(static_cast<std::size_t>(view.code_byte(row, col)));
        for (Index group = 0; group < 3; ++group) ++scales.at(static_cast<std::size_t>(view.scale_index(row, group)));
    }
    CHECK(codes == std::vector<int>(codes.size(), std::same_as<Q, Q8> ? 1 : 2));
    CHECK(scales == std::vector<int>(scales.size(), 1));
}
