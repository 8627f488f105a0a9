#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/device/cpu/cpu.hpp>
#include <mistral/device/device.hpp>
#include <mistral/fwd.hpp>
#include <mistral/model/linear.hpp>
#include <mistral/model/mistral_block.hpp>
#include <mistral/model/rms_norm.hpp>
#include <mistral/model/rotary_embedding.hpp>
#include <mistral/model/sequence_state.hpp>
#include <mistral/model/weights.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace mistral {

struct LoadOptions;

/// A Mistral model (arXiv:2310.06825): embedding, decoder blocks, norm, output projection. S is the scalar of the
/// weights, `fixed` what is known of the attention's geometry at compile time. Immutable once made; any number of
/// sequences on any threads share it. Copies share the weights.
template <Scalar S, class D, Shape fixed>
class MistralModel {
    static_assert(Device<D>);

  public:
    using WeightScalar = S;
    using DeviceType = D;
    using A = Activation<S>;
    template <class C>
    using State = SequenceState<C, D, fixed>;

    /// Opens a checkpoint directory, Hugging Face's (config.json) or Mistral's own (params.json). Weights that are of
    /// type S on disk stay there, mapped; others are converted. Throws Error where something is missing, damaged,
    /// contradictory or not supported, and Cancelled where the options' stop token asks for it.
    /// Defined in <mistral/checkpoint/load.hpp>.
    static MistralModel load(const std::filesystem::path& directory, D device, const LoadOptions& options);
    static MistralModel load(const std::filesystem::path& directory, D device = D());

    /// Throws Error where weights, config and the fixed shape contradict each other.
    MistralModel(D device, Config config, ModelWeights<S, D> weights)
        : device_(std::move(device)),
          config_(std::move(config)),
          embedding_(std::move(weights.embedding)),
          norm_(device_, std::move(weights.norm), config_.norm_eps),
          output_(device_, std::move(weights.output), config_.vocab_size, config_.hidden_size, "output") {
        require(embedding_.rows() == config_.vocab_size && embedding_.cols() == config_.hidden_size,
                "the embedding is [", embedding_.rows(), ", ", embedding_.cols(), "], expected [", config_.vocab_size,
                ", ", config_.hidden_size, "]");
        require(static_cast<Index>(weights.blocks.size()) == config_.layers, "there are weights of ",
                weights.blocks.size(), " layers, expected ", config_.layers);
        require(config_.layers > 0, "the model has ", config_.layers, " layers, expected one or more");
        require(!config_.windows.empty(), "the config has no windows, expected one or more");
        const RotaryEmbedding<S, D> rotary(device_, config_.head_dim, config_.rope_theta, config_.rotary_pairing);
        blocks_.reserve(weights.blocks.size());
        for (Index layer = 0; layer < config_.layers; ++layer) {
            blocks_.emplace_back(device_, std::move(weights.blocks[static_cast<std::size_t>(layer)]), rotary,
                                 config_.norm_eps, config_.shape(layer));
            expect_hidden_size("block", blocks_.back().hidden_size());
        }
        expect_hidden_size("norm", norm_.hidden_size());
    }

    [[nodiscard]] const Config& config() const { return config_; }
    [[nodiscard]] const D& device() const { return device_; }

    /// Runs `tokens` at the positions from state.position() on. logits [n, vocab_size], with n <= tokens, receives
    /// those of the last n tokens; with n = 0 none are computed. Throws Error for a token outside the vocabulary, wrong
    /// shapes, a state of another geometry or with smaller windows, and a full context, before anything is changed.
    template <class C>
    void forward(std::span<const Token> tokens, State<C>& state, MatrixView<A> logits) const {
        const SequenceChunk<C> chunk{tokens, &state, logits};
        forward(std::span(&chunk, 1));
    }

    /// What one sequence has in a pass of several.
    template <class C>
    struct SequenceChunk {
        std::span<const Token> tokens;
        State<C>* state = nullptr;
        MatrixView<A> logits;  ///< [n, vocab_size], n <= tokens
    };

