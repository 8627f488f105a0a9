#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "device/cuda/device_matrix.hpp"
#include "emulation.hpp"

using namespace mistral;

namespace {

constexpr std::array<std::array<Index, 2>, 6> shapes{{{1, 1}, {1, 4096}, {3, 5}, {2, 1028}, {7, 130}, {1, 1023}}};

/// A cache in the device's memory, with numbers where nothing is appended.
template <class C>
struct StoredRows {
    StoredRows(Index kv_heads_, Index capacity_, Index head_dim_, Layout place)
        : kv_heads(kv_heads_),
          capacity(capacity_),
          head_dim(head_dim_),
          keys(kv_heads * capacity, head_dim, place, NormalNumbers(8)),
          values(kv_heads * capacity, head_dim, place, NormalNumbers(9)),
          old_keys(kv_heads * capacity, head_dim, place, NormalNumbers(8)),
          old_values(kv_heads * capacity, head_dim, place, NormalNumbers(9)) {}

    [[nodiscard]] CachedRun<C> run(Index tokens) const {
        return {.tokens = tokens, .store = {keys.view().data(), values.view().data(), kv_heads, capacity, head_dim}};
    }

    /// Whether rows first … first + tokens - 1 of what was appended lie at their positions, and all else as before.
    bool holds(const DeviceMatrix<C>& new_keys, const DeviceMatrix<C>& new_values, Index first, Index tokens,
               Index position) {
        if (!keys.download() || !values.download()) return false;
        std::vector<Index> row_of(static_cast<std::size_t>(capacity), -1);
        for (Index t = 0; t < tokens; ++t) row_of[static_cast<std::size_t>((position + t) % capacity)] = first + t;
        for (Index head = 0; head < kv_heads; ++head)
            for (Index slot = 0; slot < capacity; ++slot)
                for (Index i = 0; i < head_dim; ++i) {
                    const Index from = row_of[static_cast<std::size_t>(slot)];
                    const Index to = head * capacity + slot;
                    const Index col = head * head_dim + i;
                    if (keys(to, i) != (from < 0 ? old_keys(to, i) : new_keys(from, col)) ||
                        values(to, i) != (from < 0 ? old_values(to, i) : new_values(from, col)))
                        return false;
                }
        return true;
    }

    Index kv_heads, capacity, head_dim;
    DeviceMatrix<C> keys, values, old_keys, old_values;
};

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

TEST_CASE_TEMPLATE("keys and values of several sequences go to the slots of their positions", C, float, half,
                   bfloat16) {
    struct Case {
        Index tokens, capacity, kv_heads, head_dim, position;
    };
    const Index far = Index{1} << 40;
    for (const Case& c : {Case{1, 4, 2, 8, 0}, Case{1, 5, 3, 6, 1234}, Case{3, 4, 1, 128, 3}, Case{9, 4, 2, 10, 7},
                          Case{4, 4, 2, 7, 5}, Case{300, 257, 2, 12, far + 11}})
        for (const Layout layout : layouts) {
            const Index cols = c.kv_heads * c.head_dim;
            const DeviceMatrix<C> keys(c.tokens + 6, cols, layout, NormalNumbers(6));
            const DeviceMatrix<C> values(c.tokens + 6, cols, layout, NormalNumbers(7));
            const Layout place{layout.offset, 0};
            StoredRows<C> first(c.kv_heads, 3, c.head_dim, place);
            StoredRows<C> second(c.kv_heads, c.capacity, c.head_dim, place);
            StoredRows<C> third(c.kv_heads, 9, c.head_dim, place);
            const std::array runs{first.run(5), second.run(c.tokens), third.run(1)};
            const std::array<Index, 3> positions{7, c.position, 8};
            const DeviceMatrix<Index> device_positions(
                1, 3, {}, [&](Index, Index run) { return positions[static_cast<std::size_t>(run)]; });
            cuda::append<C>(nullptr, keys.view(), values.view(), runs, device_positions.view().data());
            REQUIRE(first.holds(keys, values, 0, 5, 7));
            REQUIRE(second.holds(keys, values, 5, c.tokens, c.position));
            REQUIRE(third.holds(keys, values, 5 + c.tokens, 1, 8));
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
