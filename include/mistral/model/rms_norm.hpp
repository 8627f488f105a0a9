#pragma once

#include <mistral/base/error.hpp>
#include <mistral/device/device.hpp>

#include <utility>

namespace mistral {

/// Root mean square layer normalisation: x / sqrt(mean(x²) + eps) * weight (arXiv:1910.07467, equation 4).
template <Scalar S, class D>
class RMSNorm {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// weight [1, hidden_size]. Throws Error for another shape and for an eps that is not in [0, 1).
    RMSNorm(D device, typename D::template Matrix<A> weight, double eps)
        : device_(std::move(device)), weight_(std::move(weight)), eps_(eps) {
        require(weight_.rows() == 1 && weight_.cols() > 0, "the norm's weight is [", weight_.rows(), ", ",
                weight_.cols(), "], expected [1, hidden_size]");
        require(0 <= eps && eps < 1, "the norm's eps is ", eps, ", expected a number in [0, 1)");
    }

    /// x [tokens, hidden_size] -> out [tokens, hidden_size], which may be x. Throws Error for another width.
    void forward(MatrixView<const A> x, MatrixView<A> out, typename D::Workspace& workspace) const {
        require(x.cols() == weight_.cols() && out.rows() == x.rows() && out.cols() == x.cols(), "the norm of [",
                x.rows(), ", ", x.cols(), "] into [", out.rows(), ", ", out.cols(), "], expected rows of ",
                weight_.cols(), " elements");
        device_.rms_norm(x, weight_, eps_, out, workspace);
    }

    [[nodiscard]] Index hidden_size() const { return weight_.cols(); }

  private:
    D device_;
    typename D::template Matrix<A> weight_;
    double eps_;
};

}  // namespace mistral
