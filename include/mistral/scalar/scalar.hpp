#pragma once

/// The scalars with their arithmetic, which is Eigen's for half and bfloat16.

#include <mistral/base/intrinsics.hpp>
#include <mistral/scalar/types.hpp>

#include <Eigen/Core>
