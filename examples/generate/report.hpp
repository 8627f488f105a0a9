#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/generate/stop.hpp>

#include <chrono>
#include <cstddef>
#include <iomanip>
#include <iterator>
#include <ostream>
#include <sstream>
#include <string>

#include "terminal.hpp"

namespace generator {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What a run has taken.
struct Report {
    double load_seconds = 0;
    mistral::Index prompt_tokens = 0;
    double prompt_seconds = 0;  ///< up to the first token
    mistral::Index tokens = 0;  ///< after the first of each answer
    double token_seconds = 0;
    mistral::Index drafted = 0;  ///< tokens guessed ahead, and those of them that were right
    mistral::Index accepted = 0;
    mistral::Index cache_bytes = 0;
    mistral::StopReason reason = mistral::StopReason::none;

    void print(std::ostream& out) const {
        out << "loading      " << number(load_seconds) << " s\n"
            << "prompt       " << rate(prompt_tokens, prompt_seconds) << '\n'
            << "generation   " << rate(tokens, token_seconds) << '\n'
            << (drafted > 0 ? mistral::concat("drafts       ", drafted, " tokens, ", accepted, " accepted\n") : "")
            << "cache        " << size(static_cast<double>(cache_bytes)) << '\n';
        if (reason != mistral::StopReason::none) out << "ended by     " << name(reason) << '\n';
        if (const auto peak = peak_memory()) out << "peak memory  " << size(*peak) << '\n';
    }

  private:
    static std::string number(double value) {
        std::ostringstream out;
        out << std::fixed << std::setprecision(value < 1 ? 3 : value < 100 ? 1 : 0) << value;
        return out.str();
    }

    static std::string rate(mistral::Index tokens, double seconds) {
        const std::string count = std::to_string(tokens) + (tokens == 1 ? " token" : " tokens");
        return tokens == 0 ? count : count + ", " + number(static_cast<double>(tokens) / seconds) + " tokens/s";
    }

    static std::string size(double bytes) {
        constexpr const char* units[] = {" B", " KiB", " MiB", " GiB"};
        std::size_t unit = 0;
        for (; bytes >= 1024 && unit + 1 < std::size(units); ++unit) bytes /= 1024;
        return number(bytes) + units[unit];
    }
};

}  // namespace generator
