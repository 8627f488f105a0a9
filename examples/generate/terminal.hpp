#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <iostream>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#ifdef _WIN32
#include <io.h>
#else
#include <sys/resource.h>
#include <unistd.h>
#endif

namespace generator {

/// The standard streams.
enum class Stream { input = 0, output = 1, error = 2 };

/// Whether a person sits at the other end.
inline bool is_terminal(Stream stream) {
#ifdef _WIN32
    return _isatty(static_cast<int>(stream)) != 0;
#else
    return isatty(static_cast<int>(stream)) != 0;
#endif
}

/// The most memory that the process has held so far, in bytes, mapped weights that were read included.
inline std::optional<double> peak_memory() {
#ifdef _WIN32
    return std::nullopt;
#else
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) != 0) return std::nullopt;
#ifdef __APPLE__
    constexpr double unit = 1;
#else
    constexpr double unit = 1024;
#endif
    return unit * static_cast<double>(usage.ru_maxrss);
#endif
}

/// While it lives, the first Ctrl-C asks the stop token to stop and the second ends the process.
class Interruptible {
  public:
    Interruptible() {
        interrupted = false;
        std::signal(SIGINT, [](int) {
            interrupted = true;
            std::signal(SIGINT, SIG_DFL);
        });
    }
    ~Interruptible() { std::signal(SIGINT, SIG_DFL); }
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;

    std::stop_token token() const { return stop_.get_token(); }

    /// Whether Ctrl-C was pressed; the token may not know yet.
    bool stopped() const { return interrupted; }

  private:
    // A handler may do no more than set a flag, so a thread looks at it.
    void watch(const std::stop_token& end) {
        using namespace std::chrono_literals;
        while (!end.stop_requested() && !interrupted) std::this_thread::sleep_for(20ms);
        if (interrupted) stop_.request_stop();
    }

    static inline std::atomic<bool> interrupted = false;
    static_assert(std::atomic<bool>::is_always_lock_free);

    std::stop_source stop_;
    std::jthread watcher_{[this](const std::stop_token& end) { watch(end); }};
};

/// A bar on standard error for what takes a while. Shows nothing where that is no terminal.
class ProgressBar {
  public:
    explicit ProgressBar(std::string title, bool wanted)
        : title_(std::move(title)), wanted_(wanted && is_terminal(Stream::error)) {}
    ~ProgressBar() {
        if (percent_ >= 0) std::cerr << "\r\033[K" << std::flush;
    }
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    void show(long long done, long long all) {
        using namespace std::chrono_literals;
        constexpr std::size_t width = 40;
        const int percent = static_cast<int>(100 * done / std::max(1LL, all));
        if (!wanted_ || percent == percent_ || std::chrono::steady_clock::now() - start_ < 300ms) return;
        percent_ = percent;
        const std::size_t filled = width * static_cast<std::size_t>(percent) / 100;
        std::cerr << '\r' << title_ << " [" << std::string(filled, '#') << std::string(width - filled, ' ') << "] "
                  << percent << " %" << std::flush;
    }

  private:
    std::string title_;
    bool wanted_;
    int percent_ = -1;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace generator
