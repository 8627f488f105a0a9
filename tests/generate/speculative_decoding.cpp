// Drafts change how much a forward pass computes and nothing else: each test compares with what happens without.

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <sstream>
#include <stop_token>
#include <vector>

#include <mistral/generate/session.hpp>

#include "tiny_model.hpp"

using namespace mistral;
using tiny::all_windows;
using tiny::part;

namespace {

using Windows = std::vector<Index>;
using Tokens = std::vector<Token>;

/// More tokens than several windows, where there are only such; else as many as the context takes.
Index long_for(const Windows& windows) {
    return std::ranges::find(windows, no_window) == windows.end() ? 100 : 50;
}

/// Makes the tokens 5 … 11 in turn likely, so that a sampled text mostly repeats itself.
auto repetitive_hook() {
    return [turn = 0](std::span<float> logits) mutable { logits[static_cast<std::size_t>(5 + turn++ % 7)] += 6; };
}

/// Ways to choose tokens, all of which repeat themselves at times.
std::vector<GenerateOptions> all_ways() {
    return {{},
            {.repetition_penalty = 1.1f, .repetition_window = 5},
            {.temperature = 0.3f},
            {.temperature = 1, .top_k = 2},
            {.temperature = 0.7f, .top_p = 0.6f, .min_p = 0.01f},
            {.temperature = 1, .logit_hook = repetitive_hook()}};
}

/// All that a generation shows.
struct Run {
    Tokens tokens;
    std::vector<double> logprobs;
    std::vector<TokenLogprob> alternatives;
    std::vector<Index> positions;
    StopReason reason = StopReason::none;

    friend bool operator==(const Run&, const Run&) = default;
};

struct Counts {
    Index drafted = 0;
    Index accepted = 0;
};

template <class Session>
Run run(Session& session, const Tokens& prompt, GenerateOptions options, Counts* counts = nullptr) {
    options.logprobs = 3;
    auto generation = session.generate(prompt, options);
    Run run;
    while (generation.next()) {
        run.tokens.push_back(generation.token());
        run.logprobs.push_back(generation.logprob());
        const auto alternatives = generation.alternatives();
        run.alternatives.insert(run.alternatives.end(), alternatives.begin(), alternatives.end());
        run.positions.push_back(session.position());
    }
    run.reason = generation.reason();
    if (counts != nullptr) *counts = {generation.drafted(), generation.accepted()};
    return run;
}

/// Both hold the same tokens and continue with the same bits, saved and forked too.
template <class Session>
void check_same(Session& session, Session& plain) {
    CHECK(session.position() == plain.position());
    CHECK(std::ranges::equal(session.recent(4096), plain.recent(4096)));
    std::stringstream saved;
    session.save(saved);
    Session restored(session.model(), session.options());
    restored.restore(saved);
    Session fork = session.fork();
    const auto expected = tiny::logits(plain);
    const auto more = tiny::tokens(plain.has_room_for(3) ? 3 : 0, 5);
    const Index position = plain.position();
    plain.append(more);
    for (Session* same : {&session, &restored, &fork}) {
        CHECK(same->position() == position);
        CHECK(tiny::logits(*same) == expected);
        same->append(more);
        CHECK(tiny::logits(*same) == tiny::logits(plain));
    }
}

/// Counts forward passes.
struct PassCountingCpu : Cpu {
    using Cpu::Cpu;

    template <class... Arguments>
    void embed(Arguments&&... arguments) const {
        ++*passes;
        Cpu::embed(std::forward<Arguments>(arguments)...);
    }

    std::shared_ptr<Index> passes = std::make_shared<Index>(0);
};

}  // namespace

