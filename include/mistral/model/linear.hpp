#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/device.hpp>

#include <array>
#include <cassert>
#include <utility>

namespace mistral {

/// A linear map without bias: x [tokens, inputs] -> x Wᵀ [tokens, outputs], with W [outputs, inputs] as checkpoints
/// store it.
template <Scalar S, class D>
class Linear {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// `name` says in messages which map it is. Throws Error where the weights are not [outputs, inputs].
    Linear(D device, typename D::template Matrix<S> weights, Index outputs, Index inputs, const char* name)
        : device_(std::move(device)), weights_(std::move(weights)) {
        require(weights_.rows() == outputs && weights_.cols() == inputs, "the ", name, " weights are [",
                weights_.rows(), ", ", weights_.cols(), "], expected [", outputs, ", ", inputs, "]");
    }

    /// x [tokens, inputs] -> out [tokens, outputs], assigned or added. Throws Error for wrong shapes.
    void forward(MatrixView<const A> x, MatrixView<A> out, typename D::Workspace& workspace,
                 Update update = Update::assign) const {
        require(x.cols() == inputs() && out.rows() == x.rows() && out.cols() == outputs(), "a linear map from [",
                x.rows(), ", ", x.cols(), "] to [", out.rows(), ", ", out.cols(), "], expected rows of ", inputs(),
                " and ", outputs(), " elements");
        device_.multiply(x, std::array{to(out)}, update, workspace);
    }

    /// The map as one of several of the same x [tokens, inputs], for the device to compute at once: out
    /// [tokens, outputs].
    [[nodiscard]] Product<typename D::template Matrix<S>, A> to(MatrixView<A> out) const {
        assert(out.cols() == outputs());
        return {weights_, out};
    }

    [[nodiscard]] Index inputs() const { return weights_.cols(); }
    [[nodiscard]] Index outputs() const { return weights_.rows(); }

  private:
    D device_;
    typename D::template Matrix<S> weights_;
};

}  // namespace mistral
