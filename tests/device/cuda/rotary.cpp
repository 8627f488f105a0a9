#include <mistral/device/cuda/kernels.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>

#include "device/cuda/device_matrix.hpp"

using namespace mistral;

TEST_CASE("heads are turned as in double precision, at any position") {
    struct Case {
        Index tokens, heads, head_dim, position;
    };
    for (const Case& c :
         {Case{1, 1, 2, 0}, Case{1, 32, 128, 131'072}, Case{5, 3, 10, 32'767}, Case{2, 5, 64, 4095},
          Case{3, 2, 96, (Index{1} << 32) + 5}, Case{2, 40, 128, 1'000'000}, Case{30, 7, 16, 100}, Case{70, 3, 4, 7}})
        for (const RotaryPairing pairing : {RotaryPairing::halves, RotaryPairing::adjacent})
            for (const Layout layout : layouts) {
                const Index pairs = c.head_dim / 2;
                const DeviceMatrix<float> before(c.tokens, c.heads * c.head_dim, layout, NormalNumbers(1));
                DeviceMatrix<float> x(c.tokens, c.heads * c.head_dim, layout, NormalNumbers(1));
                // The first token is a run of its own, and so are the others, which stand further on.
                const std::array<TokenRun, 2> runs{{{.tokens = 1}, {.tokens = c.tokens - 1}}};
                const auto position_of = [&](Index t) { return c.position + (t == 0 ? 0 : 3 + t); };
                const DeviceMatrix<Index> positions(1, 2, {}, [&](Index, Index run) { return position_of(run); });
                const DeviceMatrix<float> frequencies(1, pairs, {}, [&](Index, Index i) {
                    return std::pow(1e4, -static_cast<double>(i) / static_cast<double>(pairs));
                });
                cuda::rotate(nullptr, x.view(), runs, positions.view().data(), frequencies.view().data(), c.head_dim,
                             pairing);
                REQUIRE(x.download());
                for (Index t = 0; t < c.tokens; ++t)
                    for (Index head = 0; head < c.heads; ++head)
                        for (Index i = 0; i < pairs; ++i) {
                            const bool halves = pairing == RotaryPairing::halves;
                            const Index first = head * c.head_dim + (halves ? i : 2 * i);
                            const Index second = halves ? first + pairs : first + 1;
                            const double angle = static_cast<float>(position_of(t)) * frequencies(0, i);
                            const double a = before(t, first), b = before(t, second);
                            // Each of the two products rounds twice, their sum once.
                            const double tolerance = 2e-7 * (std::abs(a) + std::abs(b));
                            REQUIRE(std::abs(x(t, first) - (a * std::cos(angle) - b * std::sin(angle))) <= tolerance);
                            REQUIRE(std::abs(x(t, second) - (b * std::cos(angle) + a * std::sin(angle))) <= tolerance);
                        }
            }
}
