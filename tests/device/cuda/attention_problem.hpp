#pragma once

#include "device/cuda/emulation/tests/device_buffer.hpp"
#include "emulation.hpp"

#include <mistral/device/cuda/attention_shapes.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/kernels.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace mistral::cuda {

/// Attention over a made-up sequence: queries, keys and values are numbers that depend on what they are and on their
/// absolute position alone. Memory that no query of the chunk sees holds NaN.
template <class C>
class AttentionProblem {
  public:
    /// Rows of the chunk's matrices lie `padding` elements further apart than they are long.
    AttentionProblem(const Shape& shape, Index tokens, Index capacity, Index padding = 0)
        : shape_(shape),
          tokens_(tokens),
          capacity_(capacity),
          query_stride_(shape.query_heads * shape.head_dim + padding),
          key_stride_(shape.kv_heads * shape.head_dim + padding),
          position_(std::vector<Index>{0}),
          queries_(size(tokens * query_stride_)),
          out_(size(tokens * query_stride_)),
          keys_(size(tokens * key_stride_)),
          values_(size(tokens * key_stride_)),
          cached_keys_(size(shape.kv_heads * capacity * shape.head_dim)),
          cached_values_(size(shape.kv_heads * capacity * shape.head_dim)),
          run_{.tokens = tokens,
               .store = {.keys = cached_keys_.data(),
                         .values = cached_values_.data(),
                         .kv_heads = shape.kv_heads,
                         .capacity = capacity,
                         .row_size = shape.head_dim}},
          scratch_(size(attention_scratch(runs(), shape))) {}

