#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/generate/log_probability.hpp>
#include <mistral/generate/logits.hpp>
#include <mistral/generate/options.hpp>
#include <mistral/generate/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace mistral {

/// A token and its probability.
struct TokenProbability {
    Token token = 0;
    double probability = 0;
};

/// Chooses a token from logits. The steps, in the order of transformers, which is also that of Mistral's reference:
/// repetition penalty, the caller's hook, temperature, top-k, top-p (of what top-k left), min-p, one random number.
/// Of equal logits the lower token id comes first in every step. Logits are rounded to float before; after the first
/// token nothing is allocated.
class Sampler {
  public:
    /// Throws Error for an option outside its range.
    explicit Sampler(GenerateOptions options = {}) : options_(std::move(options)), random_(options_.seed) {
        validate(options_);
    }

    /// logits [vocab_size]; `recent` are the tokens that the repetition penalty is for. Throws Error where the logits,
    /// or what penalty and hook made of them, have a NaN or +infinity, or are -infinity all.
    [[nodiscard]] Token sample(std::span<const float> logits, std::span<const Token> recent = {}) {
        return sample_from(logits, recent);
    }
    [[nodiscard]] Token sample(std::span<const double> logits, std::span<const Token> recent = {}) {
        return sample_from(logits, recent);
    }

    /// The tokens that `sample` would choose from, with their probabilities after all steps: the most likely first
    /// where a step cuts some off, else in the order of ids. Draws no random number.
    [[nodiscard]] std::vector<TokenProbability> distribution(std::span<const float> logits,
                                                             std::span<const Token> recent = {}) {
        const float largest = adjust(logits, recent);
        if (options_.temperature == 0) return {{most_likely_token(largest), 1.0}};
        double mass = 0;
        if (cuts()) {
            mass = keep(largest);
        } else {
            mass = weigh_all(largest);
            kept_.clear();
            for (std::size_t i = 0; i < weights_.size(); ++i) kept_.push_back({static_cast<Token>(i), weights_[i]});
        }
        for (TokenProbability& kept : kept_) kept.probability /= mass;
        return kept_;
    }

  private:
    struct Candidate {
        float logit = 0;
        Token token = 0;

        /// Whether it is less likely, as heaps order their elements.
        friend bool operator<(const Candidate& a, const Candidate& b) {
            return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
        }
    };

    template <class A>
    Token sample_from(std::span<const A> logits, std::span<const Token> recent) {
        const float largest = adjust(logits, recent);
        if (options_.temperature == 0) return most_likely_token(largest);
        if (cuts()) {
            const double target = keep(largest) * random_.uniform();
            const auto drawn = draw(kept_, target, [](const TokenProbability& kept) { return kept.probability; });
            return drawn != kept_.end() ? drawn->token : kept_.front().token;
        }
        const double target = weigh_all(largest) * random_.uniform();
        const auto drawn = draw(weights_, target, [](double weight) { return weight; });
        return drawn != weights_.end() ? static_cast<Token>(drawn - weights_.begin()) : most_likely_token(largest);
    }

    /// The first element with which the sum of weights exceeds the target; one does, unless sums were rounded apart.
    template <class T, class Weight>
    static auto draw(const std::vector<T>& from, double target, Weight weight) {
        double sum = 0;
        return std::find_if(from.begin(), from.end(), [&](const T& next) { return (sum += weight(next)) > target; });
    }

    /// Copies the logits, applies penalty and hook, and returns the largest.
    template <class A>
    float adjust(std::span<const A> logits, std::span<const Token> recent) {
        largest_logit(logits);
        logits_.resize(logits.size());
        std::transform(logits.begin(), logits.end(), logits_.begin(),
                       [](A logit) { return static_cast<float>(logit); });
        if (options_.repetition_penalty != 1)
            for (const Token token : recent) {
                require(token >= 0 && static_cast<std::size_t>(token) < logits.size(), "recent token ", token,
                        " is outside the vocabulary of ", logits.size());
                const auto logit = static_cast<float>(logits[static_cast<std::size_t>(token)]);  // the same each time
                logits_[static_cast<std::size_t>(token)] =
                    logit < 0 ? logit * options_.repetition_penalty : logit / options_.repetition_penalty;
            }
        if (options_.logit_hook) options_.logit_hook(logits_);
        return largest_logit(std::span<const float>(logits_), "the adjusted logits");
    }

    Token most_likely_token(float largest) const {
        Token first = 0;
        for_each_at_least(all_logits(), largest, [&](std::size_t i) {
            first = static_cast<Token>(i);
            return std::numeric_limits<float>::infinity();  // enough
        });
        return first;
    }

