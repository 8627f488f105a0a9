#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "device/cuda/device_matrix.hpp"
#include "emulation.hpp"

using namespace mistral;

namespace {

constexpr std::array<std::array<Index, 2>, 6> shapes{{{1, 1}, {1, 4096}, {3, 5}, {2, 1028}, {7, 130}, {1, 1023}}};

}  // namespace

TEST_CASE_TEMPLATE("rows of the embedding's table are the tokens'", S, float, half, bfloat16) {
    for (const auto& [rows, cols] : shapes)
        for (const Layout from : layouts)
            for (const Layout to : layouts) {
                const DeviceMatrix<S> table(9, cols, from, NormalNumbers(1));
                const DeviceMatrix<Token> tokens(1, rows, {}, [](Index, Index t) { return (t * 5 + 8) % 9; });
                DeviceMatrix<float> out(rows, cols, to);
                cuda::embed<S>(nullptr, tokens.view().data(), table.view(), out.view());
                REQUIRE(out.download());
                for (Index t = 0; t < rows; ++t)
                    for (Index i = 0; i < cols; ++i) REQUIRE(out(t, i) == static_cast<float>(table(tokens(0, t), i)));
            }
}

TEST_CASE_TEMPLATE("numbers are converted as the processor does it", C, float, half, bfloat16) {
    for (const auto& [rows, cols] : shapes)
        for (const Layout from : layouts)
            for (const Layout to : layouts) {
                // Also those that lie in the middle between two of C, beyond the largest and below the least.
                const NormalNumbers normal(2);
                const std::array<float, 8> special{1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f,
                                                   1e6f,        -3e38f,          1e-7f,        -0.0f};
                const DeviceMatrix<float> x(rows, cols, from, [&](Index i, Index j) {
                    return (i + j) % 3 == 0 ? special[static_cast<std::size_t>(i + j) % special.size()] : normal();
                });
                DeviceMatrix<C> out(rows, cols, to);
                cuda::convert<C>(nullptr, x.view(), out.view());
                REQUIRE(out.download());
                for (Index i = 0; i < rows; ++i)
                    for (Index j = 0; j < cols; ++j) {
                        const C expected = static_cast<C>(x(i, j));
                        REQUIRE(std::memcmp(&out(i, j), &expected, sizeof(C)) == 0);
                    }
            }
}

TEST_CASE_TEMPLATE("keys and values are converted in one launch as each alone", C, float, half, bfloat16) {
    for (const auto& [rows, cols] : shapes)
        for (std::size_t i = 0; i < layouts.size(); ++i) {
            const Layout other = layouts[(i + 1) % layouts.size()];
            const DeviceMatrix<float> keys(rows, cols, layouts[i], NormalNumbers(1));
            const DeviceMatrix<float> values(rows, cols, other, NormalNumbers(2));
            DeviceMatrix<C> cached_keys(rows, cols, other), cached_values(rows, cols, layouts[i]);
            DeviceMatrix<C> expected_keys(rows, cols), expected_values(rows, cols);
            cuda::convert<C>(nullptr, keys.view(), values.view(), cached_keys.view(), cached_values.view());
            cuda::convert<C>(nullptr, keys.view(), expected_keys.view());
            cuda::convert<C>(nullptr, values.view(), expected_values.view());
            for (DeviceMatrix<C>* matrix : {&cached_keys, &cached_values, &expected_keys, &expected_values})
                REQUIRE(matrix->download());
            CHECK(cached_keys.same_bits(expected_keys));
            CHECK(cached_values.same_bits(expected_values));
        }
}