TEST_CASE_TEMPLATE("a session goes on exactly after any draft, of which any number of tokens comes true", S, float,
                   bfloat16) {
    const auto tokens = tiny::tokens(60);
    for (const Windows& windows : all_windows) {
        const auto model = tiny::model<S>(tiny::config(windows), Cpu(1));
        Session plain(model);
        std::vector<std::vector<float>> expected;
        for (const Token& token : tokens) {
            plain.append(std::span(&token, 1));
            expected.push_back(tiny::logits(plain));
        }
        for (const Index length : {1, 2, 3, 5})
            for (Index right = 0; right <= length; ++right) {
                CAPTURE(windows[0]);
                CAPTURE(length);
                CAPTURE(right);
                Session session(model, {.rewind = length});
                session.append(part(tokens, 0, 3));
                int different = 0;
                for (Index next = 3; next + length < 60;) {
                    session.push(tokens[static_cast<std::size_t>(next++)]);
                    Tokens draft(part(tokens, next, length).begin(), part(tokens, next, length).end());
                    if (right < length) draft[static_cast<std::size_t>(right)] = 1;  // the text has no 1
                    for (Index i = 0; i < right; ++i) {
                        const auto logits = session.logits(draft);
                        different += !std::ranges::equal(logits, expected[static_cast<std::size_t>(next - 1)]);
                        session.push(tokens[static_cast<std::size_t>(next++)]);
                        different += session.position() != next;
                    }
                    const auto logits = session.logits(draft);
                    different += !std::ranges::equal(logits, expected[static_cast<std::size_t>(next - 1)]);
                    different += !std::ranges::equal(session.recent(60), part(tokens, 0, next));
                }
                CHECK(different == 0);
            }
    }
}

TEST_CASE("a draft counts for nothing until it is pushed, whatever else happens") {
    const auto tokens = tiny::tokens(30);
    for (const Windows& windows : all_windows)
        for (const Index pushed : {0, 1, 4}) {
            Session session(tiny::model(windows), {.rewind = 8});
            Session plain(tiny::model(windows), {.rewind = 8});
            session.append(part(tokens, 0, 19));
            session.push(tokens[19]);
            static_cast<void>(session.logits(part(tokens, 20, 4)));
            for (Index i = 0; i < pushed; ++i) session.push(tokens[static_cast<std::size_t>(20 + i)]);
            plain.append(part(tokens, 0, 20 + pushed));
            CHECK(session.has_room_for(1) == plain.has_room_for(1));
            auto scored = session.fork();
            auto rewound = session.fork();
            auto copy = plain;
            CHECK(scored.score(part(tokens, 24, 6)).logprobs == copy.score(part(tokens, 24, 6)).logprobs);
            CHECK(tiny::logits(scored) == tiny::logits(copy));
            rewound.rewind_to(18 + pushed);
            copy = plain;
            copy.rewind_to(18 + pushed);
            check_same(rewound, copy);
            check_same(session, plain);
        }
}

TEST_CASE("a draft that the session cannot take is refused before anything changes") {
    Session session(tiny::model({4, no_window}), {.context = 12, .rewind = 3});
    CHECK_THROWS_AS(static_cast<void>(session.logits(tiny::tokens(1))), Error);
    session.append(tiny::tokens(9));
    session.push(7);
    CHECK(message_of([&] { static_cast<void>(session.logits(tiny::tokens(4))); }) ==
          "a draft has 4 tokens, but rewind is 3");
    CHECK(message_of([&] { static_cast<void>(session.logits(tiny::tokens(3))); }) ==
          "the context is full: 10 positions are taken and 3 more were given");
    CHECK(message_of([&] {
              static_cast<void>(session.logits(Tokens{3, 40}));
          }) == "token 40 is outside the vocabulary of 40");
    CHECK_FALSE(session.has_logits());
    Session plain(tiny::model({4, no_window}), {.context = 16, .rewind = 3});
    plain.append(tiny::tokens(9));
    plain.push(7);
    static_cast<void>(session.logits(tiny::tokens(2)));
    CHECK(session.has_logits());
    CHECK(session.has_room_for(2));
    CHECK_FALSE(session.has_room_for(3));
    CHECK(tiny::logits(session) == tiny::logits(plain));
}

TEST_CASE_TEMPLATE("a generation is the same with drafts and without, for many seeds and several turns of the ring", S,
                   float, bfloat16) {
    Index accepted = 0;
    Index rejected = 0;
    for (const Windows& windows : all_windows) {
        const auto model = tiny::model<S>(tiny::config(windows), Cpu(1));
        const Index most = long_for(windows);
        for (GenerateOptions options : all_ways())
            for (const std::uint64_t seed : {0u, 1u, 2u, 3u, 4u}) {
                options.max_tokens = most;
                options.ignore_eos = true;
                options.seed = seed;
                options.draft_tokens = 0;
                const auto prompt = tiny::tokens(8, seed);
                Session plain(model, {.rewind = 16});
                const Run expected = run(plain, prompt, options);
                CHECK(expected.reason == StopReason::max_tokens);
                for (const Index draft_tokens : {1, 3, 16}) {
                    options.draft_tokens = draft_tokens;
                    Session session(model, {.rewind = draft_tokens});
                    Counts counts;
                    CHECK(run(session, prompt, options, &counts) == expected);
                    CHECK(tiny::logits(session) == tiny::logits(plain));
                    accepted += counts.accepted;
                    rejected += counts.drafted - counts.accepted;
                }
            }
    }
    CHECK(accepted > 1000);  // else little was tested
    CHECK(rejected > 1000);
}

