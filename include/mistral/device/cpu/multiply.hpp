#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/device/cpu/avx512_dot.hpp>
#include <mistral/device/cpu/simd.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/device.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <span>
#include <utility>

/// Linear maps. Every output is one dot product whose order of summation depends on nothing but the number of inputs,
/// so that the same token gives the same bits alone or in a chunk, on any number of threads.
namespace mistral::cpu {

/// The dot products of `rows` weight rows with `tokens` packed activation rows over whole steps, in registers.
/// weights: row r starts at weights + r * weight_stride; x: row t starts at x + t * x_stride.
template <class S, class Architecture, std::size_t rows, std::size_t tokens>
struct DotTile {
    using Lanes = WeightLanes<S, Architecture>;
    using Packed = typename Lanes::Packed;
    using Vector = Batch<Activation<S>, Architecture>;

    Vector sums[rows][tokens];

    DotTile() {
        unroll<rows * tokens>([this](auto i) { sums[i / tokens][i % tokens] = Vector(Activation<S>(0)); });
    }

    /// With every step, asks for the `lines_ahead` cache lines that follow in `ahead`.
    void accumulate(const S* weights, Index weight_stride, const Packed* x, Index x_stride, Index steps,
                    const std::byte* ahead, int lines_ahead) {
        for (Index step = 0; step < steps; ++step, weights += Lanes::step, x += Lanes::step) {
            for (int i = 0; i < lines_ahead; ++i, ahead += cache_line) prefetch(ahead);
            add(weights, weight_stride, x, x_stride);
        }
    }

    /// Keeps the operands of the shorter side in registers, so that each is loaded once.
    void add(const S* weights, Index weight_stride, const Packed* x, Index x_stride) {
        const auto row = [=](auto r) { return Lanes::load(weights + static_cast<Index>(r) * weight_stride); };
        const auto token = [=](auto t) { return Lanes::load_packed(x + static_cast<Index>(t) * x_stride); };
        if constexpr (rows <= tokens) {
            typename Lanes::Operand kept[rows];
            unroll<rows>([&](auto r) { kept[r] = row(r); });
            unroll<tokens>([&](auto t) {
                const auto other = token(t);
                unroll<rows>([&](auto r) { sums[r][t] = multiply_add(kept[r], other, sums[r][t]); });
            });
        } else {
            typename Lanes::Operand kept[tokens];
            unroll<tokens>([&](auto t) { kept[t] = token(t); });
            unroll<rows>([&](auto r) {
                const auto other = row(r);
                unroll<tokens>([&](auto t) { sums[r][t] = multiply_add(other, kept[t], sums[r][t]); });
            });
        }
    }
};

/// The sizes of the register tile: as many sums as leave registers for the operands.
template <class Architecture>
struct TileSize {
    static constexpr bool many_registers = lanes<float, Architecture> >= 16;  // AVX-512 has 32, the others 16
    static constexpr int tokens = many_registers ? 6 : 2;

    /// Weight rows beside so many tokens: the fewer tokens, the more rows, which are so many streams from memory.
    static constexpr int rows(int tokens) {
        if (many_registers && tokens == 4) return 6;
        return tokens <= (many_registers ? 3 : 1) ? 8 : 4;
    }
    /// Memory is all for one token, and gives one long stream the fastest. Vectors must be so large that a single sum
    /// keeps up, and the token so short that it stays in L1 meanwhile.
    static constexpr bool takes_single_rows(Index token_bytes) { return many_registers && token_bytes <= 16 * 1024; }
    static constexpr int row_multiple = 24;  // holds whole tiles of any size
};

/// out(t, r) = or += the dot product of x's row t and the weights' row r, for r in first_row … last_row - 1.
/// x [tokens, padded_to_steps(inputs)] is packed. Weights [outputs, inputs].
template <class S, class Architecture>
class RowBlock {
  public:
    using A = Activation<S>;
    using Lanes = WeightLanes<S, Architecture>;
    using Packed = typename Lanes::Packed;

    RowBlock(MatrixView<const S> weights, MatrixView<const Packed> x, MatrixView<A> out, Update update)
        : weights_(weights), x_(x), out_(out), update_(update), steps_(weights.cols() / Lanes::step) {}

    /// The tokens in as few tiles as hold them, all about equally large.
    void run(Index first_row, Index last_row, Index first_token, Index last_token) const {
        constexpr Index most = TileSize<Architecture>::tokens;
        const Index tokens = last_token - first_token;
        if (tokens == 0) return;
        const Index tiles = (tokens + most - 1) / most;
        tiles_of<static_cast<int>(most)>(tokens, tiles, first_row, last_row, first_token);
    }

