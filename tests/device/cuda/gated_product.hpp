#pragma once

#include <mistral/base/types.hpp>

#include <cmath>

#include "device/cuda/device_matrix.hpp"

/// The dot product of a row of x with one of weights in double precision, and the sum of its terms' magnitudes.
struct ExactProduct {
    double value = 0;
    double magnitude = 0;

    template <class Weights>
    ExactProduct(const DeviceMatrix<float>& x, mistral::Index token, const Weights& weights, mistral::Index row) {
        for (mistral::Index i = 0; i < x.const_view().cols(); ++i) {
            const double term = double{x(token, i)} * static_cast<double>(weights(row, i));
            value += term;
            magnitude += std::abs(term);
        }
    }
};

/// The largest error of out = silu(x * gate) * (x * up) against double precision, as a part of what errors of 1e-6 of
/// the magnitudes of both products, as the tests of these allow, and of the result make of it. silu' is less than 1.1.
template <class Weights>
double worst_gated_error(const DeviceMatrix<float>& x, const Weights& gate, const Weights& up,
                         const DeviceMatrix<float>& out) {
    double worst = 0;
    for (mistral::Index t = 0; t < out.const_view().rows(); ++t)
        for (mistral::Index r = 0; r < out.const_view().cols(); ++r) {
            const ExactProduct g(x, t, gate, r), u(x, t, up, r);
            const double silu = g.value / (1 + std::exp(-g.value));
            const double allowed = 1e-6 * (1.1 * g.magnitude * (std::abs(u.value) + 1e-6 * u.magnitude) +
                                           std::abs(silu) * (u.magnitude + std::abs(u.value))) +
                                   1e-30;
            // Written so that a NaN is the worst.
            if (const double error = std::abs(out(t, r) - silu * u.value) / allowed; !(error <= worst)) worst = error;
        }
    return worst;
}