TEST_CASE("a loop that is left early, at any token, leaves what it would leave without drafts") {
    for (const Windows& windows : all_windows) {
        const auto model = tiny::model(windows);
        for (Index count = 1; count <= 30; ++count) {
            GenerateOptions options{.max_tokens = 40, .temperature = 1, .logit_hook = repetitive_hook()};
            options.ignore_eos = true;
            Session plain(model, {.rewind = 8});
            Session session(model, {.rewind = 8});
            auto expected = plain.generate(tiny::tokens(8), options);
            options.draft_tokens = 8;
            auto generation = session.generate(tiny::tokens(8), options);
            for (Index i = 0; i < count; ++i) {
                REQUIRE(expected.next());
                REQUIRE(generation.next());
                CHECK(generation.token() == expected.token());
            }
            check_same(session, plain);
        }
    }
}

TEST_CASE("a stop token, a stop, a full context and an error of the hook end it as they do without drafts") {
    const Windows windows{4, no_window};
    const auto model = tiny::model(windows);
    const auto both = [&](const GenerateOptions& options, Index context, auto&& prepare) {
        std::vector<Run> runs;
        std::vector<Session<MistralModel<float>>> sessions;
        for (const Index draft_tokens : {0, 8}) {
            sessions.emplace_back(model, SessionOptions{.context = context, .rewind = 8});
            GenerateOptions prepared = options;
            prepared.draft_tokens = draft_tokens;
            prepare(prepared);
            runs.push_back(run(sessions.back(), tiny::tokens(8), prepared));
        }
        CHECK(runs[0] == runs[1]);
        check_same(sessions[1], sessions[0]);
        return runs[0];
    };
    const GenerateOptions options{.max_tokens = 40, .temperature = 1, .seed = 2, .ignore_eos = true};
    const auto repetitive = [](GenerateOptions& made) { made.logit_hook = repetitive_hook(); };
    const Tokens tokens = both(options, 64, repetitive).tokens;
    for (Token stop = 5; stop <= 11; ++stop) {
        const Run stopped = both(options, 64, [&](GenerateOptions& made) {
            // It is possible only once the text repeats itself, so that it is in the middle of drafts.
            repetitive(made);
            made.logit_hook = [turn = 0, stop, hook = made.logit_hook](std::span<float> logits) mutable {
                hook(logits);
                if (turn++ < 20) logits[static_cast<std::size_t>(stop)] = -tiny::infinity;
            };
            made.stop_tokens = {stop};
        });
        CHECK(stopped.reason == StopReason::stop_token);
        CHECK(stopped.tokens.size() >= 20);
    }
    for (Index context = 20; context < 40; ++context)
        CHECK(both(options, context, repetitive).reason == StopReason::context_full);
    for (const std::size_t count : {10u, 11u, 12u, 13u, 25u}) {
        std::stop_source stop;
        const Run cancelled = both(options, 64, [&](GenerateOptions& made) {
            stop = {};
            made.stop = stop.get_token();
            made.logit_hook = [&stop, turn = std::size_t{0}, count,
                               hook = repetitive_hook()](std::span<float> logits) mutable {
                hook(logits);
                if (++turn == count) stop.request_stop();
            };
        });
        CHECK(cancelled.reason == StopReason::cancelled);
        CHECK(cancelled.tokens == Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count)));

        Session session(model, {.rewind = 8});
        Session plain(model, {.rewind = 8});
        plain.append(tiny::tokens(8));
        plain.append(part(tokens, 0, static_cast<Index>(count)));
        auto failing = options;
        failing.draft_tokens = 8;
        failing.logit_hook = [turn = std::size_t{0}, count, hook = repetitive_hook()](std::span<float> logits) mutable {
            hook(logits);
            if (turn++ == count) logits[3] = tiny::nan;
        };
        CHECK_THROWS_AS(tiny::collect(session.generate(tiny::tokens(8), failing)), Error);
        check_same(session, plain);
    }
}

