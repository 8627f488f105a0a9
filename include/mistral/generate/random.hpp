#pragma once

#include <cstdint>
#include <random>

namespace mistral {

/// Random numbers that are the same on every platform for the same seed: the standard specifies the engine bit by bit,
/// but not its distributions, so the one that is needed is written here.
class Random {
  public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    /// The next number, uniform in [0, 1): a multiple of 2^-53.
    [[nodiscard]] double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  private:
    std::mt19937_64 engine_;
};

}  // namespace mistral
