#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/generate/options.hpp>

#include <optional>
#include <string>

namespace generator {

using mistral::Index;

/// What the command line asks for.
struct Options {
    std::string model = MISTRAL_DEFAULT_MODEL;
    std::string dtype = "auto";
    std::string kv_dtype = "auto";
    std::optional<std::string> cache;  ///< file that keeps quantised weights
    std::optional<Index> window;       ///< instead of the checkpoint's; no_window for none
    std::optional<Index> context;      ///< positions kept by layers without a window
    Index threads = 0;
    std::optional<int> gpu;  ///< instead of the processor

    std::string prompt;
    std::string system;
    bool chat = false;

    mistral::GenerateOptions sampling{.max_tokens = 256, .temperature = 0.7f};

    bool json = false;
    bool echo = false;
    bool quiet = false;
};

/// A mistake in how the program was called.
class UsageError : public mistral::Error {
  public:
    using Error::Error;
};

}  // namespace generator
