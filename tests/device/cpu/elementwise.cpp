#include <mistral/device/cpu/elementwise.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "device/cpu/architectures.hpp"

using namespace mistral;

TEST_CASE_TEMPLATE("silu(gate) * up is right to the last digits of float over its whole range", Architecture,
                   MISTRAL_TEST_ARCHITECTURES) {
    std::vector<float> gate, up, out;
    for (float x = -120; x < 120; x += 0.037f) {
        gate.push_back(x);
        up.push_back(1.5f);
    }
    out.resize(gate.size());
    cpu::swiglu_row<Architecture>(gate.data(), up.data(), static_cast<Index>(gate.size()), out.data());
    double worst = 0;
    for (std::size_t i = 0; i < gate.size(); ++i) {
        const double x = gate[i];
        const double exact = x / (1 + std::exp(-x)) * 1.5;
        // Below -87 exp(-x) leaves the range of float; results of 1e-37 and less become zero.
        worst = std::max(worst, std::abs(out[i] - exact) / std::max(std::abs(exact), 1e-30));
    }
    // The exponential is right to a few units in the last place, 6e-8 each; division and products add one each.
    CHECK(worst < 1e-6);
}

TEST_CASE_TEMPLATE("every length of row gives the same element the same result", Architecture,
                   MISTRAL_TEST_ARCHITECTURES) {
    std::vector<double> gate(40), up(40), whole(40);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = up[i] = std::sin(static_cast<double>(i));
    cpu::swiglu_row<Architecture>(gate.data(), up.data(), 40, whole.data());
    for (Index n = 1; n < 40; ++n) {
        std::vector<double> part(static_cast<std::size_t>(n), NAN);
        cpu::swiglu_row<Architecture>(gate.data(), up.data(), n, part.data());
        CHECK(std::equal(part.begin(), part.end(), whole.begin()));
    }
}