  private:
    /// Tiles of `most` tokens or one fewer, of the largest `most` that leaves none of them empty.
    template <int most>
    void tiles_of(Index tokens, Index tiles, Index first_row, Index last_row, Index first_token) const {
        if constexpr (most > 1)
            if (tokens <= (most - 1) * tiles)
                return tiles_of<most - 1>(tokens, tiles, first_row, last_row, first_token);
        constexpr int rows = TileSize<Architecture>::rows(most);
        const Index large = tokens - (most - 1) * tiles;
        Index row = first_row;
        if constexpr (most == 1)
            if (tiles == 1 && TileSize<Architecture>::takes_single_rows(x_.cols() * Index{sizeof(Packed)}))
                for (; row < last_row; ++row) tile<1, 1>(row, first_token, nullptr, 0);
        for (; row + rows <= last_row; row += rows) row_of_tiles<rows, most>(row, first_token, tiles, large);
        for (; row + 2 <= last_row; row += 2) row_of_tiles<2, most>(row, first_token, tiles, large);
        if (row < last_row) row_of_tiles<1, most>(row, first_token, tiles, large);
    }

    /// `rows` rows with all tokens, of which the first `large` tiles have `most` and the others one fewer. The rows
    /// that follow are fetched meanwhile, each tile a part of them: line by line beside the arithmetic of few tiles, at
    /// once before that of many. One token alone is all memory: the hardware sees what comes next.
    template <int rows, int most>
    void row_of_tiles(Index row, Index token, Index tiles, Index large) const {
        const int lines_ahead = most == 1 || tiles > 2 ? 0 : static_cast<int>(rows / tiles);
        const Index bytes = rows * weights_.stride() * static_cast<Index>(sizeof(S));
        const auto* ahead = reinterpret_cast<const std::byte*>(weights_.row(row)) + bytes;
        for (Index i = 0; i < tiles; ++i, ahead += bytes / tiles) {
            if (tiles > 2)
                for (Index offset = 0; offset < bytes / tiles; offset += cache_line) prefetch(ahead + offset);
            if (i < large) {
                tile<rows, most>(row, token, ahead, lines_ahead);
                token += most;
            } else if constexpr (most > 1) {
                tile<rows, most - 1>(row, token, ahead, lines_ahead);
                token += most - 1;
            }
        }
    }

    /// Flattened, so that at any level of optimisation the sums are registers.
    template <int rows, int tokens>
    [[gnu::flatten]] void tile(Index row, Index token, const std::byte* ahead, int lines_ahead) const {
        DotTile<S, Architecture, rows, tokens> dot;
        const S* weights = weights_.row(row);
        const Packed* x = x_.row(token);
        dot.accumulate(weights, weights_.stride(), x, x_.stride(), steps_, ahead, lines_ahead);
        if (const Index done = steps_ * Lanes::step; done < weights_.cols()) {
            std::array<S, static_cast<std::size_t>(rows * Lanes::step)> last{};
            for (Index r = 0; r < rows; ++r)
                std::copy_n(weights + r * weights_.stride() + done, weights_.cols() - done,
                            last.data() + r * Lanes::step);
            dot.add(last.data(), Lanes::step, x + done, x_.stride());
        }
        unroll<tokens>([&](auto t) {
            constexpr std::size_t fours = rows / 4;
            A* const to = &out_(token + static_cast<Index>(t), row);
            unroll<fours>([&](auto i) { write<4 * i, 4>(dot, t, to); });
            unroll<rows % 4>([&](auto i) { write<4 * fours + i, 1>(dot, t, to); });
        });
    }

    /// The dot products of `count` rows from `first` on with the tile's token t.
    template <std::size_t first, std::size_t count, class Tile>
    void write(const Tile& dot, std::size_t t, A* out) const {
        std::array<Batch<A, Architecture>, count> vectors;
        unroll<count>([&](auto i) { vectors[i] = dot.sums[first + i][t]; });
        const auto values = LaneSums<A, Architecture>::of(vectors);
        for (std::size_t i = 0; i < count; ++i)
            out[first + i] = update_ == Update::add ? out[first + i] + values[i] : values[i];
    }

    MatrixView<const S> weights_;
    MatrixView<const Packed> x_;
    MatrixView<A> out_;
    Update update_;
    Index steps_;
};

/// How a product is cut into tasks: as many tokens as stay in a core's L2 while rows pass; and rows in long stretches,
/// which memory reads faster than short ones, but so few that threads finish together. Where several tasks of tokens
/// want the same rows, these are so few that they come from a shared cache again.
struct TaskSize {
    Index tokens = 0;
    Index rows = 0;
    Index token_tasks = 0;
    Index row_tasks = 0;

