#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <utility>

/// Linear maps. Every output is one dot product whose order of summation depends on nothing but the number of inputs,
/// so that the same token gives the same bits alone or in a chunk, on any number of threads.
namespace mistral::cpu {

/// The dot products of `rows` weight rows with `tokens` packed activation rows over whole steps, in registers.
/// weights: row r starts at weights + r * weight_stride; x: row t starts at x + t * x_stride.
template <class S, class Architecture, int rows, int tokens>
struct DotTile {
    using A = Activation<S>;
    using Lanes = WeightLanes<S, Architecture>;
    using Vector = Batch<A, Architecture>;

    Vector sums[rows][tokens];

    DotTile() {
        for (auto& row : sums)
            for (Vector& sum : row) sum = Vector(A(0));
    }

    void accumulate(const S* weights, Index weight_stride, const A* x, Index x_stride, Index steps) {
        for (Index step = 0; step < steps; ++step, weights += Lanes::step, x += Lanes::step)
            add(weights, weight_stride, x, x_stride);
    }

    void add(const S* weights, Index weight_stride, const A* x, Index x_stride) {
        constexpr Index part = Lanes::step / Lanes::parts;
        for (int r = 0; r < rows; ++r) {
            const auto vectors = Lanes::load(weights + r * weight_stride);
            for (Index p = 0; p < Lanes::parts; ++p)
                for (int t = 0; t < tokens; ++t)
                    sums[r][t] = xsimd::fma(vectors[static_cast<std::size_t>(p)],
                                            Vector::load_unaligned(x + t * x_stride + p * part), sums[r][t]);
        }
    }
};

/// The sizes of the register tile: as many sums as leave registers for the operands.
template <class Architecture>
struct TileSize {
    static constexpr bool many_registers = lanes<float, Architecture> >= 16;  // AVX-512 has 32, the others 16
    static constexpr int rows = 4;
    static constexpr int tokens = many_registers ? 6 : 2;
    static constexpr int rows_of_one_token = 8;
};

/// out(t, r) = or += the dot product of x's row t and the weights' row r, for r in first_row … last_row - 1.
/// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs].
template <class S, class Architecture>
class RowBlock {
  public:
    using A = Activation<S>;
    using Lanes = WeightLanes<S, Architecture>;

    RowBlock(MatrixView<const S> weights, MatrixView<const A> x, MatrixView<A> out, Update update)
        : weights_(weights), x_(x), out_(out), update_(update), steps_(weights.cols() / Lanes::step) {}

    void run(Index first_row, Index last_row, Index first_token, Index last_token) const {
        using Size = TileSize<Architecture>;
        Index token = first_token;
        for (; token + Size::tokens <= last_token; token += Size::tokens)
            all_rows<Size::rows, Size::tokens>(first_row, last_row, token);
        for (; token < last_token; ++token) all_rows<Size::rows_of_one_token, 1>(first_row, last_row, token);
    }

  private:
    template <int rows, int tokens>
    void all_rows(Index first_row, Index last_row, Index token) const {
        Index row = first_row;
        for (; row + rows <= last_row; row += rows) tile<rows, tokens>(row, token);
        for (; row < last_row; ++row) tile<1, tokens>(row, token);
    }

    template <int rows, int tokens>
    void tile(Index row, Index token) const {
        DotTile<S, Architecture, rows, tokens> dot;
        const S* weights = weights_.row(row);
        const A* x = x_.row(token);
        dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_);
        if (const Index done = steps_ * Lanes::step; done < weights_.cols()) {
            std::array<S, static_cast<std::size_t>(rows * Lanes::step)> last{};
            for (Index r = 0; r < rows; ++r)
                std::copy_n(weights + r * weights_.stride() + done, weights_.cols() - done,
                            last.data() + r * Lanes::step);
            dot.add(last.data(), Lanes::step, x + done, x_.stride());
        }
        for (int r = 0; r < rows; ++r)
            for (int t = 0; t < tokens; ++t) {
                A& out = out_(token + t, row + r);
                const A value = sum(dot.sums[r][t]);
                out = update_ == Update::add ? out + value : value;
            }
    }

    MatrixView<const S> weights_;
    MatrixView<const A> x_;
    MatrixView<A> out_;
    Update update_;
    Index steps_;
};

/// x [tokens, inputs], weights [outputs, inputs] -> out [tokens, outputs].
template <class Architecture, class S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x, MatrixView<const S> weights,
              MatrixView<Activation<S>> out, Update update, Workspace& workspace) {
    using A = Activation<S>;
    constexpr Index tokens_to_pack = 16;
    constexpr Index tokens_per_block = 96;
    constexpr Index bytes_per_block = 256 * 1024;  // of weights: what stays in a core's L2 while tokens pass

    auto frame = workspace.frame();
    const auto packed = frame.template matrix<A>(x.rows(), padded_to_steps<S, Architecture>(x.cols()));
    pool.for_each((x.rows() + tokens_to_pack - 1) / tokens_to_pack, [&](Index, Index i) noexcept {
        for (Index t = i * tokens_to_pack; t < std::min(x.rows(), (i + 1) * tokens_to_pack); ++t)
            pack<S, Architecture>(x.row(t), x.cols(), packed.row(t));
    });

    constexpr Index multiple = TileSize<Architecture>::rows_of_one_token;
    const Index row_bytes = std::max<Index>(1, weights.cols() * static_cast<Index>(sizeof(S)));
    const Index rows_per_block = std::max<Index>(multiple, bytes_per_block / row_bytes / multiple * multiple);
    const Index row_blocks = (weights.rows() + rows_per_block - 1) / rows_per_block;
    const Index token_blocks = (x.rows() + tokens_per_block - 1) / tokens_per_block;
    const RowBlock<S, Architecture> block(weights, packed, out, update);
    pool.for_each(row_blocks * token_blocks, [&](Index, Index i) noexcept {
        const Index row = i / token_blocks * rows_per_block;
        const Index token = i % token_blocks * tokens_per_block;
        block.run(row, std::min(weights.rows(), row + rows_per_block), token,
                  std::min(x.rows(), token + tokens_per_block));
    });
}

/// The same in double precision through Eigen: the library's own reference, without a kernel of ours.
template <class Architecture, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const double> x, MatrixView<const double> weights, MatrixView<double> out,
              Update update, Workspace&) {
    using Row = Eigen::Map<const Eigen::VectorXd>;
    pool.for_each(x.rows(), [&](Index, Index t) noexcept {
        for (Index r = 0; r < weights.rows(); ++r) {
            const double value = Row(x.row(t), x.cols()).dot(Row(weights.row(r), weights.cols()));
            out(t, r) = update == Update::add ? out(t, r) + value : value;
        }
    });
}

}  // namespace mistral::cpu
