#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

inline std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// What a program left behind.
struct Result {
    int status = 0;
    std::string out;
    std::string err;
};

/// Runs a command as a shell reads it. What it prints goes through files in the current directory that begin with
/// `name`, of which each test program has its own, as several may run at once.
inline Result run(const std::string& name, const std::string& command) {
    const auto folder = std::filesystem::current_path();
    const std::string out = (folder / (name + ".out")).string(), err = (folder / (name + ".err")).string();
    const int status = std::system((command + " >'" + out + "' 2>'" + err + "'").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(out), read(err)};
}