    TaskSize() = default;
    TaskSize(Index threads, Index all_tokens, Index token_bytes, Index token_multiple, Index all_rows, Index row_bytes,
             Index row_multiple) {
        constexpr Index token_bytes_per_task = 352 * 1024;
        constexpr Index row_bytes_per_task = 256 * 1024;
        constexpr Index tasks_per_thread = 8;
        const auto fit = [](Index bytes, Index each, Index multiple) {
            return std::max(multiple, bytes / std::max<Index>(1, each) / multiple * multiple);
        };
        tokens = fit(token_bytes_per_task, token_bytes, token_multiple);
        token_tasks = (all_tokens + tokens - 1) / tokens;
        const Index stretch = all_rows * row_bytes / (tasks_per_thread * threads);
        rows = fit(token_tasks == 1 ? std::max(row_bytes_per_task, stretch)
                                    : row_bytes_per_task * std::min<Index>(token_tasks, 8),
                   row_bytes, row_multiple);
        row_tasks = (all_rows + rows - 1) / rows;
    }

    [[nodiscard]] Index count() const { return row_tasks * token_tasks; }
};

/// Cuts each product into tasks, size(weights) telling how, and calls body(product, first_row, first_token, size) for
/// all of them, on the pool's threads.
template <class M, class A, class Size, class Body>
void for_each_task(ThreadPool& pool, std::span<const Product<M, A>> products, Size size, Body body) {
    assert(products.size() <= most_products);
    std::array<TaskSize, most_products> sizes;
    Index tasks = 0;
    for (std::size_t i = 0; i < products.size(); ++i) {
        sizes[i] = size(products[i].weights);
        tasks += sizes[i].count();
    }
    pool.for_each(tasks, [&](Index, Index task) noexcept {
        std::size_t i = 0;
        for (; task >= sizes[i].count(); ++i) task -= sizes[i].count();
        body(products[i], task / sizes[i].token_tasks * sizes[i].rows, task % sizes[i].token_tasks * sizes[i].tokens,
             sizes[i]);
    });
}

/// x [tokens, inputs], of each product the weights [outputs, inputs] -> out [tokens, outputs].
template <class Architecture, class S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, Workspace& workspace) {
    using Packed = typename WeightLanes<S, Architecture>::Packed;
    constexpr Index tokens_to_pack = 16;
    constexpr Index row_padding = 64 / sizeof(Packed);  // rows a power of two apart would share few lines of a cache

    auto frame = workspace.frame();
    const auto packed =
        frame.template matrix<Packed>(x.rows(), padded_to_steps<S, Architecture>(x.cols()) + row_padding);
    pool.for_each((x.rows() + tokens_to_pack - 1) / tokens_to_pack, [&](Index, Index i) noexcept {
        for (Index t = i * tokens_to_pack; t < std::min(x.rows(), (i + 1) * tokens_to_pack); ++t)
            pack<S, Architecture>(x.row(t), x.cols(), packed.row(t));
    });

    using Size = TileSize<Architecture>;
    const auto size = [&](const HostMatrix<S>& weights) {
        return TaskSize(pool.threads(), x.rows(), packed.cols() * static_cast<Index>(sizeof(Packed)), Size::tokens,
                        weights.rows(), weights.view.stride() * static_cast<Index>(sizeof(S)), Size::row_multiple);
    };
    for_each_task(pool, products, size, [&](const auto& product, Index row, Index token, const TaskSize& task) {
        assert(product.weights.cols() == x.cols() && product.out.cols() == product.weights.rows());
        RowBlock<S, Architecture>(product.weights.view, packed, product.out, update)
            .run(row, std::min(product.weights.rows(), row + task.rows), token,
                 std::min(x.rows(), token + task.tokens));
    });
}

/// The same in double precision through Eigen: the library's own reference, without a kernel of ours.
template <class Architecture, std::same_as<double> S, class Workspace>
void multiply(ThreadPool& pool, MatrixView<const Activation<S>> x,
              std::span<const Product<HostMatrix<S>, Activation<S>>> products, Update update, Workspace&) {
    using Row = Eigen::Map<const Eigen::VectorXd>;
    pool.for_each(x.rows(), [&](Index, Index t) noexcept {
        for (const auto& [weights, out] : products)
            for (Index r = 0; r < weights.rows(); ++r) {
                const double value = Row(x.row(t), x.cols()).dot(Row(weights.view.row(r), weights.cols()));
                out(t, r) = update == Update::add ? out(t, r) + value : value;
            }
    });
}

}  // namespace mistral::cpu
