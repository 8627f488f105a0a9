#include <mistral/generate/options.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;

TEST_CASE("options at the ends of their ranges are accepted") {
    const std::vector<GenerateOptions> good{{},
                                            {.max_tokens = 0},
                                            {.max_tokens = std::numeric_limits<Index>::max()},
                                            {.temperature = 1e-45f},
                                            {.temperature = std::numeric_limits<float>::max()},
                                            {.top_k = std::numeric_limits<Index>::max()},
                                            {.top_p = 0, .min_p = 1},
                                            {.repetition_penalty = 0.01f, .repetition_window = 0},
                                            {.repetition_penalty = 100, .repetition_window = 4096},
                                            {.stop_tokens = {0, 39}},
                                            {.draft_tokens = 16},
                                            {.logprobs = 1024}};
    for (const GenerateOptions& options : good) CHECK(message_of([&] { validate(options, 40); }) == "");
}

TEST_CASE("an option outside its range is refused with its name, its value and what was expected") {
    struct Case {
        GenerateOptions options;
        std::string message;
    };
    const std::vector<Case> bad{
        {{.max_tokens = -1}, "max_tokens is -1, expected 0 or more"},
        {{.temperature = -1}, "temperature is -1, expected a finite number, 0 or more"},
        {{.temperature = tiny::nan}, "temperature is nan, expected a finite number, 0 or more"},
        {{.temperature = tiny::infinity}, "temperature is inf, expected a finite number, 0 or more"},
        {{.top_k = -5}, "top_k is -5, expected 0 or more"},
        {{.top_p = tiny::nan}, "top_p is nan, expected 0 to 1"},
        {{.top_p = 1.5f}, "top_p is 1.5, expected 0 to 1"},
        {{.top_p = -0.5f}, "top_p is -0.5, expected 0 to 1"},
        {{.min_p = tiny::nan}, "min_p is nan, expected 0 to 1"},
        {{.min_p = tiny::infinity}, "min_p is inf, expected 0 to 1"},
        {{.repetition_penalty = 0}, "repetition_penalty is 0, expected 0.01 to 100"},
        {{.repetition_penalty = tiny::nan}, "repetition_penalty is nan, expected 0.01 to 100"},
        {{.repetition_window = -1}, "repetition_window is -1, expected 0 to 4096"},
        {{.repetition_window = 4097}, "repetition_window is 4097, expected 0 to 4096"},
        {{.stop_tokens = {3, 40}}, "stop_tokens has 40, which is outside the vocabulary of 40"},
        {{.stop_tokens = {-1}}, "stop_tokens has -1, which is outside the vocabulary of 40"},
        {{.draft_tokens = -1}, "draft_tokens is -1, expected 0 to 16"},
        {{.draft_tokens = 17}, "draft_tokens is 17, expected 0 to 16"},
        {{.logprobs = -1}, "logprobs is -1, expected 0 to 1024"},
        {{.logprobs = 1025}, "logprobs is 1025, expected 0 to 1024"}};
    const auto model = tiny::model();
    for (const Case& test : bad) {
        CAPTURE(test.message);
        CHECK(message_of([&] { validate(test.options, 40); }) == test.message);
        Session session(model);
        CHECK(message_of([&] { static_cast<void>(session.generate(tiny::tokens(2), test.options)); }) == test.message);
        CHECK(session.position() == 0);
    }
}
