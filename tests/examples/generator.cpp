// Runs the generator as a user does and looks at what comes out.

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"

namespace {

/// Runs `generate` with arguments, and perhaps redirections, as a shell reads them.
Result generate(const std::string& arguments, const std::string& before = "") {
    return run("generator", before + " '" GENERATOR "' " + arguments);
}

/// What a command shows in a terminal, where standard output and error are one, with line ends as in files. Nothing
/// where util-linux's `script`, which makes the terminal, is not there: then the test says so.
std::optional<std::string> in_terminal(const std::string& command) {
    if (std::system("script --version >script.out 2>&1") != 0) {
        MESSAGE("not run: there is no program `script` of util-linux");
        return std::nullopt;
    }
    std::string shown = run("terminal", "script -qec \"" + command + "\" /dev/null </dev/null").out;
    for (std::size_t end = 0; (end = shown.find("\r\n", end)) != shown.npos;) shown.erase(end, 1);
    return shown;
}

std::vector<nlohmann::json> objects(const std::string& lines) {
    std::istringstream in(lines);
    std::vector<nlohmann::json> objects;
    for (std::string line; std::getline(in, line);) objects.push_back(nlohmann::json::parse(line));
    return objects;
}

std::size_t lines(const std::string& text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

/// What a user might type, and what the answer must name.
struct Mistake {
    std::string arguments;
    std::string message;
};

}  // namespace

TEST_CASE("one seed gives one text, whatever the number of threads") {
    const Result one = generate("ROMEO: -n 100 --seed 7 --threads 1");
    CHECK(one.status == 0);
    CHECK(one.out.size() > 100);
    CHECK(generate("ROMEO: -n 100 --seed 7 --threads 3").out == one.out);
    CHECK(generate("ROMEO: -n 100 --seed 8").out != one.out);
}

TEST_CASE("a GPU writes what the processor does, and where there is none, the error says so") {
    const std::string arguments = "ROMEO: -n 500 --temperature 0 --quiet";
    const Result gpu = generate(arguments + " --device cuda");
    CAPTURE(gpu.err);
    if (gpu.status == 0) {
        CHECK(gpu.out == generate(arguments).out);
    } else {
        CHECK(gpu.out.empty());
        const bool says_so = gpu.err.find("there is no GPU to be had") != gpu.err.npos ||
                             gpu.err.find("was built without CUDA") != gpu.err.npos;
        CHECK(says_so);
    }
}

TEST_CASE("guessing ahead changes no text, with figures that say how often it was right") {
    for (const std::string options : {"--temperature 0", "--seed 7"}) {
        const std::string arguments = "'O Romeo, Romeo! O Romeo, Romeo! O Romeo,' -n 200 " + options;
        const Result plain = generate(arguments);
        const Result drafted = generate(arguments + " --draft-tokens 8");
        CHECK(drafted.status == 0);
        CHECK(drafted.out == plain.out);
        CHECK(drafted.err.find(" accepted\n") != drafted.err.npos);
        CHECK(plain.err.find(" accepted\n") == plain.err.npos);
        CHECK(generate(arguments + " --draft-tokens 8 --window none").out ==
              generate(arguments + " --window none").out);
    }
}

TEST_CASE("a cache of quantised weights changes no text") {
    const std::string arguments = "ROMEO: -n 50 --seed 7 --dtype q4";
    const Result plain = generate(arguments);
    std::remove("generator.packed");
    for (int loading = 0; loading < 2; ++loading) {
        const Result cached = generate(arguments + " --cache generator.packed");
        CHECK(cached.status == 0);
        CHECK(cached.out == plain.out);
    }
    CHECK(read("generator.packed").starts_with("mistral packed weights\n"));
}

TEST_CASE("a prompt may come from an argument, an option, a file or standard input") {
    std::ofstream("prompt.txt") << "To be, or";
    const std::string expected = generate("To be, or -n 20").out;
    CHECK(!expected.empty());
    CHECK(generate("'To be, or' -n 20").out == expected);
    CHECK(generate("--prompt 'To be, or' -n 20").out == expected);
    CHECK(generate("--file prompt.txt -n 20").out == expected);
    CHECK(generate("-n 20 <prompt.txt").out == expected);
    CHECK(generate("-n 20 --echo <prompt.txt").out == "To be, or" + expected);
}

TEST_CASE("a pipe gets the text and nothing else, and figures go to standard error unless --quiet") {
    const Result run = generate("ROMEO: -n 50");
    CHECK(run.out.find('\033') == run.out.npos);
    CHECK(run.err.find('\033') == run.err.npos);
    CHECK(run.err.find("tokens/s") != run.err.npos);
    CHECK(generate("ROMEO: -n 50 --quiet").err.empty());
    CHECK(generate("ROMEO: -n 50 --quiet").out == run.out);
}

TEST_CASE("--json writes one valid object per token, whose texts make up the whole, also where characters are cut") {
    // So hot that most tokens are equally likely, single bytes too.
    for (const std::string options : {"-n 60 --seed 3", "-n 600 --seed 3 --temperature 1000"}) {
        const auto tokens = objects(generate("ROMEO: --json --alternatives 3 " + options).out);
        std::string text;
        for (const auto& token : tokens) {
            text += token.at("text").get<std::string>();
            CHECK(token.at("logprob").get<double>() <= 0);
            CHECK(token.at("alternatives").size() == 3);
            CHECK(token.at("alternatives")[0].at("logprob") >= token.at("alternatives")[1].at("logprob"));
        }
        CHECK(tokens.size() == std::stoul(options.substr(3)));
        CHECK(text == generate("ROMEO: " + options).out);
    }
}

TEST_CASE("--json of no tokens is no object") {
    const Result run = generate("ROMEO: --json -n 0");
    CHECK(run.status == 0);
    CHECK(run.out.empty());
}

TEST_CASE("--json with greedy choice gives the first of the alternatives") {
    for (const auto& token : objects(generate("ROMEO: --json --alternatives 2 -n 20 --temperature 0").out))
        CHECK(token.at("id") == token.at("alternatives")[0].at("id"));
}

TEST_CASE("a stop text ends the output and is not part of it") {
    const std::string text = generate("ROMEO: -n 100").out;
    const std::string word = text.substr(40, 5);
    CHECK(generate("ROMEO: -n 100 --stop '" + word + "' --stop 'no such text'").out == text.substr(0, text.find(word)));
}

TEST_CASE("another window changes the text only once it is full") {
    const std::string text = generate("ROMEO: -n 100").out;
    CHECK(generate("ROMEO: -n 100 --window 64").out == text);
    CHECK(generate("ROMEO: -n 100 --window 2").out != text);
    CHECK(generate("ROMEO: -n 100 --window none").out != text);
    CHECK(generate("ROMEO: -n 50 --window none").out == text.substr(0, generate("ROMEO: -n 50").out.size()));
}

TEST_CASE("all types of weights work, and agree where nothing is close") {
    const std::string text = generate("ROMEO: -n 10 --temperature 0").out;
    for (const std::string type : {"double", "float", "half", "bfloat16", "q8"})
        CHECK(generate("ROMEO: -n 10 --temperature 0 --dtype " + type).out == text);
}

TEST_CASE("keys and values in 8 bits take half the memory, and change no text where nothing is close") {
    for (const std::string type : {"bfloat16", "q8", "q4"}) {
        const std::string arguments = "ROMEO: -n 10 --temperature 0 --dtype " + type;
        const Result plain = generate(arguments), in_8_bits = generate(arguments + " --kv-dtype q8");
        const auto cache = [](const Result& run) { return std::stod(run.err.substr(run.err.find("cache ") + 6)); };
        CHECK(in_8_bits.out == plain.out);
        CHECK(cache(in_8_bits) < 0.6 * cache(plain));
    }
}

TEST_CASE("the figures are the time to load, both rates, the cache, why it ended, and the peak of memory") {
    const std::regex figures(
        "loading      [0-9.]+ s\n"
        "prompt       3 tokens, [0-9.]+ tokens/s\n"
        "generation   49 tokens, [0-9.]+ tokens/s\n"
        "cache        [0-9.]+ KiB\n"
        "ended by     max_tokens\n"
        "(peak memory  [0-9.]+ MiB\n)?");
    CHECK(std::regex_match(generate("ROMEO: -n 50").err, figures));
}

TEST_CASE("text comes while it is made") {
    // A text without end. Were it collected, a whole buffer would come first, which has 4096 bytes at least.
    std::FILE* const pipe = ::popen("exec '" GENERATOR "' ROMEO: -n 1000000000 --quiet", "r");
    REQUIRE(pipe != nullptr);
    std::string first(1 << 16, '\0');
    const auto size = ::read(::fileno(pipe), first.data(), first.size());
    CHECK(size > 0);
    CHECK(size < 4096);
    ::pclose(pipe);  // which ends the generator, too
}

TEST_CASE("a terminal shows the text and then the figures, and nothing else") {
    const auto shown = in_terminal("'" GENERATOR "' ROMEO: -n 50");
    if (!shown) return;
    const std::string text = generate("ROMEO: -n 50").out;
    CHECK(shown->starts_with(text));
    CHECK(shown->substr(text.size()).find("loading ") <= 1);  // after the end of the line
    CHECK(shown->find('\033') == shown->npos);
    CHECK(shown->find('\r') == shown->npos);
}

TEST_CASE("a progress bar is drawn in a terminal only, and wiped off at the end") {
    const Result piped = run("progress", "'" SHOW_PROGRESS "'");
    CHECK(piped.out + piped.err == "");
    const auto shown = in_terminal("'" SHOW_PROGRESS "'");
    if (!shown) return;
    const auto bar = [](std::size_t filled) { return std::string(filled, '#') + std::string(40 - filled, ' '); };
    CHECK(*shown == "\rloading [" + bar(20) + "] 50 %\rloading [" + bar(40) + "] 100 %\r\033[K");
}

TEST_CASE("a conversation answers each line until the input ends") {
    const Result run = generate("--chat -n 10 --temperature 0", "printf 'Who is there?\\n\\nSpeak!\\n' |");
    CHECK(run.status == 0);
    CHECK(lines(run.out) >= 2);
    CHECK(run.out.find('>') == run.out.npos);
}

TEST_CASE("an answer depends on what was said before, and on the system prompt") {
    const auto answers = [](const std::string& questions, const std::string& options = "") {
        return generate("--chat --quiet -n 10 --temperature 0 " + options, "printf '" + questions + "' |").out;
    };
    const auto second_answer = [&](const std::string& first_question) {
        const std::string first = answers(first_question + "\\n"), both = answers(first_question + "\\nSpeak!\\n");
        CHECK(both.starts_with(first));
        return both.substr(first.size());
    };
    CHECK(!second_answer("My lord").empty());
    CHECK(second_answer("My lord") != second_answer("Who is there?"));
    CHECK(second_answer("My lord") != answers("Speak!\\n"));
    CHECK(answers("My lord\\n", "--system 'You are a king.'") != answers("My lord\\n"));
}

TEST_CASE("a mistake in the call is named in one line, with what was expected, and has status 2") {
    const std::vector<Mistake> mistakes = {
        {"x --temprature 1", "--temprature"},
        {"x -n -1", "expected 0 or more"},
        {"x -n many", "many"},
        {"x --temperature nan", "expected a finite number, 0 or more"},
        {"x --top-p 1.5", "expected 0 to 1"},
        {"x --min-p -1", "expected 0 to 1"},
        {"x --repetition-penalty 0", "expected 0.01 to 100"},
        {"x --draft-tokens 17", "expected 0 to 16"},
        {"x --draft-tokens -1", "expected 0 to 16"},
        {"x --seed -1", "expected 0 to 18446744073709551615"},
        {"x --window 0", "expected auto, none, or a number above 0"},
        {"x --window 99999999999999999999", "expected auto, none, or a number above 0"},
        {"x --dtype int3", "double,float,half,bfloat16,q8,q4"},
        {"x --kv-dtype int3", "auto,q8"},
        {"x --kv-dtype q8 --dtype float", "--dtype bfloat16, q8 or q4, and --dtype is float"},
        {"x --device gpu", "expected cpu, cuda, or cuda:N"},
        {"x --device cuda:-1", "expected cpu, cuda, or cuda:N"},
        {"x --device cuda --kv-dtype q8", "--device cpu only"},
        {"x --device cuda --dtype double", "--device cpu only"},
        {"x --cache file", "--dtype q8 or q4"},
        {"x --cache file --dtype half", "--dtype q8 or q4"},
        {"x --alternatives 2", "--json"},
        {"x --json --alternatives 2000", "0 to 1024"},
        {"x --prompt y", "more than once"},
    };
    for (const Mistake& mistake : mistakes) {
        const Result run = generate(mistake.arguments);
        CAPTURE(mistake.arguments);
        CAPTURE(run.err);
        CHECK(run.status == 2);
        CHECK(run.out.empty());
        CHECK(run.err.starts_with("generate: "));
        CHECK(run.err.find(mistake.message) != run.err.npos);
        CHECK(run.err.ends_with("\nTry 'generate --help'.\n"));
        CHECK(lines(run.err) == 2);
    }
}

TEST_CASE("what cannot be loaded or computed is named in one line, with status 1") {
    const std::vector<Mistake> failures = {
        {"x --model /no/such/model", "/no/such/model"},
        {"x --model .", "config.json"},
        {"--file /no/such/file", "/no/such/file"},
        {"x --dtype q4 --cache /no/such/file", "/no/such/file"},
        {"--file .", "is a directory"},
        {"x --threads -1", "-1 threads"},
        {"x --context 0", "context is 0"},
        {"x --stop ''", "stop_strings[0] is empty"},
        {"x --window none --context 1", "context"},
    };
    for (const Mistake& mistake : failures) {
        const Result run = generate(mistake.arguments);
        CAPTURE(mistake.arguments);
        CAPTURE(run.err);
        CHECK(run.status == 1);
        CHECK(run.out.empty());
        CHECK(run.err.starts_with("generate: "));
        CHECK(run.err.find(mistake.message) != run.err.npos);
        CHECK(lines(run.err) == 1);
    }
}

TEST_CASE("Ctrl-C ends the text, still gives the figures, and has status 130") {
    Result run;
    for (const std::string seconds : {"1", "5", "25"}) {  // a busy machine may take long to come to the first token
        run = generate("ROMEO: -n 1000000000", "timeout --foreground --preserve-status --signal=INT " + seconds);
        CHECK(run.status == 130);
        if (!run.out.empty()) break;
    }
    CHECK(run.err.find("tokens/s") != run.err.npos);
    CHECK(run.err.find("cancelled") != run.err.npos);
}
