#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <limits>

namespace mistral::cpu {

/// The queries of a few tokens, the first at `position`, whose heads share one key/value head. A query below is one
/// head of one token.
struct HeadQueries {
    Shape shape;
    Index position = 0;
    Index tokens = 0;
    Index kv_head = 0;

    [[nodiscard]] Index count() const { return tokens * shape.group(); }
    [[nodiscard]] Index token(Index q) const { return q / shape.group(); }
    /// Where the query's head begins in its token's row [query_heads * head_dim].
    [[nodiscard]] Index column(Index q) const { return (kv_head * shape.group() + q % shape.group()) * shape.head_dim; }
    /// Where the run holds the head's key, or its value, at position p.
    template <class Run>
    [[nodiscard]] Index offset(const Run& run, Index p) const {
        return kv_head * run.head_stride + (p - run.position) * run.position_stride;
    }
};

/// What the softmax over some of the keys comes to, for a number of queries: the sums of values weighted by
/// exp(score - maximum), the sum of these weights, and the maximum.
template <class A>
class PartialAttention {
  public:
    static Index size(Index queries, Index width) { return queries * (width + padding); }

    PartialAttention(A* memory, Index queries, Index width) : rows_(memory, queries, width + padding), width_(width) {}

    [[nodiscard]] Index stride() const { return rows_.stride(); }
    [[nodiscard]] A* sums(Index query) const { return rows_.row(query); }
    [[nodiscard]] A& total(Index query) const { return rows_(query, width_); }
    [[nodiscard]] A& maximum(Index query) const { return rows_(query, width_ + 1); }

    /// The softmax over no keys.
    void clear(Index queries) const {
        for (Index q = 0; q < queries; ++q) {
            std::fill_n(sums(q), width_, A(0));
            total(q) = A(0);
            maximum(q) = std::numeric_limits<A>::lowest();  // finite: its distance to itself is a number
        }
    }

    /// Takes in the softmax over the keys that follow. power(x) is e^x, or that of the base that scores are for.
    template <class Power>
    void join(const PartialAttention& next, Index queries, Power power) const {
        for (Index q = 0; q < queries; ++q) {
            const A larger = std::max(maximum(q), next.maximum(q));
            const A mine = power(maximum(q) - larger);
            const A others = power(next.maximum(q) - larger);
            std::transform(sums(q), sums(q) + width_ + 1, next.sums(q), sums(q),
                           [=](A a, A b) { return a * mine + b * others; });  // the totals, too, which follow
            maximum(q) = larger;
        }
    }

  private:
    static constexpr Index padding = 64 / sizeof(A);  // rows begin where cache lines do

    MatrixView<A> rows_;  // [queries, width + padding]: sums, total, maximum
    Index width_;
};

}  // namespace mistral::cpu
