// Attention by itself, with the heads of one layer of Mistral 7B: a token over a full window, and chunks of a prompt
// that end at longer and longer texts.

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

/// `tokens` at `position` over caches used in turn, as the layers of a model are.
void run(benchmark::State& state, const Shape& shape, Index position, Index tokens, Index layers) {
    const Cpu device(machine().threads);
    const Index context = position + tokens;
    auto& caches = shared(mistral::concat("caches", shape.window, '/', shape.head_dim, '/', context, '/', layers), [&] {
        std::vector<Cache> all;
        for (Index layer = 0; layer < layers; ++layer) {
            all.emplace_back(device, shape,
                             mistral::CacheLimits{.context = shape.window == no_window ? context : no_window});
            fill(all.back());
        }
        return all;
    });
    const mistral::SlidingWindowAttention<bfloat16, Cpu> attention(device, shape);
    const Index query_size = shape.query_heads * shape.head_dim;
    const Index key_size = shape.kv_heads * shape.head_dim;
    std::vector<float> queries(static_cast<std::size_t>(tokens * query_size));
    std::vector<float> keys(static_cast<std::size_t>(tokens * key_size));
    std::vector<float> out(queries.size());
    fill(queries.data(), tokens * query_size);
    fill(keys.data(), tokens * key_size);
    Cpu::Workspace workspace;
    std::size_t turn = 0;
    measure(state, attention_work(shape, position, tokens), tokens, [&] {
        Cache& cache = caches[turn++ % caches.size()];
        put_at(cache, position);
        attention.forward({queries.data(), tokens, query_size}, {keys.data(), tokens, key_size},
                          {keys.data(), tokens, key_size}, cache, {out.data(), tokens, query_size}, workspace);
    });
}

}  // namespace

void add_attention() {
    constexpr Index layers = 32;
    constexpr Index chunk = 512;
    for (const Index head_dim : {64, 128}) {
        const auto shape = [=](Index size) {
            return Shape{.window = size, .query_heads = 32, .kv_heads = 8, .head_dim = head_dim};
        };
        add_row(mistral::concat("attention/decode/keys:", window, "/head_dim:", head_dim),
                [=](benchmark::State& state) { run(state, shape(window), window, 1, layers); });
        for (const Index size : {window, no_window})
            for (Index tokens = chunk; tokens <= 32768; tokens *= 4)
                add_row(mistral::concat("attention/last_chunk/tokens:", tokens,
                                        "/window:", size == no_window ? 0 : size, "/head_dim:", head_dim),
                        [=](benchmark::State& state) { run(state, shape(size), tokens - chunk, chunk, 1); });
    }
}

}  // namespace bench
