#pragma once

/// Everything for NVIDIA GPUs, and for the CPU. Programs link `mistral::cuda`.

#include <mistral/device/cuda/cuda.hpp>
#include <mistral/mistral.hpp>
