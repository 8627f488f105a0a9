#pragma once

#include <mistral/scalar/types.hpp>

#include "options.hpp"

namespace generator {

inline constexpr int interrupted_status = 128 + 2;  // as shells say of SIGINT, which is 2

/// Does what the command line asks for with weights S and a cache of C, and returns the program's exit status. Each
/// file run_*.cpp compiles it for some of these, so that compilers can work side by side.
template <mistral::Scalar S, mistral::CacheScalar C = mistral::DefaultCacheScalar<S>>
int run(const Options& options);

}  // namespace generator
