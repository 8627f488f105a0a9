// Attention by itself, with the heads of one layer of Mistral 7B: a token over a full window, the last chunk of longer
// and longer texts, and whole texts.

#include "suite.hpp"
#include "synthetic.hpp"
#include "work.hpp"

#include <mistral/model/sliding_window_attention.hpp>

#include <string>
#include <vector>

namespace bench {
namespace {

using mistral::no_window;
using mistral::Shape;

constexpr Index window = 4096;
constexpr Index chunk = 512;

/// The attention of one layer, over caches used in turn, as the layers of a model are.
class Layer {
  public:
    Layer(const Shape& shape, Index context, Index caches)
        : shape_(shape),
          device_(machine().threads),
          caches_(shared(mistral::concat("caches", shape.window, '/', shape.head_dim, '/', context, '/', caches),
                         [&] { return make_caches(context, caches); })),
          attention_(device_, shape) {}

    void forward(Index position, Index tokens) {
        const Index query_size = shape_.query_heads * shape_.head_dim;
        const Index key_size = shape_.kv_heads * shape_.head_dim;
        if (static_cast<Index>(queries_.size()) < tokens * query_size) {
            queries_.resize(static_cast<std::size_t>(tokens * query_size));
            keys_.resize(static_cast<std::size_t>(tokens * key_size));
            out_.resize(queries_.size());
            fill(queries_.data(), tokens * query_size);
            fill(keys_.data(), tokens * key_size);
        }
        Cache& cache = caches_[turn_++ % caches_.size()];
        put_at(cache, position);
        const MatrixView<const float> keys(keys_.data(), tokens, key_size);
        attention_.forward({queries_.data(), tokens, query_size}, keys, keys, cache, {out_.data(), tokens, query_size},
                           workspace_);
    }

  private:
    [[nodiscard]] std::vector<Cache> make_caches(Index context, Index count) const {
        std::vector<Cache> all;
        for (Index i = 0; i < count; ++i) {
            all.emplace_back(device_, shape_,
                             mistral::CacheLimits{.context = shape_.window == no_window ? context : no_window});
            fill(all.back());
        }
        return all;
    }

    Shape shape_;
    Cpu device_;
    std::vector<Cache>& caches_;
    mistral::SlidingWindowAttention<bfloat16, Cpu> attention_;
    std::vector<float> queries_, keys_, out_;
    Cpu::Workspace workspace_;
    std::size_t turn_ = 0;
};

/// `tokens` at `position`.
void run_chunk(benchmark::State& state, const Shape& shape, Index position, Index tokens, Index caches) {
    Layer layer(shape, position + tokens, caches);
    measure(state, attention_work(shape, position, tokens), tokens, [&] { layer.forward(position, tokens); });
}

/// A text from its beginning, in chunks.
void run_text(benchmark::State& state, const Shape& shape, Index tokens) {
    Layer layer(shape, tokens, 1);
    measure(state, attention_work(shape, 0, tokens), tokens, [&] {
        for (Index done = 0; done < tokens; done += chunk) layer.forward(done, chunk);
    });
}

}  // namespace

void add_attention() {
    constexpr Index layers = 32;
    const auto shape = [](Index size, Index head_dim) {
        return Shape{.window = size, .query_heads = 32, .kv_heads = 8, .head_dim = head_dim};
    };
    const auto suffix = [](Index tokens, Index size, Index head_dim) {
        return mistral::concat("/tokens:", tokens, "/window:", size == no_window ? 0 : size, "/head_dim:", head_dim);
    };
    for (const Index head_dim : {64, 128}) {
        add_row(mistral::concat("attention/decode/keys:", window, "/head_dim:", head_dim),
                [=](benchmark::State& state) { run_chunk(state, shape(window, head_dim), window, 1, layers); });
        for (const Index size : {window, no_window})
            for (Index tokens = chunk; tokens <= 32768; tokens *= 8)
                add_row("attention/last_chunk" + suffix(tokens, size, head_dim), [=](benchmark::State& state) {
                    run_chunk(state, shape(size, head_dim), tokens - chunk, chunk, 1);
                });
    }
    constexpr Index head_dim = 128;
    for (const Index tokens : {16384, 32768})
        for (const Index size : {window, no_window})
            add_row("attention/text" + suffix(tokens, size, head_dim), [=](benchmark::State& state) {
                run_text(state, shape(size, head_dim), tokens);
            })->Iterations(1);
}

}  // namespace bench