    /// The same for chunks of several sequences in one pass, which reads the weights once for all of them. They have
    /// their positions and caches each, and no padding. Throws Error also where two chunks are of one state.
    template <class C>
    void forward(std::span<const SequenceChunk<C>> chunks) const {
        if (chunks.empty()) return;
        check(chunks);
        Index tokens = 0, wanted = 0;
        for (const auto& chunk : chunks) {
            tokens += static_cast<Index>(chunk.tokens.size());
            wanted += chunk.logits.rows();
        }
        if (tokens == 0) return;
        auto& workspace = chunks.front().state->workspace();
        auto frame = workspace.frame();
        const auto x = frame.template matrix<A>(tokens, config_.hidden_size);
        const auto ids = frame.template matrix<Token>(1, tokens);
        Index first = 0;
        for (const auto& chunk : chunks) {
            const MatrixView<const Token> row(chunk.tokens.data(), 1, static_cast<Index>(chunk.tokens.size()));
            device_.copy_in(row, MatrixView<Token>(ids.data() + first, 1, row.cols()), workspace);
            first += row.cols();
        }
        const auto scores = frame.template matrix<A>(wanted, config_.vocab_size);
        const auto body = [&] { compute(ids, chunks, x, scores); };
        if (is_step(chunks, wanted))
            perform(chunks, wanted, body);
        else
            body();
        Index row = 0;
        for (const auto& chunk : chunks) {
            const Index rows = chunk.logits.rows();
            if (rows > 0) device_.copy_out(MatrixView<const A>(scores.middle_rows(row, rows)), chunk.logits, workspace);
            row += rows;
        }
        device_.finish(workspace);
    }

    /// Whether both are copies of one model, so that sequences of theirs can be computed in one pass.
    [[nodiscard]] bool shares_weights_with(const MistralModel& other) const { return identity_ == other.identity_; }

  private:
    /// Whether the pass is over one token of each sequence, as generation repeats it, and every verb that takes runs
    /// takes all of them: they are few enough, and no token parts from the others in the last layer.
    template <class C>
    [[nodiscard]] static bool is_step(std::span<const SequenceChunk<C>> chunks, Index wanted) {
        const bool together = chunks.size() == 1 || static_cast<std::size_t>(wanted) == chunks.size();
        return together && chunks.size() <= most_sequences &&
               std::all_of(chunks.begin(), chunks.end(), [](const auto& chunk) { return chunk.tokens.size() == 1; });
    }

    /// Has the device call body(), which computes a step, or do again what that did before.
    template <class C, class Body>
    void perform(std::span<const SequenceChunk<C>> chunks, Index wanted, Body&& body) const {
        std::array<Step, most_sequences> steps;
        std::transform(chunks.begin(), chunks.end(), steps.begin(), [](const auto& chunk) {
            return Step{.caches = chunk.state->identity(), .position = chunk.state->position()};
        });
        const Pass pass{.model = identity_, .steps = std::span(steps.data(), chunks.size()), .logits = wanted};
        if (device_.perform(pass, chunks.front().state->workspace(), body)) return;
        for (const auto& chunk : chunks) chunk.state->advance(1);
    }

    /// ids [1, tokens] -> of the last tokens of each chunk scores [n, vocab_size], by way of x [tokens, hidden_size].
    template <class C>
    void compute(MatrixView<const Token> ids, std::span<const SequenceChunk<C>> chunks, MatrixView<A> x,
                 MatrixView<A> scores) const {
        auto& workspace = chunks.front().state->workspace();
        device_.embed(ids, embedding_, x, workspace);
        const Index last_layer = config_.layers - 1;
        for (Index layer = 0; layer < last_layer; ++layer) {
            const auto for_each_cache = [=](auto visit) {
                for (const auto& chunk : chunks)
                    visit(chunk.state->cache(layer), static_cast<Index>(chunk.tokens.size()));
            };
            blocks_[static_cast<std::size_t>(layer)].template forward_each<C>(x, for_each_cache, workspace);
        }
        auto frame = workspace.frame();
        const auto last = append_others(chunks, x, scores.rows(), frame);
        if (scores.rows() == 0) return;
        const auto for_each_cache = [=](auto visit) {
            for (const auto& chunk : chunks)
                if (chunk.logits.rows() > 0) visit(chunk.state->cache(last_layer), chunk.logits.rows());
        };
        blocks_.back().template forward_each<C>(last, for_each_cache, workspace);
        norm_.forward(last, last, workspace);
        output_.forward(last, scores, workspace);
    }

