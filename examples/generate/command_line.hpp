#pragma once

#include <mistral/base/error.hpp>
#include <mistral/base/types.hpp>
#include <mistral/base/window.hpp>
#include <mistral/generate/options.hpp>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "options.hpp"
#include "terminal.hpp"

namespace generator {

/// Reads the command line, and the prompt from where it says.
class CommandLine {
  public:
    CommandLine() {
        add_text();
        add_model();
        add_sampling();
        add_output();
        app_.footer(
            "Without a prompt, standard input is read. A text is used as it is, with the newline at its end.\n"
            "Ctrl-C ends the text, a second one the program.");
    }

    /// Nothing where the call only asked for help, which has been printed. Throws UsageError.
    std::optional<Options> parse(int argc, char** argv) {
        try {
            app_.parse(argc, argv);
        } catch (const CLI::CallForHelp&) {
            std::cout << app_.help();
            return std::nullopt;
        } catch (const CLI::ParseError& error) {
            throw UsageError(error.what());
        }
        complete();
        return options_;
    }

  private:
    void add_text() {
        app_.add_option("prompt", words_, "Text to continue; several words are joined by blanks")->type_name("TEXT");
        app_.add_option("-p,--prompt", prompt_, "The same, also where it begins with a dash");
        app_.add_option("-f,--file", file_, "File with the text to continue");
        app_.add_flag("--chat", options_.chat, "Hold a conversation, a line at a time; wants an Instruct model");
        app_.add_option("--system", options_.system, "System prompt of the conversation")->needs("--chat");
        app_.add_option("--stop", options_.sampling.stop_strings, "Text that ends the output; may be repeated")
            ->expected(1)
            ->take_all();
    }

    void add_model() {
        app_.add_option("-m,--model", options_.model, "Directory of a checkpoint")->capture_default_str();
        app_.add_option("--dtype", options_.dtype, "Type of the weights; auto is the checkpoint's own")
            ->check(CLI::IsMember({"auto", "double", "float", "half", "bfloat16", "q8", "q4"}))
            ->capture_default_str();
        app_.add_option("--kv-dtype", options_.kv_dtype,
                        "Type of cached keys and values; q8 halves the memory that auto takes beside 16 bits or fewer")
            ->check(CLI::IsMember({"auto", "q8"}))
            ->capture_default_str();
        app_.add_option("--cache", options_.cache,
                        "File to keep the weights of --dtype q8 or q4 in, quantised only once")
            ->type_name("FILE");
        app_.add_option("--window", window_, "Positions that attention sees, or none; auto is the checkpoint's own")
            ->type_name("N|none|auto")
            ->capture_default_str();
        app_.add_option("--context", options_.context, "Positions kept by layers without a window [the model's own]");
        app_.add_option(
                "--draft-tokens", options_.sampling.draft_tokens,
                "Tokens to guess ahead from earlier text, 0 to 16: the same text, faster where it repeats itself")
            ->capture_default_str();
        app_.add_option("--device", device_, "What computes: cpu, or the GPU cuda, cuda:1 and so on")
            ->type_name("cpu|cuda[:N]")
            ->capture_default_str();
        app_.add_option("-t,--threads", options_.threads, "Threads, 0 for one per core")->capture_default_str();
    }

    void add_sampling() {
        auto& sampling = options_.sampling;
        const auto add = [this](const char* name, auto& value, const char* text) {
            return app_.add_option(name, value, text)->capture_default_str()->group("Sampling");
        };
        add("-n,--max-tokens", sampling.max_tokens, "Tokens to generate at most");
        add("--temperature", sampling.temperature, "0 always takes the most likely token");
        add("--top-k", sampling.top_k, "Only the K most likely tokens; 0 is off");
        add("--top-p", sampling.top_p, "Only the most likely tokens that make up this probability; 1 is off");
        add("--min-p", sampling.min_p, "Only tokens of at least this fraction of the greatest probability; 0 is off");
        add("--repetition-penalty", sampling.repetition_penalty, "Lowers recent tokens; 1 is off");
        add("--repetition-window", sampling.repetition_window, "Tokens back that count as recent");
        add("--seed", sampling.seed, "The same seed gives the same text")->check([](const std::string& text) {
            return text.find('-') == text.npos ? "" : "is " + text + ", expected 0 to 18446744073709551615";
        });
        app_.add_flag("--ignore-eos", sampling.ignore_eos, "Go on after the end of the text")->group("Sampling");
    }

