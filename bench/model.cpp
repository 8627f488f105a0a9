// Models of Mistral 7B's size in memory: tokens one by one and a few at a time, prompts, and long contexts.

#include "suite.hpp"
#include "synthetic.hpp"
#include "work.hpp"

#include <mistral/model/mistral_model.hpp>

#include <algorithm>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace bench {
namespace {

using mistral::concat;
using mistral::no_window;
using mistral::Scalar;

constexpr Index window = 4096;
constexpr int pairs = 11;  // of passes to compare

/// A pass over some tokens somewhere in a text, or in each of several. All of few tokens want their logits, as drafts
/// do; of a prompt only the last one does.
struct Pass {
    Index position;
    Index tokens;
    Index sequences = 1;

    [[nodiscard]] Index logits() const { return tokens <= 16 ? tokens : 1; }
};

/// A model and sequences on it that are put wherever a row wants them. Models of as many layers share their weights
/// while rows of their format follow each other.
template <Scalar S>
class Sequences {
  public:
    Sequences(const Config& config, Index context, ActivationPrecision precision, Index count = 1)
        : weights_(shared(concat("model/", mistral::ScalarTraits<S>::name, '/', config.layers),
                          [&] { return synthetic_weights<S>(config); })),
          model_(Cpu({.threads = machine().threads, .activation_precision = precision}), config, weights_),
          precision_(precision) {
        for (Index i = 0; i < count; ++i) states_.push_back(full_state(model_.device(), config, context));
    }

    void forward(const Pass& pass) {
        for (State& state : states_) put_at(state, pass.position);
        compute(pass.tokens, pass.logits(), pass.sequences);
    }

    /// A text from its beginning, in the chunks that sessions cut it into, without its logits.
    void prefill(Index tokens) {
        put_at(states_.front(), 0);
        for (Index done = 0; done < tokens; done += chunk) compute(std::min(chunk, tokens - done), 0, 1);
    }

    [[nodiscard]] Work work(const Pass& pass) const {
        return work(pass.position, pass.tokens, pass.logits(), pass.sequences);
    }
    /// Of all but the last layer everything, of that the keys and values, and the rest for tokens that want logits.
    [[nodiscard]] Work work(Index position, Index tokens, Index logits, Index sequences = 1) const {
        Work total;
        for (const auto& block : weights_.blocks) {
            for (const auto* map : {&block.attention.key, &block.attention.value})
                total = total + linear_work<S>(*map, sequences * tokens, precision_);
            const Index outputs = &block == &weights_.blocks.back() ? logits : tokens;
            if (outputs == 0) continue;
            for (const auto* map : {&block.attention.query, &block.attention.output, &block.feed_forward.gate,
                                    &block.feed_forward.up, &block.feed_forward.down})
                total = total + linear_work<S>(*map, sequences * outputs, precision_);
            const Work attention = attention_work(model_.config().shape(0), position + tokens - outputs, outputs);
            total = total + static_cast<double>(sequences) * attention;
        }
        return logits == 0 ? total : total + linear_work<S>(weights_.output, sequences * logits, precision_);
    }

  private:
    static constexpr Index chunk = 512;

    void compute(Index count, Index logits, Index sequences) {
        const Index vocab = model_.config().vocab_size;
        const auto tokens = synthetic_tokens(count);
        logits_.resize(static_cast<std::size_t>(sequences * logits * vocab));
        std::vector<typename mistral::MistralModel<S>::template SequenceChunk<bfloat16>> chunks;
        for (Index i = 0; i < sequences; ++i)
            chunks.push_back({.tokens = tokens,
                              .state = &states_[static_cast<std::size_t>(i)],
                              .logits = {logits_.data() + i * logits * vocab, logits, vocab}});
        model_.forward(std::span<const typename decltype(chunks)::value_type>(chunks));
    }

