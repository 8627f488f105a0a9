#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/simd.hpp>

#include <cmath>

/// What a device does to single rows.
namespace mistral::cpu {

/// out = x / sqrt(mean(x²) + eps) * weight, over n elements (RMSNorm, arXiv:1910.07467, equation 4).
template <class Architecture, class A>
void rms_norm_row(const A* x, const A* weight, double eps, Index n, A* out) {
    using Vector = Batch<A, Architecture>;
    constexpr Index vector = lanes<A, Architecture>;
    Vector squares(A(0));
    Index i = 0;
    for (; i + vector <= n; i += vector) {
        const auto values = Vector::load_unaligned(x + i);
        squares = xsimd::fma(values, values, squares);
    }
    A total = sum(squares);
    for (; i < n; ++i) total += x[i] * x[i];
    const A scale = A(1) / std::sqrt(total / static_cast<A>(n) + static_cast<A>(eps));
    for (i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

/// Turns the pairs of every head of x [heads * head_dim] by position * frequency
/// (rotary position embedding, arXiv:2104.09864, section 3.2.2).
/// The angle is a product of binary32 numbers, as in the reference that models were trained with; its sine and cosine
/// are exact to the last digit of A.
template <class Architecture, class A>
void rotate_row(A* x, Index heads, Index head_dim, Index position, const float* frequencies, RotaryPairing pairing) {
    const bool halves = pairing == RotaryPairing::halves;
    for (Index i = 0; i < head_dim / 2; ++i) {
        const auto angle = static_cast<double>(static_cast<float>(position) * frequencies[i]);
        const A cosine = static_cast<A>(std::cos(angle));
        const A sine = static_cast<A>(std::sin(angle));
        A* first = x + (halves ? i : 2 * i);
        A* second = halves ? first + head_dim / 2 : first + 1;
        for (Index head = 0; head < heads; ++head, first += head_dim, second += head_dim) {
            const A a = *first;
            const A b = *second;
            *first = a * cosine - b * sine;
            *second = b * cosine + a * sine;
        }
    }
}

/// out = silu(gate) * up over n elements, with silu(x) = x / (1 + exp(-x)) (SwiGLU, arXiv:2002.05202, equation 6).
template <class Architecture, class A>
void swiglu_row(const A* gate, const A* up, Index n, A* out) {
    using Vector = Batch<A, Architecture>;
    constexpr Index vector = lanes<A, Architecture>;
    const auto compute = [](const Vector& g, const Vector& u) { return g / (Vector(A(1)) + exponential(-g)) * u; };
    Index i = 0;
    for (; i + vector <= n; i += vector)
        compute(Vector::load_unaligned(gate + i), Vector::load_unaligned(up + i)).store_unaligned(out + i);
    if (i == n) return;
    std::array<A, static_cast<std::size_t>(vector)> last_gate{}, last_up{}, last_out;
    std::copy(gate + i, gate + n, last_gate.begin());
    std::copy(up + i, up + n, last_up.begin());
    compute(Vector::load_unaligned(last_gate.data()), Vector::load_unaligned(last_up.data()))
        .store_unaligned(last_out.data());
    std::copy_n(last_out.begin(), n - i, out + i);
}

}  // namespace mistral::cpu