TEST_CASE("more rows than a grid has in one direction are all converted") {
    const DeviceMatrix<float> x(70'000, 2, {}, [](Index i, Index j) { return i * 2 + j; });
    DeviceMatrix<float> out(70'000, 2);
    cuda::convert<float>(nullptr, x.view(), out.view());
    REQUIRE(out.download());
    CHECK(out.same_bits(x));
}

TEST_CASE("swiglu agrees with double precision, however large its inputs") {
    for (const auto& [rows, cols] : shapes)
        for (const Layout layout : layouts) {
            const NormalNumbers normal(3, 4);
            const std::array<float, 8> special{0, -0.0f, 88.8f, -88.8f, 1e30f, -1e30f, 110, -110};
            const DeviceMatrix<float> gate(rows, cols, layout, [&](Index i, Index j) {
                return (i + j) % 3 == 0 ? special[static_cast<std::size_t>(i + j) % special.size()] : normal();
            });
            const DeviceMatrix<float> up(rows, cols, layouts[0], normal);
            DeviceMatrix<float> out(rows, cols, layout);
            cuda::swiglu(nullptr, gate.view(), up.view(), out.view());
            REQUIRE(out.download());
            for (Index i = 0; i < rows; ++i)
                for (Index j = 0; j < cols; ++j) {
                    const double g = gate(i, j);
                    const double exact = g / (1 + std::exp(-g)) * up(i, j);
                    // Five roundings, of which the exponential's is up to two units. Where it overflows, silu is below
                    // 89 / 2^128.
                    REQUIRE(std::abs(out(i, j) - exact) <= 5e-7 * std::abs(exact) + 3e-37 * std::abs(up(i, j)));
                }
        }
}

TEST_CASE("swiglu may overwrite its inputs") {
    const DeviceMatrix<float> up(2, 100, {}, NormalNumbers(4));
    DeviceMatrix<float> gate(2, 100, {}, NormalNumbers(5));
    DeviceMatrix<float> out(2, 100);
    cuda::swiglu(nullptr, gate.view(), up.view(), out.view());
    cuda::swiglu(nullptr, gate.view(), up.view(), gate.view());
    REQUIRE(out.download());
    REQUIRE(gate.download());
    CHECK(gate.same_bits(out));
}

TEST_CASE_TEMPLATE("keys and values go to the slots of their positions", C, float, half, bfloat16) {
    struct Case {
        Index tokens, capacity, kv_heads, head_dim, position;
    };
    const Index far = Index{1} << 40;
    for (const Case& c : {Case{1, 4, 2, 8, 0}, Case{1, 5, 3, 6, 1234}, Case{3, 4, 1, 128, 3}, Case{9, 4, 2, 10, 7},
                          Case{4, 4, 2, 7, 5}, Case{300, 257, 2, 12, far + 11}})
        for (const Layout layout : layouts) {
            const Index cols = c.kv_heads * c.head_dim;
            const DeviceMatrix<C> keys(c.tokens, cols, layout, NormalNumbers(6));
            const DeviceMatrix<C> values(c.tokens, cols, layout, NormalNumbers(7));
            const DeviceMatrix<Index> position(1, 1, {}, [&](Index, Index) { return c.position; });
            const Layout place{layout.offset, 0};
            DeviceMatrix<C> stored_keys(c.kv_heads * c.capacity, c.head_dim, place, NormalNumbers(8));
            DeviceMatrix<C> stored_values(c.kv_heads * c.capacity, c.head_dim, place, NormalNumbers(9));
            DeviceMatrix<C> expected_keys(c.kv_heads * c.capacity, c.head_dim, place, NormalNumbers(8));
            std::vector<Index> token_of(static_cast<std::size_t>(c.capacity), -1);
            for (Index t = 0; t < c.tokens; ++t) token_of[static_cast<std::size_t>((c.position + t) % c.capacity)] = t;

            cuda::append<C>(
                nullptr, keys.view(), values.view(), position.view().data(),
                {stored_keys.view().data(), stored_values.view().data(), c.kv_heads, c.capacity, c.head_dim});
            const DeviceMatrix<C> old_values(c.kv_heads * c.capacity, c.head_dim, place, NormalNumbers(9));
            REQUIRE(stored_keys.download());
            REQUIRE(stored_values.download());
            for (Index head = 0; head < c.kv_heads; ++head)
                for (Index slot = 0; slot < c.capacity; ++slot)
                    for (Index i = 0; i < c.head_dim; ++i) {
                        const Index t = token_of[static_cast<std::size_t>(slot)];
                        const Index row = head * c.capacity + slot;
                        const C key = t < 0 ? expected_keys(row, i) : keys(t, head * c.head_dim + i);
                        const C value = t < 0 ? old_values(row, i) : values(t, head * c.head_dim + i);
                        REQUIRE(stored_keys(row, i) == key);
                        REQUIRE(stored_values(row, i) == value);
                    }
        }
}

TEST_CASE("nothing is done with no tokens") {
    const DeviceMatrix<float> x(0, 8);
    DeviceMatrix<half> out(0, 8);
    emulation::reset();
    cuda::convert<half>(nullptr, x.view(), out.view());
    cuda::swiglu(nullptr, x.view(), x.view(), x.view());
    CHECK(emulation::counts().launches == 0);
}
