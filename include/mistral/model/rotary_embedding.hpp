#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/device/device.hpp>

#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace mistral {

/// Rotary position embedding (arXiv:2104.09864): turns pair i of every head by position * theta^(-2 i / head_dim).
/// Frequencies and angles are binary32, as in the reference, whatever S is; positions have no end.
template <Scalar S, class D>
class RotaryEmbedding {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// Throws Error for an odd or non-positive head_dim and for a theta that is not a positive number.
    RotaryEmbedding(D device, Index head_dim, double theta, RotaryPairing pairing)
        : device_(std::move(device)), head_dim_(head_dim), pairing_(pairing) {
        require(head_dim > 0 && head_dim % 2 == 0, "the rotary embedding's head_dim is ", head_dim,
                ", expected a positive even number");
        require(theta > 0 && std::isfinite(theta), "the rotary embedding's theta is ", theta,
                ", expected a positive number");
        const auto frequencies = std::make_shared<std::vector<float>>(static_cast<std::size_t>(head_dim / 2));
        for (std::size_t i = 0; i < frequencies->size(); ++i)
            (*frequencies)[i] = frequency(static_cast<Index>(i), head_dim, theta);
        frequencies_ = device_.matrix(HostMatrix<float>{{frequencies->data(), 1, head_dim / 2}, frequencies});
    }

    /// x [tokens, heads * head_dim], the first token at `position`, in place, for any number of heads.
    /// Throws Error where a row is no whole number of heads.
    void forward(MatrixView<A> x, Index position, typename D::Workspace& workspace) const {
        const TokenRun run{.position = position, .tokens = x.rows()};
        forward(x, std::span(&run, 1), workspace);
    }

    /// The same for several sequences, `most_sequences` at most: each run has the rows after those of the run before.
    void forward(MatrixView<A> x, std::span<const TokenRun> runs, typename D::Workspace& workspace) const {
        require(x.cols() % head_dim_ == 0, "rows of ", x.cols(),
                " elements were to be rotated, expected a multiple of ", head_dim_);
        for (const TokenRun& run : runs)
            require(run.position >= 0, "position ", run.position, " was to be rotated, expected none below 0");
        device_.rotate(x, runs, frequencies_, pairing_, workspace);
    }

    [[nodiscard]] Index head_dim() const { return head_dim_; }

  private:
    /// theta^(-2 i / head_dim), rounded where the reference rounds: exponent, power and reciprocal are binary32.
    static float frequency(Index i, Index head_dim, double theta) {
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
        return 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    }

    D device_;
    Index head_dim_;
    RotaryPairing pairing_;
    typename D::template Matrix<float> frequencies_;  // [1, head_dim / 2]
};

}  // namespace mistral
