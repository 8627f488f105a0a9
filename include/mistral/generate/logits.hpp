#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/intrinsics.hpp>

#include <xsimd/xsimd.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>

/// Passes over the logits of a whole vocabulary, vector by vector: beside a small model or a fast device, what is done
/// with 32 000 of them for each token counts.
namespace mistral {

/// Throws Error for a NaN or +infinity among the logits, and where all are -infinity; returns the largest.
/// `what` says in the message which logits they are.
template <class A>
A largest_logit(std::span<const A> logits, const char* what = "the model's logits") {
    using Vector = xsimd::batch<A>;
    constexpr A finite = std::numeric_limits<A>::max();
    constexpr A infinity = std::numeric_limits<A>::infinity();
    std::array<A, Vector::size> last;
    last.fill(-infinity);
    Vector largest(-infinity);
    xsimd::batch_bool<A> valid(true);
    const auto see = [&](const A* from) {
        const auto values = Vector::load_unaligned(from);
        valid = valid & (values <= Vector(finite));
        largest = xsimd::max(largest, values);
    };
    const std::size_t rest = logits.size() % Vector::size;
    for (std::size_t i = 0; i + rest < logits.size(); i += Vector::size) see(logits.data() + i);
    std::copy(logits.end() - static_cast<std::ptrdiff_t>(rest), logits.end(), last.begin());
    see(last.data());
    if (!xsimd::all(valid)) {
        const auto bad = std::find_if(logits.begin(), logits.end(), [](A logit) { return !(logit <= finite); });
        fail(what, ": token ", bad - logits.begin(), " has ", *bad, ", expected a number or -infinity");
    }
    largest.store_unaligned(last.data());
    const A found = *std::max_element(last.begin(), last.end());
    require(found > -infinity, what, ": all are -infinity, expected one that is not");
    return found;
}

/// Calls visit(i) for each logit that is at least `least`, in the order of their tokens. What it returns is the next
/// `least`.
template <class A, class Visit>
void for_each_at_least(std::span<const A> logits, A least, Visit&& visit) {
    using Vector = xsimd::batch<A>;
    const auto see = [&](std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i)
            if (logits[i] >= least) least = visit(i);
    };
    const std::size_t rest = logits.size() % Vector::size;
    for (std::size_t i = 0; i + rest < logits.size(); i += Vector::size)
        if (xsimd::any(Vector::load_unaligned(logits.data() + i) >= Vector(least))) see(i, i + Vector::size);
    see(logits.size() - rest, logits.size());
}

/// Σ exp((logit - largest) / temperature), and each of these at the place of its token in `weights`, unless that is
/// null. 1 for the largest logit. In double, so that the smallest temperature that a float can be overflows nothing.
template <class A>
double sum_of_exponentials(std::span<const A> logits, A largest, double temperature, double* weights = nullptr) {
    using Vector = xsimd::batch<double>;
    constexpr std::size_t at_once = 128;  // converted one by one, and long in memory when vectors are read
    static_assert(at_once % Vector::size == 0);
    constexpr double least = -800;  // gives 0; xsimd converts to integers, as infinities cannot be
    const double top = static_cast<double>(largest), scale = 1 / temperature;
    std::array<double, at_once> values;
    Vector sums(0.0);
    for (std::size_t first = 0; first < logits.size(); first += at_once) {
        const std::size_t count = std::min(at_once, logits.size() - first);
        for (std::size_t i = 0; i < count; ++i) values[i] = (static_cast<double>(logits[first + i]) - top) * scale;
        std::fill(values.begin() + static_cast<std::ptrdiff_t>(count), values.end(), least);
        for (std::size_t i = 0; i < at_once; i += Vector::size) {
            const Vector weight = xsimd::exp(xsimd::max(Vector::load_unaligned(&values[i]), Vector(least)));
            weight.store_unaligned(&values[i]);
            sums += weight;
        }
        if (weights) std::copy_n(values.begin(), count, weights + first);
    }
    std::array<double, Vector::size> lanes;
    sums.store_unaligned(lanes.data());
    return std::accumulate(lanes.begin(), lanes.end(), 0.0);
}

}  // namespace mistral