    /// exp((logit - largest) / temperature), which is 1 for the most likely token. In double, so that the smallest
    /// temperature overflows nothing.
    double weight(float logit, float largest) const {
        return std::exp((static_cast<double>(logit) - static_cast<double>(largest)) /
                        static_cast<double>(options_.temperature));
    }

    [[nodiscard]] bool has_top_k() const {
        return options_.top_k > 0 && options_.top_k < static_cast<Index>(logits_.size());
    }
    /// Whether a step may leave less than all tokens.
    [[nodiscard]] bool cuts() const { return has_top_k() || options_.top_p < 1 || options_.min_p > 0; }

    /// Fills weights_; returns their sum.
    double weigh_all(float largest) {
        weights_.resize(logits_.size());
        return sum_of_exponentials(all_logits(), largest, static_cast<double>(options_.temperature), weights_.data());
    }

    /// Fills kept_ with the tokens that top-k, top-p and min-p leave and their weights; returns the sum of these. All
    /// three keep a head of the sorted vocabulary, which is short as a rule, so no more than that is sorted.
    double keep(float largest) {
        kept_.clear();
        kept_.reserve(logits_.size());
        if (has_top_k()) keep_top_k(largest);
        double mass = 0;  // which top-p takes its share of
        if (options_.top_p < 1)
            mass = has_top_k() ? sum_of_kept()
                               : sum_of_exponentials(all_logits(), largest, static_cast<double>(options_.temperature));
        if (!has_top_k()) find_candidates(mass, largest);
        return keep_head(mass, largest);
    }

    /// The `top_k` most likely tokens in order.
    void keep_top_k(float largest) {
        candidates_.reserve(logits_.size());
        find_best(
            all_logits(), options_.top_k, candidates_,
            [&](Token token) {
                return Candidate{logits_[static_cast<std::size_t>(token)], token};
            },
            [](const Candidate& a, const Candidate& b) { return b < a; });
        for (const Candidate& candidate : candidates_)
            kept_.push_back({candidate.token, weight(candidate.logit, largest)});
        candidates_.clear();
    }

    /// A heap, the most likely in front, of all tokens that top-p and min-p may keep. Those with less than the fraction
    /// (1 - p) / vocab_size of the mass have together less than 1 - p, so they come after the p that is kept.
    void find_candidates(double mass, float largest) {
        const double share = (1 - static_cast<double>(options_.top_p)) * mass / static_cast<double>(logits_.size());
        const double least_weight = std::max(share, static_cast<double>(options_.min_p)) * (1 - 1e-9);
        const double least_logit =
            static_cast<double>(largest) + static_cast<double>(options_.temperature) * std::log(least_weight);
        // Rounded, it is at most what any logit above it is: rounding keeps the order.
        constexpr double lowest = std::numeric_limits<float>::lowest();
        const float least = static_cast<float>(std::max(least_logit, lowest));
        candidates_.clear();
        candidates_.reserve(logits_.size());
        for_each_at_least(all_logits(), least, [&](std::size_t i) {
            candidates_.push_back({logits_[i], static_cast<Token>(i)});
            return least;
        });
        std::make_heap(candidates_.begin(), candidates_.end());
    }

    /// Keeps tokens, the most likely first, as long as top-p and min-p allow: those in kept_, then candidates.
    double keep_head(double mass, float largest) {
        const double limit =
            options_.top_p < 1 ? static_cast<double>(options_.top_p) * mass : std::numeric_limits<double>::infinity();
        double before = 0;
        std::size_t count = 0;
        for (; before <= limit; ++count) {
            if (count == kept_.size() && !keep_next(largest)) break;
            if (kept_[count].probability < static_cast<double>(options_.min_p)) break;
            before += kept_[count].probability;
        }
        kept_.resize(count);
        return before;
    }

    /// Moves the most likely candidate to kept_; returns whether there was one.
    bool keep_next(float largest) {
        if (candidates_.empty()) return false;
        std::pop_heap(candidates_.begin(), candidates_.end());
        kept_.push_back({candidates_.back().token, weight(candidates_.back().logit, largest)});
        candidates_.pop_back();
        return true;
    }

    double sum_of_kept() const {
        double sum = 0;
        for (const TokenProbability& kept : kept_) sum += kept.probability;
        return sum;
    }

    [[nodiscard]] std::span<const float> all_logits() const { return logits_; }

    GenerateOptions options_;
    Random random_;
    std::vector<float> logits_;           // [vocab_size] after penalty and hook
    std::vector<double> weights_;         // [vocab_size] where no step cuts any off
    std::vector<Candidate> candidates_;   // a heap of what is not kept yet
    std::vector<TokenProbability> kept_;  // with weights until they are divided by their sum
};

}  // namespace mistral
