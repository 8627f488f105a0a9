#pragma once

/// The scalars with their arithmetic, which is Eigen's for half and bfloat16.

#include <mistral/scalar/types.hpp>

// GCC 12 warns of "uninitialised" values that its own AVX-512 header leaves so on purpose (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