    void add_output() {
        const auto json = app_.add_flag("--json", options_.json, "One JSON object per token");
        app_.add_option("--alternatives", options_.sampling.logprobs, "Most likely tokens in each object of --json")
            ->needs(json)
            ->check(CLI::Range(Index{0}, mistral::GenerateOptions::max_logprobs))
            ->capture_default_str();
        app_.add_flag("--echo", options_.echo, "Print the prompt before its continuation")->excludes(json);
        app_.add_flag("-q,--quiet", options_.quiet, "No progress and no figures on standard error");
    }

    void complete() {
        try {
            mistral::validate(options_.sampling);
        } catch (const mistral::Error& error) {
            throw UsageError(error.what());
        }
        if (options_.cache && options_.dtype != "q8" && options_.dtype != "q4")
            throw UsageError("--cache is for the weights of --dtype q8 or q4, and --dtype is " + options_.dtype);
        options_.window = window();
        options_.gpu = gpu();
        if (options_.gpu && options_.kv_dtype != "auto")
            throw UsageError("--kv-dtype " + options_.kv_dtype + " goes with --device cpu only");
        options_.prompt = prompt();
    }

    std::optional<Index> window() const {
        if (window_ == "auto") return std::nullopt;
        if (window_ == "none") return mistral::no_window;
        Index window = 0;
        const char* const last = window_.data() + window_.size();
        const auto [end, error] = std::from_chars(window_.data(), last, window);
        if (end != last || error != std::errc() || window <= 0)
            throw UsageError("--window is " + window_ + ", expected auto, none, or a number above 0");
        return window;
    }

    std::optional<int> gpu() const {
        constexpr std::string_view cuda = "cuda";
        if (device_ == "cpu") return std::nullopt;
        if (device_ == cuda) return 0;
        int ordinal = 0;
        const char* const last = device_.data() + device_.size();
        const bool is_numbered = device_.starts_with("cuda:");
        const auto [end, error] = std::from_chars(is_numbered ? device_.data() + cuda.size() + 1 : last, last, ordinal);
        if (!is_numbered || end != last || error != std::errc() || ordinal < 0)
            throw UsageError("--device is " + device_ + ", expected cpu, cuda, or cuda:N with the number of a GPU");
        return ordinal;
    }

    std::string prompt() const {
        const bool from_words = !words_.empty(), from_option = !prompt_.empty(), from_file = !file_.empty();
        if (from_words + from_option + from_file > 1)
            throw UsageError("the prompt is given more than once: as an argument, with --prompt or with --file");
        if (from_words) return CLI::detail::join(words_, " ");
        if (from_option) return prompt_;
        if (from_file) return read(file_);
        if (options_.chat) return {};
        if (is_terminal(Stream::input))
            throw UsageError("there is no prompt: give one as an argument, with --file, or on standard input");
        return read_all(std::cin);
    }

    static std::string read(const std::string& name) {
        mistral::require(!std::filesystem::is_directory(name), name, " is a directory, expected a file");
        std::ifstream file(name, std::ios::binary);
        const std::string text = file ? read_all(file) : std::string();
        mistral::require(file.good(), name, " cannot be read: ", std::strerror(errno));
        return text;
    }

    static std::string read_all(std::istream& in) { return {std::istreambuf_iterator<char>(in), {}}; }

    CLI::App app_{"Continues a text with a Mistral model.", "generate"};
    Options options_;
    std::vector<std::string> words_;
    std::string prompt_;
    std::string file_;
    std::string window_ = "auto";
    std::string device_ = "cpu";
};

}  // namespace generator
