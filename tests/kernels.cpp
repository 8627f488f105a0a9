#include "kernels.hpp"

namespace mistral::cpu {
MISTRAL_TEST_KERNELS()
MISTRAL_TEST_TILES()
MISTRAL_TEST_FLOAT_KERNELS()
}  // namespace mistral::cpu
