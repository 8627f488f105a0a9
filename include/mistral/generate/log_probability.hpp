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

/// Fills `best` with make(token) for the `count` tokens that are the best by `better`, the best first; fewer where the
/// vocabulary is smaller. What `better` prefers must have no smaller logit, and elements have their `token`. Allocates
/// nothing once `best` has room for them.
template <class A, class T, class Make, class Better>
void find_best(std::span<const A> logits, Index count, std::vector<T>& best, Make make, Better better) {
    best.clear();
    if (count == 0) return;
    A least = -std::numeric_limits<A>::infinity();
    for_each_at_least(logits, least, [&](std::size_t i) {
        const T next = make(static_cast<Token>(i));
        if (static_cast<Index>(best.size()) == count) {  // a heap, the worst in front
            if (!better(next, best.front())) return least;
            std::pop_heap(best.begin(), best.end(), better);
            best.pop_back();
        }
        best.push_back(next);
        std::push_heap(best.begin(), best.end(), better);
        if (static_cast<Index>(best.size()) == count) least = logits[static_cast<std::size_t>(best.front().token)];
        return least;
    });
    std::sort_heap(best.begin(), best.end(), better);
}

/// Fills `best` with the `count` most likely tokens, the most likely first, equal ones in the order of their ids, as
/// find_best does.
template <class A>
void most_likely(std::span<const A> logits, double log_sum, Index count, std::vector<TokenLogprob>& best) {
    const auto of_token = [&](Token token) {
        return TokenLogprob{token, static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum};
    };
    find_best(logits, count, best, of_token, [](const TokenLogprob& a, const TokenLogprob& b) {
        return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
    });
}

}  // namespace mistral
