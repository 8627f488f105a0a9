#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <cmath>

#include "device/cuda/device_matrix.hpp"
#include "emulation.hpp"

using namespace mistral;

TEST_CASE("normalised rows agree with double precision") {
    const float eps = 1e-5f;
    for (const auto& [rows, cols] : std::array<std::array<Index, 2>, 8>{
             {{1, 1}, {2, 31}, {3, 33}, {1, 4096}, {2, 1000}, {1, 5121}, {1, 9000}, {5, 128}}})
        for (const Layout layout : layouts)
            for (std::uint64_t seed = 0; seed < 4; ++seed) {
                emulation::set_seed(seed);
                const DeviceMatrix<float> x(rows, cols, layout, NormalNumbers(1, 3));
                const DeviceMatrix<float> weight(1, cols, {layout.offset, 0}, NormalNumbers(2));
                DeviceMatrix<float> out(rows, cols, layout);
                cuda::rms_norm(nullptr, x.view(), weight.view().data(), eps, out.view());
                REQUIRE(out.download());
                for (Index t = 0; t < rows; ++t) {
                    double squares = 0;
                    for (Index i = 0; i < cols; ++i) squares += double{x(t, i)} * x(t, i);
                    const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + eps);
                    for (Index i = 0; i < cols; ++i) {
                        const double exact = x(t, i) * scale * weight(0, i);
                        // A thread's dozens of additions of one sign, halved by the root, and five roundings.
                        REQUIRE(std::abs(out(t, i) - exact) <= 1e-6 * std::abs(exact));
                    }
                }
            }
    emulation::set_seed(0);
}

TEST_CASE("a row of zeros stays one, and a row may be normalised in place") {
    DeviceMatrix<float> x(2, 256, {}, [](Index i, Index j) { return i * (j + 1); });
    const DeviceMatrix<float> weight(1, 256, {}, NormalNumbers(2));
    DeviceMatrix<float> out(2, 256);
    cuda::rms_norm(nullptr, x.view(), weight.view().data(), 1e-5f, out.view());
    cuda::rms_norm(nullptr, x.view(), weight.view().data(), 1e-5f, x.view());
    REQUIRE(out.download());
    REQUIRE(x.download());
    CHECK(x.same_bits(out));
    for (Index i = 0; i < 256; ++i) CHECK(out(0, i) == 0);
}
