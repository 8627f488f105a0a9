#pragma once

#include <mistral/device/device.hpp>
#include <mistral/model/linear.hpp>
#include <mistral/model/weights.hpp>

#include <utility>

namespace mistral {

/// The SwiGLU feed-forward layer: down(silu(gate(x)) * up(x)) (arXiv:2002.05202, equation 6).
template <Scalar S, class D>
class FeedForward {
    static_assert(Device<D>);

  public:
    using A = Activation<S>;

    /// hidden_size and intermediate_size are what the gate says. Throws Error where another map contradicts it.
    FeedForward(D device, FeedForwardWeights<S, D> weights)
        : device_(device),
          gate_(device, weights.gate, weights.gate.rows(), weights.gate.cols(), "gate"),
          up_(device, weights.up, gate_.outputs(), gate_.inputs(), "up"),
          down_(device, weights.down, gate_.inputs(), gate_.outputs(), "down") {}

    /// x [tokens, hidden_size] -> out [tokens, hidden_size], assigned or added. Throws Error for wrong shapes.
    void forward(MatrixView<const A> x, MatrixView<A> out, typename D::Workspace& workspace,
                 Update update = Update::assign) const {
        require(x.cols() == gate_.inputs() && out.rows() == x.rows() && out.cols() == x.cols(), "feed-forward from [",
                x.rows(), ", ", x.cols(), "] to [", out.rows(), ", ", out.cols(), "], expected rows of ",
                gate_.inputs(), " elements");
        auto frame = workspace.frame();
        const auto gate = frame.template matrix<A>(x.rows(), gate_.outputs());
        const auto up = frame.template matrix<A>(x.rows(), gate_.outputs());
        device_.gate(x, gate_.to(gate), up_.to(up), workspace);
        down_.forward(gate, out, workspace, update);
    }

    [[nodiscard]] Index hidden_size() const { return gate_.inputs(); }

  private:
    D device_;
    Linear<S, D> gate_;  // [intermediate_size, hidden_size]
    Linear<S, D> up_;    // [intermediate_size, hidden_size]
    Linear<S, D> down_;  // [hidden_size, intermediate_size]
};

}  // namespace mistral