    /// Fills the device's memory for a chunk that begins there.
    void move_to(Index position) {
        now_ = position;
        const auto copy = [](const auto& buffer, const auto& values) {
            cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(values[0]), cudaMemcpyHostToDevice);
        };
        copy(position_, std::vector<Index>{position});
        copy(queries_, rows<float>(Kind::query, shape_.query_heads, query_stride_));
        copy(out_, std::vector<float>(size(tokens_ * query_stride_), untouched));
        copy(keys_, rows<C>(Kind::key, shape_.kv_heads, key_stride_));
        copy(values_, rows<C>(Kind::value, shape_.kv_heads, key_stride_));
        copy(cached_keys_, ring(Kind::key));
        copy(cached_values_, ring(Kind::value));
    }

    /// The position that counts is the one in the device's memory.
    [[nodiscard]] Attention<C> attention() const {
        return {.queries = {queries_.data(), tokens_, query_columns(), query_stride_},
                .keys = {keys_.data(), tokens_, shape_.kv_heads * shape_.head_dim, key_stride_},
                .values = {values_.data(), tokens_, shape_.kv_heads * shape_.head_dim, key_stride_},
                .runs = runs(),
                .positions = position_.data(),
                .shape = shape_,
                .out = {out_.data(), tokens_, query_columns(), query_stride_}};
    }
    void attend(cudaStream_t stream = nullptr) const { cuda::attend(stream, attention(), scratch_.data()); }

    /// [query_heads * head_dim]
    [[nodiscard]] std::vector<float> result(Index token) const {
        const auto out = out_.values();
        const auto begin = out.begin() + token * query_stride_;
        return {begin, begin + query_columns()};
    }

    /// The largest error in units of what it may be, infinite where memory beside the results was written. Queries
    /// times the scale and weights have a relative error of `rounding` each: those of queries are in what is compared
    /// with, and each weight's in the tolerance. Sums in float err by less than 2^-17 of the sum of magnitudes here;
    /// weights of half are spaced 2^-24 at least.
    [[nodiscard]] double error(bool rounds) const {
        const auto out = out_.values();
        double worst = 0;
        for (Index token = 0; token < tokens_; ++token) {
            for (Index head = 0; head < shape_.query_heads; ++head)
                worst = std::max(
                    worst, error(token, head, out.data() + token * query_stride_ + head * shape_.head_dim, rounds));
            for (Index i = query_columns(); i < query_stride_; ++i)
                if (out[size(token * query_stride_ + i)] != untouched) return std::numeric_limits<double>::infinity();
        }
        return worst;
    }

  private:
    enum class Kind { query, key, value };
    static constexpr float untouched = 123;
    static constexpr float nan = std::numeric_limits<float>::quiet_NaN();

    [[nodiscard]] std::span<const CachedRun<C>> runs() const { return {&run_, 1}; }

    static std::size_t size(Index number) { return static_cast<std::size_t>(number); }
    [[nodiscard]] Index query_columns() const { return shape_.query_heads * shape_.head_dim; }

    /// Between -2 and 2: what splitmix64 makes of the numbers.
    static float element(Kind kind, Index head, Index position, Index i) {
        auto x = (static_cast<std::uint64_t>(position) * 64 + static_cast<std::uint64_t>(head)) * 1024 +
                 static_cast<std::uint64_t>(i) * 3 + static_cast<std::uint64_t>(kind);
        x += 0x9e3779b97f4a7c15;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        x ^= x >> 31;
        return static_cast<float>(static_cast<double>(x >> 11) * 0x1p-51 - 2);
    }
    static double rounded(Kind kind, Index head, Index position, Index i) {
        return static_cast<float>(static_cast<C>(element(kind, head, position, i)));
    }

    /// Of what the ring still has.
    Index first_visible(Index position) const {
        return std::max(Window{shape_.window}.first_visible(position), now_ - capacity_);
    }

    template <class T>
    std::vector<T> rows(Kind kind, Index heads, Index stride) const {
        std::vector<T> rows(size(tokens_ * stride), T(nan));
        for (Index token = 0; token < tokens_; ++token)
            for (Index head = 0; head < heads; ++head)
                for (Index i = 0; i < shape_.head_dim; ++i)
                    rows[size(token * stride + head * shape_.head_dim + i)] = T(element(kind, head, now_ + token, i));
        return rows;
    }

    std::vector<C> ring(Kind kind) const {
        std::vector<C> slots(size(shape_.kv_heads * capacity_ * shape_.head_dim), C(nan));
        for (Index head = 0; head < shape_.kv_heads; ++head)
            for (Index position = first_visible(now_); position < now_; ++position)
                for (Index i = 0; i < shape_.head_dim; ++i)
                    slots[size((head * capacity_ + position % capacity_) * shape_.head_dim + i)] =
                        C(element(kind, head, position, i));
        return slots;
    }

    double error(Index token, Index head, const float* out, bool rounds) const {
        const Index kv_head = head / shape_.group();
        const Index dims = shape_.head_dim;
        const Index last = now_ + token;
        const Index first = first_visible(last);
        const auto scale = static_cast<float>(1 / (std::sqrt(static_cast<double>(dims)) * std::log(2.0)));
        std::vector<double> query(size(dims));
        for (Index i = 0; i < dims; ++i) {
            const float scaled = element(Kind::query, head, last, i) * scale;
            query[size(i)] = rounds ? static_cast<float>(static_cast<C>(scaled)) : scaled;
        }
        std::vector<double> weights;
        for (Index position = first; position <= last; ++position) {
            double score = 0;
            for (Index i = 0; i < dims; ++i) score += query[size(i)] * rounded(Kind::key, kv_head, position, i);
            weights.push_back(score);
        }
        const double largest = *std::max_element(weights.begin(), weights.end());
        double total = 0;
        for (double& weight : weights) total += weight = std::exp2(weight - largest);
        double worst = 0;
        for (Index i = 0; i < dims; ++i) {
            double sum = 0, magnitude = 0;
            for (Index position = first; position <= last; ++position) {
                const double term =
                    weights[size(position - first)] / total * rounded(Kind::value, kv_head, position, i);
                sum += term;
                magnitude += std::abs(term);
            }
            const double rounding = !rounds ? 0 : std::same_as<C, bfloat16> ? 0x1p-8 : 0x1p-11;
            const double tolerance =
                (rounding + 0x1p-17) * magnitude + (rounds ? 0x1p-24 * static_cast<double>(weights.size()) / total : 0);
            const double error = std::abs(static_cast<double>(out[i]) - sum) / tolerance;
            worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
        }
        return worst;
    }

    Shape shape_;
    Index tokens_;
    Index capacity_;
    Index query_stride_;
    Index key_stride_;
    Index now_ = 0;
    DeviceBuffer<Index> position_;
    DeviceBuffer<float> queries_;
    DeviceBuffer<float> out_;
    DeviceBuffer<C> keys_;
    DeviceBuffer<C> values_;
    DeviceBuffer<C> cached_keys_;
    DeviceBuffer<C> cached_values_;
    CachedRun<C> run_;
    DeviceBuffer<std::byte> scratch_;
};

}  // namespace mistral::cuda
