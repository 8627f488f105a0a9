#pragma once

#include <mistral/base/types.hpp>
#include <mistral/generate/logits.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace mistral {

/// A token and the natural logarithm of its probability.
struct TokenLogprob {
    Token token = 0;
    double logprob = 0;

    friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

/// The log-probabilities that a model gives to a text's tokens.
struct Scores {
    /// ln p(token | all before it), one per token that has any before it: a text at the start of a session yields one
    /// fewer than it has tokens.
    std::vector<double> logprobs;

    /// Mean negative log-likelihood in nats per token; exp of it is the perplexity. NaN without tokens.
    [[nodiscard]] double mean_nll() const {
        double sum = 0;
        for (const double logprob : logprobs) sum -= logprob;
        return sum / static_cast<double>(logprobs.size());
    }
};

/// ln Σ exp(logit), the number that turns logits into log-probabilities by subtraction. Throws Error for a NaN or
/// +infinity among the logits, and where all are -infinity.
template <class A>
[[nodiscard]] double log_sum_exp(std::span<const A> logits) {
    const A largest = largest_logit(logits);
    return static_cast<double>(largest) + std::log(sum_of_exponentials(logits, largest, 1));
}

/// ln p(token). Throws Error as above.
template <class A>
[[nodiscard]] double log_probability(std::span<const A> logits, Token token) {
    return static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum_exp(logits);
}

/// Adds `next` to a heap of the `count` best elements so far, with the worst of them in front, unless it is worse.
/// Returns whether there are so many now.
template <class T, class Better>
bool keep_best(std::vector<T>& heap, const T& next, Index count, Better better) {
    if (static_cast<Index>(heap.size()) == count) {
        if (!better(next, heap.front())) return true;
        std::pop_heap(heap.begin(), heap.end(), better);
        heap.pop_back();
    }
    heap.push_back(next);
    std::push_heap(heap.begin(), heap.end(), better);
    return static_cast<Index>(heap.size()) == count;
}

/// Fills `best` with the `count` most likely tokens, the most likely first, equal ones in the order of their ids, and
/// fewer where the vocabulary is smaller. Allocates nothing once `best` has room for them.
template <class A>
void most_likely(std::span<const A> logits, double log_sum, Index count, std::vector<TokenLogprob>& best) {
    const auto more_likely = [](const TokenLogprob& a, const TokenLogprob& b) {
        return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
    };
    best.clear();
    if (count == 0) return;
    A least = -std::numeric_limits<A>::infinity();
    for_each_at_least(logits, least, [&](std::size_t i) {
        if (keep_best(best, {static_cast<Token>(i), static_cast<double>(logits[i]) - log_sum}, count, more_likely))
            least = logits[static_cast<std::size_t>(best.front().token)];
        return least;
    });
    std::sort_heap(best.begin(), best.end(), more_likely);
}

}  // namespace mistral