    const mistral::ModelWeights<S, Cpu>& weights_;
    mistral::MistralModel<S> model_;
    std::vector<State> states_;
    ActivationPrecision precision_;
    std::vector<float> logits_;
};

template <Scalar S>
void run(benchmark::State& state, Pass pass, Index size, Index context, ActivationPrecision precision) {
    Sequences<S> sequence(mistral_7b(32, size), context, precision);
    sequence.forward({pass.position, 1});  // not timed: brings threads, scratch memory and caches to life
    measure(state, sequence.work(pass), pass.tokens, [&] { sequence.forward(pass); });
}

/// The same, with another pass in turn, so that whatever disturbs the machine meets both. The counter `name` tells how
/// many times the other's time the row took: the median of these ratios.
template <Scalar S>
void compare(benchmark::State& state, Pass pass, Pass other, const char* name,
             ActivationPrecision precision = ActivationPrecision::precise) {
    const Index context = pass.sequences == 1 ? no_window : 2 * pass.position;  // so that all have room in memory
    Sequences<S> sequences(mistral_7b(), context, precision, pass.sequences);
    const auto time = [&](const Pass& p) {
        const Stopwatch stopwatch;
        sequences.forward(p);
        return stopwatch.seconds();
    };
    time(pass);
    LimitWatch watch(sequences.work(pass));
    std::vector<double> ratios;
    for (auto _ : state) {
        const double seconds = time(pass);
        watch.add(seconds, state);
        state.PauseTiming();
        ratios.push_back(seconds / time(other));
        state.ResumeTiming();
    }
    watch.report(state, pass.sequences * pass.tokens);
    state.counters[name] = median(ratios);
}

template <Scalar S>
void add_prompt(const char* suffix, ActivationPrecision precision) {
    constexpr Index tokens = 512;
    add_row(concat("model/", mistral::ScalarTraits<S>::name, "/prefill/tokens:", tokens, suffix),
            [=](benchmark::State& state) {
                run<S>(state, {0, tokens}, window, no_window, precision);
            })
        ->Iterations(3);
}

template <Scalar S>
void add_decode(Index position, Index size, Index context) {
    constexpr int steps = 11;
    add_row(concat("model/", mistral::ScalarTraits<S>::name, "/decode/position:", position,
                   "/window:", size == no_window ? 0 : size),
            [=](benchmark::State& state) {
                run<S>(state, {position, 1}, size, context, ActivationPrecision::precise);
            })
        ->Iterations(steps);
}

template <Scalar S>
void add_step(const char* suffix, ActivationPrecision precision) {
    add_row(concat("model/", mistral::ScalarTraits<S>::name, "/step/tokens:8", suffix), [=](benchmark::State& state) {
        compare<S>(state, {0, 8}, {0, 1}, "over_one_token", precision);
    })->Iterations(pairs);
}

/// A token of each of several texts, as servers compute them.
template <Scalar S>
void add_batch(Index sequences) {
    add_row(concat("model/", mistral::ScalarTraits<S>::name, "/batch/sequences:", sequences),
            [=](benchmark::State& state) {
                compare<S>(state, {512, 1, sequences}, {512, 1}, "over_one_sequence");
            })
        ->Iterations(pairs);
}

template <Scalar S>
void add_model() {
    const auto name = concat("model/", mistral::ScalarTraits<S>::name);
    add_decode<S>(0, window, no_window);
    add_decode<S>(window, window, no_window);
    add_row(concat(name, "/decode/position:100000/window:", window), [](benchmark::State& state) {
        compare<S>(state, {100'000, 1}, {5'000, 1}, "over_position_5000");
    })->Iterations(pairs);
    if constexpr (mistral::QuantizedScalar<S>) {
        add_step<S>("/fast", ActivationPrecision::fast);
        add_prompt<S>("/fast", ActivationPrecision::fast);
        add_prompt<S>("/balanced", ActivationPrecision::balanced);
    }
    add_step<S>("", ActivationPrecision::precise);
    add_batch<S>(8);
    add_prompt<S>("", ActivationPrecision::precise);
}

/// A whole text through one of the 32 layers, which are alike, and the keys and values of another, which is all that
/// the last one has to do for it: all of them would take minutes.
void add_long_prompt(Index tokens, Index size) {
    add_row(concat("layer/bfloat16/prefill/tokens:", tokens, "/window:", size == no_window ? 0 : size),
            [=](benchmark::State& state) {
                Sequences<bfloat16> sequence(mistral_7b(2, size), std::max(tokens, window),
                                             ActivationPrecision::precise);
                sequence.prefill(512);  // not timed
                measure(state, sequence.work(0, tokens, 0), tokens, [&] { sequence.prefill(tokens); });
            })
        ->Iterations(tokens <= 2048 ? 4 : 1);
}

}  // namespace

void add_models() {
    add_model<bfloat16>();
    add_model<mistral::Q8>();
    add_model<mistral::Q4>();
    for (const Index position : {1024, 2048, 8192, 16384, 30000, 65536, 131072})
        add_decode<mistral::Q4>(position, window, no_window);
    constexpr Index context = 32768;
    for (const Index position : {1024, 4096, 8192, 16384, 30000}) add_decode<mistral::Q4>(position, no_window, context);
    for (const Index size : {window, no_window})
        for (Index tokens = 512; tokens <= context; tokens *= 4) add_long_prompt(tokens, size);
}

}  // namespace bench
