#pragma once

#include <mistral/fwd.hpp>
#include <mistral/scalar/types.hpp>

#include "options.hpp"

namespace generator {

inline constexpr int interrupted_status = 128 + 2;  // as shells say of SIGINT, which is 2

/// Does what the command line asks for with weights S and a cache of C on a device D, and returns the program's exit
/// status. Each file run_*.cpp compiles it for some of these, so that compilers can work side by side.
template <mistral::Scalar S, mistral::CacheScalar C = mistral::DefaultCacheScalar<S>, class D = mistral::Cpu>
int run(const Options& options);

/// The same on a GPU. Throws UsageError in a program that was built without CUDA.
template <mistral::Scalar S>
int run_on_gpu(const Options& options);

}  // namespace generator