    /// From the last layer, tokens without logits have nothing to give but their keys and values. Returns the rows of x
    /// of the `wanted` others.
    template <class C, class Frame>
    [[nodiscard]] MatrixView<A> append_others(std::span<const SequenceChunk<C>> chunks, MatrixView<A> x, Index wanted,
                                              Frame& frame) const {
        if (wanted == x.rows()) return x;
        auto& workspace = chunks.front().state->workspace();
        const bool is_alone = chunks.size() == 1;
        const auto last =
            is_alone ? x.middle_rows(x.rows() - wanted, wanted) : frame.template matrix<A>(wanted, config_.hidden_size);
        Index from = 0, to = 0;
        for (const auto& chunk : chunks) {
            const Index rows = chunk.logits.rows();
            const Index others = static_cast<Index>(chunk.tokens.size()) - rows;
            if (others > 0)
                blocks_.back().append(x.middle_rows(from, others), chunk.state->cache(config_.layers - 1), workspace);
            if (!is_alone && rows > 0)
                device_.copy(MatrixView<const A>(x.middle_rows(from + others, rows)), last.middle_rows(to, rows),
                             workspace);
            from += others + rows;
            to += rows;
        }
        return last;
    }

    void expect_hidden_size(const char* part, Index size) const {
        require(size == config_.hidden_size, "the model has a ", part, " for rows of ", size, " elements, expected ",
                config_.hidden_size);
    }

    template <class C>
    void check(std::span<const SequenceChunk<C>> chunks) const {
        for (std::size_t i = 0; i < chunks.size(); ++i) {
            check(chunks[i].tokens, *chunks[i].state, chunks[i].logits);
            for (std::size_t j = 0; j < i; ++j)
                require(chunks[i].state != chunks[j].state, "chunks ", j, " and ", i,
                        " of a pass are of the same state, expected one of each");
        }
    }

    template <class C>
    void check(std::span<const Token> tokens, const State<C>& state, MatrixView<A> logits) const {
        const auto count = static_cast<Index>(tokens.size());
        for (const Token token : tokens)
            require(token >= 0 && token < config_.vocab_size, "token ", token, " is outside the vocabulary of ",
                    config_.vocab_size);
        require(state.layers() == config_.layers, "the state has ", state.layers(), " layers, the model ",
                config_.layers);
        require(logits.rows() <= count && (logits.rows() == 0 || logits.cols() == config_.vocab_size), "logits are [",
                logits.rows(), ", ", logits.cols(), "], expected at most [", count, ", ", config_.vocab_size, "]");
        for (Index layer = 0; layer < config_.layers; ++layer) {
            const Shape& held = state.cache(layer).shape();
            const Shape needed = config_.shape(layer);
            require(held.kv_heads == needed.kv_heads && held.head_dim == needed.head_dim, "layer ", layer,
                    " of the state has ", held.kv_heads, " heads of ", held.head_dim, ", the model ", needed.kv_heads,
                    " of ", needed.head_dim);
            require(held.window >= needed.window, "layer ", layer, " of the state keeps a window of ", held.window,
                    ", the model looks back ", needed.window);
            state.cache(layer).require_room_for(count);
        }
    }

    D device_;
    Config config_;
    std::shared_ptr<const void> identity_ = std::make_shared<char>();  // of the weights, which copies share
    typename D::template Matrix<EmbeddingScalar<S>> embedding_;        // [vocab_size, hidden_size]
    std::vector<MistralBlock<S, D, fixed>> blocks_;
    RMSNorm<S, D> norm_;
    Linear<S, D> output_;  // [vocab_size, hidden_size]
};

}  // namespace mistral
