#include <mistral/model/mistral_model.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "plain_mistral.hpp"

namespace {

using namespace mistral;

/// Logits [tokens, vocab_size] of `tokens` in the given chunks, the last of which repeats until all are consumed.
template <class Model, class C = DefaultCacheScalar<typename Model::WeightScalar>>
std::vector<typename Model::A> logits_of(const Model& model, std::span<const Token> tokens,
                                         std::span<const Index> chunks,
                                         typename Model::template State<C>* given = nullptr) {
    using A = typename Model::A;
    typename Model::template State<C> fresh(model.device(), model.config());
    auto& state = given ? *given : fresh;
    const auto count = static_cast<Index>(tokens.size());
    const Index vocab = model.config().vocab_size;
    std::vector<A> logits(static_cast<std::size_t>(count * vocab));
    for (Index done = 0, i = 0; done < count; ++i) {
        const Index chunk = chunks[static_cast<std::size_t>(std::min(i, static_cast<Index>(chunks.size()) - 1))];
        const Index n = std::min(chunk, count - done);
        model.template forward<C>(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)), state,
                                  {logits.data() + done * vocab, n, vocab});
        done += n;
    }
    return logits;
}

template <class A>
double relative_difference(const std::vector<A>& found, const std::vector<double>& expected) {
    REQUIRE(found.size() == expected.size());
    double difference = 0;
    double largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (!std::isfinite(found[i])) return INFINITY;
        difference = std::max(difference, std::abs(static_cast<double>(found[i]) - expected[i]));
        largest = std::max(largest, std::abs(expected[i]));
    }
    return difference / largest;
}

template <class A>
bool same_bits(const std::vector<A>& a, const std::vector<A>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(A)) == 0;
}

}  // namespace

TEST_CASE_TEMPLATE("a model of any shape computes what the paper says, one token at a time and in any chunks", S,
                   double, float, half, bfloat16) {
    // Half and bfloat16 weights are exact here; what is left is the cache's rounding, tested against the goldens. With
    // a cache of the activations' type nothing is rounded but the arithmetic.
    using A = Activation<S>;
    const double tolerance = std::same_as<A, double> ? 1e-12 : 2e-5;
    const Cpu device(2);
    const int shapes = 60;
    for (unsigned seed = 0; seed < shapes; ++seed) {
        plain::Random random(seed);
        const plain::Mistral plain(plain::random_config(random), seed + 1000);
        const auto model = plain.model<S>(device);
        const auto tokens = random.tokens(random.number(1, 90), plain.config.vocab_size);
        CAPTURE(seed);
        const std::vector<Index> ones{1};
        const auto alone = logits_of<decltype(model), A>(model, tokens, ones);
        CHECK(relative_difference(alone, plain.logits(tokens).values) < tolerance);
        for (const Index chunk : {Index{3}, random.number(2, 100), Index{1000}}) {
            const std::vector<Index> chunks{random.number(1, 5), chunk};
            CAPTURE(chunk);
            CHECK(same_bits(alone, logits_of<decltype(model), A>(model, tokens, chunks)));
        }
    }
}
