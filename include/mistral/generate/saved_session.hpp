#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/quote.hpp>
#include <mistral/base/replacement_file.hpp>
#include <mistral/base/types.hpp>

#include <array>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <istream>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace mistral {

/// The form of a saved session: a mark, a version, a text that names the model by its numbers; then what the session
/// writes, in the machine's byte order; the mark again.
class SavedSession {
  public:
    /// The numbers of a model and its scalars as one line of text, "layers 32, hidden_size 4096, ...".
    [[nodiscard]] static std::string fingerprint(const Config& config, std::string_view weights,
                                                 std::string_view cache) {
        std::string windows;
        for (const Index window : config.windows) windows += concat(windows.empty() ? "" : " ", window);
        return concat("layers ", config.layers, ", hidden_size ", config.hidden_size, ", intermediate_size ",
                      config.intermediate_size, ", query_heads ", config.query_heads, ", kv_heads ", config.kv_heads,
                      ", head_dim ", config.head_dim, ", vocab_size ", config.vocab_size, ", rope_theta ",
                      exact(config.rope_theta), ", norm_eps ", exact(config.norm_eps), ", windows ", windows,
                      config.rotary_pairing == RotaryPairing::halves ? ", halves" : ", adjacent",
                      config.tied_embeddings ? ", tied" : ", untied", ", weights ", weights, ", cache ", cache);
    }

    static void write_header(std::ostream& out, const std::string& fingerprint) {
        write(out, std::array{mark, version, static_cast<Index>(fingerprint.size())});
        write(out, std::span<const char>(fingerprint));
    }

    /// Throws Error where the input is no saved session, or one of another version or model.
    static void read_header(std::istream& in, const std::string& fingerprint) {
        constexpr Index longest = 65536;
        std::array<Index, 3> header{};
        read<Index>(in, header);
        require(header[0] == mark, "this is not a saved session, or one of a machine of another byte order");
        require(header[1] == version, "the saved session has version ", header[1], ", expected ", version);
        require(0 <= header[2] && header[2] <= longest, "the saved session's header is ", header[2],
                " bytes long, expected at most ", longest);
        std::string saved(static_cast<std::size_t>(header[2]), '\0');
        read<char>(in, saved);
        require(saved == fingerprint, "the saved session is of another model: ", quote(saved, 400),
                "; expected: ", quote(fingerprint, 400));
    }

    /// Throws Error where anything since the header could not be written.
    static void write_end(std::ostream& out) {
        write(out, std::array{mark});
        out.flush();
        require(out.good(), "the session could not be written");
    }

    static void read_end(std::istream& in) {
        std::array<Index, 1> end{};
        read<Index>(in, end);
        require(end[0] == mark, "the saved session is damaged: its end is not where it should be");
    }

    template <class Values>
    static void write(std::ostream& out, const Values& values) {
        const auto bytes = std::as_bytes(std::span(values));
        out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }

    /// Fills `values`. Throws Error where the input ends before.
    template <class T>
    static void read(std::istream& in, std::span<T> values) {
        const auto bytes = std::as_writable_bytes(values);
        in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        require(in.good(), "the saved session ends early");
    }

    /// Calls write(stream) for a file that then takes the place of `file`, as ReplacementFile says.
    /// Throws Error, with the name, where something fails; `file` is what it was then.
    template <class Write>
    static void save_file(const std::filesystem::path& file, Write&& write) {
        ReplacementFile replacement(file);
        try {
            write(replacement.stream());
        } catch (const Error& failure) {
            fail(utf8(file), ": ", failure.what());
        }
        replacement.take_place();
    }

    /// Calls read(stream) for the file. Throws Error, with the name, where something fails.
    template <class Read>
    static void restore_file(const std::filesystem::path& file, Read&& read) {
        try {
            std::ifstream in(file, std::ios::binary);
            require(in.is_open(), "cannot be opened for reading");
            read(in);
        } catch (const Error& failure) {
            fail(utf8(file), ": ", failure.what());
        }
    }

  private:
    static constexpr Index mark = 0x6E6F6973'7365736D;  // "msession" where the lowest byte comes first
    static constexpr Index version = 1;

    static std::string exact(double number) {
        std::array<char, 32> text;
        return {text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr};
    }
};

}  // namespace mistral
