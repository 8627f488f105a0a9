#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/window.hpp>

namespace mistral {

/// A number that is known at run time only, in the manner of Eigen.
inline constexpr Index Dynamic = -1;

/// The geometry of one attention layer. As a template value it fixes what is given and leaves the rest `Dynamic`;
/// as a run-time value it completes what the type left open:
///
///     RollingKVCache<bfloat16, Cpu, Shape{.window = 256, .kv_heads = 2, .head_dim = 64}> fixed(device);
///     RollingKVCache<bfloat16, Cpu> dynamic(device, {.window = 256, .kv_heads = 2, .head_dim = 64});
struct Shape {
    Index window = Dynamic;       ///< keys that a query sees, its own included; `no_window` for all before it
    Index query_heads = Dynamic;  ///< a multiple of kv_heads
    Index kv_heads = Dynamic;     ///< heads of keys and values, each shared by query_heads / kv_heads query heads
    Index head_dim = Dynamic;     ///< elements per head

    friend constexpr bool operator==(const Shape&, const Shape&) = default;

    /// Query heads that share one key/value head.
    [[nodiscard]] constexpr Index group() const { return query_heads / kv_heads; }
};

/// Completes one number of a shape: `fixed` where the type fixes it, else `given`.
/// Throws Error where the two contradict each other.
[[nodiscard]] inline Index resolve(Index fixed, Index given, const char* name) {
    require(fixed == Dynamic || given == Dynamic || fixed == given, name, " is ", given, ", but the type fixes it to ",
            fixed);
    return fixed == Dynamic ? given : fixed;
}

/// Completes `fixed` (of the type) with `given` (of run time). Numbers that neither gives stay Dynamic; those given
/// must be positive. Throws Error with the name and the numbers on a contradiction.
[[nodiscard]] inline Shape resolve(const Shape& fixed, const Shape& given) {
    const Shape shape{.window = resolve(fixed.window, given.window, "window"),
                      .query_heads = resolve(fixed.query_heads, given.query_heads, "query_heads"),
                      .kv_heads = resolve(fixed.kv_heads, given.kv_heads, "kv_heads"),
                      .head_dim = resolve(fixed.head_dim, given.head_dim, "head_dim")};
    const auto positive = [](Index number, const char* name) {
        require(number == Dynamic || number > 0, name, " is ", number, ", expected a positive number");
    };
    positive(shape.window, "window");
    positive(shape.query_heads, "query_heads");
    positive(shape.kv_heads, "kv_heads");
    positive(shape.head_dim, "head_dim");
    require(shape.query_heads == Dynamic || shape.kv_heads == Dynamic || shape.query_heads % shape.kv_heads == 0,
            "query_heads is ", shape.query_heads, ", expected a multiple of kv_heads, which is ", shape.kv_heads);
    return shape;
}

}  // namespace mistral