TEST_CASE("a second turn, which drafts from the first, is the same too") {
    const auto model = tiny::model({5, 8});
    Session plain(model);
    Session session(model, {.rewind = 4});
    GenerateOptions options{.max_tokens = 30, .temperature = 1, .top_k = 2, .ignore_eos = true};
    for (std::uint64_t turn = 0; turn < 4; ++turn) {
        options.seed = turn;
        options.draft_tokens = 0;
        const Run expected = run(plain, tiny::tokens(5, turn), options);
        options.draft_tokens = 4;
        CHECK(run(session, tiny::tokens(5, turn), options) == expected);
    }
    check_same(session, plain);
}

TEST_CASE("a text that repeats itself takes a fraction of the forward passes") {
    const auto model = tiny::model<float>(tiny::config({6}), PassCountingCpu(1));
    Session session(model, {.rewind = 16});
    GenerateOptions options{.max_tokens = 400, .ignore_eos = true, .draft_tokens = 16};
    options.logit_hook = [turn = 0](std::span<float> logits) mutable {
        logits[static_cast<std::size_t>(5 + turn++ % 7)] += 1000;
    };
    auto generation = session.generate(tiny::tokens(8), options);
    while (generation.next()) continue;
    CHECK(generation.generated() == 400);
    CHECK(*model.device().passes == 400 - generation.accepted());  // each yields a token besides those accepted
    CHECK(*model.device().passes < 400 / 8);
    CHECK(generation.accepted() > generation.drafted() * 9 / 10);
}

TEST_CASE("a random text backs off: few tokens are drafted for nothing") {
    const auto model = tiny::model<float>(tiny::config({6}), PassCountingCpu(1));
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
        *model.device().passes = 0;
        Session session(model, {.rewind = 16});
        auto generation = session.generate(
            tiny::tokens(8),
            {.max_tokens = 3000, .temperature = 1000, .seed = seed, .ignore_eos = true, .draft_tokens = 16});
        while (generation.next()) continue;
        CHECK(*model.device().passes == 3000 - generation.accepted());
        CHECK(generation.drafted() > 16);  // it goes on trying
        CHECK(generation.drafted() < 3000 / 10);
        CHECK(generation.accepted() < generation.drafted() / 4);
    }
}

TEST_CASE("nothing is drafted unless that is asked for, nor beyond the last token asked for") {
    const auto model = tiny::model<float>(tiny::config({6}), PassCountingCpu(1));
    for (const Index draft_tokens : {0, 8})
        for (const Index count : {1, 2, 3}) {
            *model.device().passes = 0;
            Session session(model, {.rewind = 8});
            auto generation =
                session.generate(Tokens{5, 5, 5, 5}, {.max_tokens = count,
                                                      .ignore_eos = true,
                                                      .draft_tokens = draft_tokens,
                                                      .logit_hook = [](std::span<float> logits) { logits[5] = 1000; }});
            CHECK(tiny::collect(generation) == Tokens(static_cast<std::size_t>(count), 5));
            CHECK(generation.drafted() == (draft_tokens > 0 ? std::max<Index>(count - 2, 0) : 0));
            CHECK(generation.accepted() == generation.drafted());
        }
}

TEST_CASE("drafts want a session that can take them back, which those without a window always can") {
    const auto error = [](const Windows& windows, SessionOptions session_options, Index draft_tokens) {
        Session session(tiny::model(windows), session_options);
        return message_of(
            [&] { static_cast<void>(session.generate(tiny::tokens(3), {.draft_tokens = draft_tokens})); });
    };
    const std::string message =
        "draft_tokens is 8, but the session's rewind is 7: drafts that fail are taken back, so rewind must be as large";
    CHECK(error({6}, {.rewind = 7}, 8) == message);
    CHECK(error({6, no_window}, {.rewind = 7}, 8) == message);
    CHECK(error({6}, {.rewind = 8}, 8) == "");
    CHECK(error({no_window}, {}, 16) == "");
    CHECK(error({6}, {.context = 5}, 16) == "");  // the window is never full
    CHECK(error({6}, {}, 0) == "");
    CHECK(error({6}, {.rewind = 99}, 17) == "draft_tokens is 17, expected 0 to 16");
    CHECK(error({6}, {.rewind = 99}, -1) == "draft_tokens is -1, expected 0 to 16");
}
