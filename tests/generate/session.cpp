#include <mistral/generate/session.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <concepts>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "tiny_model.hpp"

using namespace mistral;
using tiny::all_windows;
using tiny::part;

namespace {

using Windows = std::vector<Index>;

/// The logits after each token [tokens, vocab_size], by the model alone, one token at a time.
template <class C, class Model>
std::vector<std::vector<typename Model::A>> logits_of_model(const Model& model, std::span<const Token> tokens) {
    typename Model::template State<C> state(model.device(), model.config());
    std::vector<std::vector<typename Model::A>> all;
    for (const Token& token : tokens) {
        all.emplace_back(static_cast<std::size_t>(model.config().vocab_size));
        model.forward(std::span(&token, 1), state, {all.back().data(), 1, model.config().vocab_size});
    }
    return all;
}

}  // namespace

static_assert(std::same_as<decltype(Session(std::declval<MistralModel<bfloat16>>())), Session<MistralModel<bfloat16>>>);
static_assert(std::same_as<Session<MistralModel<bfloat16>>, Session<MistralModel<bfloat16>, bfloat16>>);
static_assert(std::same_as<Session<MistralModel<double>>, Session<MistralModel<double>, double>>);
static_assert(std::is_nothrow_move_constructible_v<Session<MistralModel<float>>>);

TEST_CASE_TEMPLATE("a session computes what the model does, for chunks and appends of any size", S, double, float, half,
                   bfloat16) {
    using C = DefaultCacheScalar<S>;
    const auto tokens = tiny::tokens(50);
    for (const Windows& windows : all_windows) {
        const auto model = tiny::model<S>(tiny::config(windows), Cpu(2));
        const auto expected = logits_of_model<C>(model, tokens);
        for (const Index chunk : {1, 2, 3, 7, 16, 512})
            for (const Index append : {1, 4, 9, 50}) {
                CAPTURE(windows[0]);
                CAPTURE(chunk);
                CAPTURE(append);
                Session session(model, {.chunk = chunk});
                int different = 0;
                for (Index done = 0; done < 50; done += append) {
                    session.append(part(tokens, done, std::min(append, 50 - done)));
                    different += tiny::logits(session) != expected[static_cast<std::size_t>(session.position() - 1)];
                }
                CHECK(session.position() == 50);
                CHECK(different == 0);
            }
    }
}

TEST_CASE("a pushed token is computed with what follows it, to the same bits") {
    const auto model = tiny::model({5, no_window});
    const auto tokens = tiny::tokens(40);
    const auto expected = logits_of_model<float>(model, tokens);
    for (const Index chunk : {1, 3, 512}) {
        Session session(model, {.chunk = chunk});
        Index done = 0;
        const auto push = [&] { session.push(tokens[static_cast<std::size_t>(done++)]); };
        push();
        CHECK(session.position() == 1);
        CHECK(tiny::logits(session) == expected[0]);
        push();
        push();
        CHECK(tiny::logits(session) == expected[2]);
        push();
        session.append(part(tokens, done, 20));
        done += 20;
        CHECK(session.position() == 24);
        CHECK(tiny::logits(session) == expected[23]);
        push();
        session.append({});
        CHECK(session.position() == 25);
        CHECK(std::ranges::equal(session.recent(25), part(tokens, 0, 25)));
        session.append(part(tokens, done, 15));
        CHECK(tiny::logits(session) == expected[39]);
    }
}

TEST_CASE("the logits that a token was chosen from are held until something else is computed") {
    Session session(tiny::model());
    const auto held = [&] { return message_of([&] { static_cast<void>(session.logits_before_last()); }).empty(); };
    CHECK_FALSE(held());
    session.push(3);  // chosen from nothing
    CHECK_FALSE(held());
    const auto before = tiny::logits(session);
    CHECK_FALSE(held());
    session.push(4);
    REQUIRE(held());
    CHECK(std::ranges::equal(session.logits_before_last(), before));
    session.push(5);
    CHECK_FALSE(held());
    static_cast<void>(session.logits());
    session.push(6);
    CHECK(held());
    session.append(tiny::tokens(1));
    CHECK_FALSE(held());
}

TEST_CASE("a session keeps its model alive and shares its weights") {
    std::optional<Session<MistralModel<float>>> session;
    std::vector<float> expected;
    {
        const auto model = tiny::model();
        session.emplace(model);
        expected = logits_of_model<float>(model, tiny::tokens(9)).back();
    }
    session->append(tiny::tokens(9));
    CHECK(tiny::logits(*session) == expected);
    Session temporary(tiny::model());
    temporary.append(tiny::tokens(9));
    CHECK(tiny::logits(temporary) == expected);
}

TEST_CASE("options outside their range are refused by name") {
    const auto model = tiny::model();
    const auto error = [&](const SessionOptions& options) { return message_of([&] { Session(model, options); }); };
    CHECK(error({.context = 0}) == "context is 0, expected 1 or more");
    CHECK(error({.context = -3}) == "context is -3, expected 1 or more");
    CHECK(error({.rewind = -1}) == "rewind is -1, expected 0 or more");
    CHECK(error({.chunk = 0}) == "chunk is 0, expected 1 to 65536");
    CHECK(error({.chunk = 65537}) == "chunk is 65537, expected 1 to 65536");
    CHECK(error({.context = 1, .rewind = 0, .chunk = 65536}) == "");
}

TEST_CASE("an empty session has no logits, and refuses tokens that the vocabulary lacks") {
    Session session(tiny::model());
    CHECK(message_of([&] { static_cast<void>(session.logits()); }) ==
          "the session is empty: there are no logits before the first token");
    CHECK(message_of([&] { session.append(std::vector<Token>{1, 40}); }) == "token 40 is outside the vocabulary of 40");
    CHECK(message_of([&] { session.push(-1); }) == "token -1 is outside the vocabulary of 40");
    CHECK(message_of([&] { session.score(std::vector<Token>{-1}); }) == "token -1 is outside the vocabulary of 40");
    CHECK(session.position() == 0);
    CHECK(session.recent(10).empty());
}

TEST_CASE("a context without a window ends, and what does not fit changes nothing") {
    Session session(tiny::model({4, no_window}), {.context = 10});
    CHECK(session.has_room_for(10));
    CHECK_FALSE(session.has_room_for(11));
    session.append(tiny::tokens(6));
    const auto before = tiny::logits(session);
    CHECK(message_of([&] { session.append(tiny::tokens(5)); }) ==
          "the context is full: 6 positions are taken and 5 more were given");
    CHECK(session.position() == 6);
    CHECK(tiny::logits(session) == before);
    session.append(tiny::tokens(3));
    session.push(5);
    CHECK_FALSE(session.has_room_for(1));
    CHECK(session.has_room_for(0));
    CHECK_THROWS_AS(session.push(5), Error);
    CHECK(tiny::logits(session).size() == 40);
    CHECK(session.position() == 10);
}

TEST_CASE("a session whose layers all have windows never ends, in memory that does not grow") {
    Session session(tiny::model({4, 7}), {.context = 16});
    const Index bytes = session.cache_bytes();
    CHECK(bytes == 2 * 2 * 6 * (4 + 7) * static_cast<Index>(sizeof(float)));
    CHECK(session.has_room_for(no_window));
    for (int i = 0; i < 50; ++i) session.append(tiny::tokens(400, static_cast<std::uint64_t>(i)));
    CHECK(session.position() == 20000);
    CHECK(session.cache_bytes() == bytes);
    // The last logits depend on the last 1 + (4 - 1) + (7 - 1) tokens at their positions only.
    const auto last = tiny::tokens(400, 49);
    Session other(tiny::model({4, 7}));
    for (int i = 0; i < 49; ++i) other.append(tiny::tokens(400, 99));
    other.append(tiny::tokens(390, 99));
    other.append(part(last, 390, 10));
    CHECK(tiny::logits(session) == tiny::logits(other));
}

TEST_CASE("a rewound session goes on exactly as if nothing had followed") {
    const auto tokens = tiny::tokens(60);
    for (const Windows& windows : all_windows) {
        const auto model = tiny::model(windows);
        const auto expected = logits_of_model<float>(model, tokens);
        for (const Index rewind : {0, 1, 3, 10}) {
            int different = 0;
            for (Index length = 1; length <= 60; length += 1 + rewind / 2)
                for (Index back = 0; back <= std::min(rewind, length); ++back) {
                    Session session(model, {.rewind = rewind});
                    session.append(part(tokens, 0, length));
                    const Index to = length - back;
                    REQUIRE(session.can_rewind_to(to));
                    session.rewind_to(to);
                    different += session.position() != to;
                    if (to > 0) different += tiny::logits(session) != expected[static_cast<std::size_t>(to - 1)];
                    session.append(part(tokens, to, std::min<Index>(60 - to, 13)));
                    const Index end = session.position();
                    different += tiny::logits(session) != expected[static_cast<std::size_t>(end - 1)];
                    different += !std::ranges::equal(session.recent(60), part(tokens, 0, end));
                }
            CAPTURE(windows[0]);
            CAPTURE(rewind);
            CHECK(different == 0);
        }
    }
}

TEST_CASE("a rewind that is no longer possible is an error that changes nothing") {
    const auto tokens = tiny::tokens(30);
    Session session(tiny::model({6}), {.rewind = 2});
    session.append(part(tokens, 0, 8));
    CHECK(session.first_rewind() == 0);  // all 8 are still held
    session.append(part(tokens, 8, 22));
    const auto before = tiny::logits(session);
    CHECK(session.first_rewind() == 28);
    CHECK(session.can_rewind_to(28));
    CHECK_FALSE(session.can_rewind_to(27));
    CHECK_FALSE(session.can_rewind_to(0));
    CHECK_FALSE(session.can_rewind_to(31));
    CHECK_FALSE(session.can_rewind_to(-1));
    CHECK(message_of([&] { session.rewind_to(27); }) ==
          "cannot rewind to position 27: the session is at 30 and can go back to 28");
    CHECK_THROWS_AS(session.rewind_to(31), Error);
    CHECK(session.position() == 30);
    CHECK(tiny::logits(session) == before);
    session.rewind_to(28);
    CHECK(session.first_rewind() == 28);
    CHECK_FALSE(session.can_rewind_to(27));
}

TEST_CASE("what can be rewound to is what the first position says") {
    for (const Windows& windows : all_windows)
        for (const Index rewind : {0, 2, 5}) {
            Session session(tiny::model(windows), {.rewind = rewind});
            int wrong = 0;
            for (int i = 0; i < 30; ++i) {
                session.push(5);
                if (i % 3 == 0) static_cast<void>(session.logits());
                for (Index to = 0; to <= session.position(); ++to)
                    wrong += session.can_rewind_to(to) != (to >= session.first_rewind());
            }
            CHECK(wrong == 0);
        }
}

namespace {

/// Counts what is copied inside its memory, in bytes.
struct CopyCountingCpu : Cpu {
    using Cpu::Cpu;

    template <class T>
    void copy(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        *copied += from.rows() * from.cols() * static_cast<Index>(sizeof(T));
        Cpu::copy(from, to, workspace);
    }

    std::shared_ptr<Index> copied = std::make_shared<Index>(0);
};

}  // namespace

TEST_CASE("a fork shares the model and copies what the caches hold, however large they are") {
    const auto model = tiny::model<float>(tiny::config({4, no_window}), CopyCountingCpu(1));
    const Session session(model, {.context = 1'000'000});
    Session used = session.fork();
    used.append(tiny::tokens(6));
    const Index& copied = *model.device().copied;
    CHECK(copied == 0);
    const auto fork = used.fork();
    CHECK(&fork.model() == &used.model());
    CHECK(copied == 2 * 2 * 6 * static_cast<Index>(sizeof(float)) * (4 + 6));
}

TEST_CASE("a fork and its origin go on independently") {
    const auto model = tiny::model({5, no_window});
    const auto tokens = tiny::tokens(30);
    const auto expected = logits_of_model<float>(model, tokens);
    for (const bool pushed : {false, true}) {
        Session session(model);
        session.append(part(tokens, 0, 11));
        pushed ? session.push(tokens[11]) : session.append(part(tokens, 11, 1));
        Session fork = session.fork();
        session.append(tiny::tokens(9, 99));
        fork.append(part(tokens, 12, 8));
        CHECK(tiny::logits(fork) == expected[19]);
        session = fork;
        fork.reset();
        CHECK(session.position() == 20);
        session.append(part(tokens, 20, 10));
        CHECK(tiny::logits(session) == expected[29]);
        Session moved = std::move(session);
        CHECK(moved.position() == 30);
        CHECK(tiny::logits(moved) == expected[29]);
    }
}

TEST_CASE("a session that was reset is as new") {
    const auto model = tiny::model({5, no_window});
    Session session(model, {.context = 40});
    session.append(tiny::tokens(33));
    session.push(4);
    session.reset();
    CHECK(session.position() == 0);
    CHECK(session.recent(10).empty());
    CHECK_THROWS_AS(static_cast<void>(session.logits()), Error);
    session.append(tiny::tokens(40, 3));
    CHECK(tiny::logits(session) == logits_of_model<float>(model, tiny::tokens(40, 3)).back());
}

TEST_CASE("scores are the log-probabilities that the logits give, in any split") {
    const auto tokens = tiny::tokens(150);
    const auto model = tiny::model<float>(tiny::config({6, 9}), Cpu(1));
    const auto logits = logits_of_model<float>(model, tokens);
    std::vector<double> expected;
    double sum = 0;
    for (std::size_t i = 1; i < tokens.size(); ++i) {
        double exponentials = 0;
        for (const float logit : logits[i - 1]) exponentials += std::exp(static_cast<double>(logit));
        expected.push_back(static_cast<double>(logits[i - 1][static_cast<std::size_t>(tokens[i])]) -
                           std::log(exponentials));
        sum -= expected.back();
    }
    for (const Index chunk : {1, 7, 512})
        for (const Index split : {0, 1, 63, 64, 65, 150}) {
            Session session(model, {.chunk = chunk});
            auto scores = session.score(part(tokens, 0, split));
            const auto rest = session.score(part(tokens, split, 150 - split));
            scores.logprobs.insert(scores.logprobs.end(), rest.logprobs.begin(), rest.logprobs.end());
            REQUIRE(scores.logprobs.size() == 149);
            double difference = 0;
            for (std::size_t i = 0; i < expected.size(); ++i)
                difference = std::max(difference, std::abs(scores.logprobs[i] - expected[i]));
            CHECK(difference < 1e-13);
            CHECK(scores.mean_nll() == doctest::Approx(sum / 149).epsilon(1e-13));
            CHECK(tiny::logits(session) == logits.back());
        }
    CHECK(std::isnan(Session(model).score({}).mean_nll()));
}

TEST_CASE("a session after a cancelled append holds whole chunks and goes on") {
    const auto model = tiny::model({6});
    const auto tokens = tiny::tokens(20);
    std::stop_source stop;
    Session session(model, {.chunk = 4});
    session.append(part(tokens, 0, 2), stop.get_token());
    stop.request_stop();
    CHECK_THROWS_AS(session.append(part(tokens, 2, 18), stop.get_token()), Cancelled);
    CHECK(message_of([&] { session.append(part(tokens, 2, 18), stop.get_token()); }) ==
          "cancelled at position 2, before 18 more tokens");
    CHECK_THROWS_AS(session.score(part(tokens, 2, 18), stop.get_token()), Cancelled);
    CHECK(session.position() == 2);
    session.append(part(tokens, 2, 18));
    CHECK(tiny::logits(session) == logits_of_model<float>(model, tokens).back());
}

TEST_CASE("another thread can cancel an append, after which the logits are those of the last whole chunk") {
    const auto model = tiny::model({6});
    std::vector<Token> tokens;
    for (std::uint64_t i = 0; i < 1000; ++i) {
        const auto more = tiny::tokens(1000, i);
        tokens.insert(tokens.end(), more.begin(), more.end());
    }
    Session session(model, {.chunk = 3});
    std::stop_source stop;
    std::atomic<bool> started = false;
    std::jthread canceller([&] {
        started.wait(false);
        stop.request_stop();
    });
    started = true;
    started.notify_one();
    CHECK_THROWS_AS(session.append(tokens, stop.get_token()), Cancelled);  // a million tokens take seconds
    CHECK(session.position() < 1000000);
    CHECK(session.position() % 3 == 0);
    if (session.position() > 0) {
        const auto held = part(tokens, 0, session.position());
        Session other(model);
        other.append(held);
        CHECK(tiny::logits(session) == tiny::logits(other));
        CHECK(std::ranges::equal(session.recent(100), other.recent(100)));
    }
}

TEST_CASE("sessions on several threads over one model give the tokens that each gives alone") {
    const auto model = tiny::model<bfloat16>(tiny::config({6, no_window}), Cpu(3));
    const auto run = [&](std::uint64_t seed) {
        Session session(model);
        std::vector<Token> all;
        for (int turn = 0; turn < 3; ++turn)
            for (const Token token : session.generate(
                     tiny::tokens(7, seed), {.max_tokens = 12, .temperature = 1, .top_p = 0.95f, .seed = seed}))
                all.push_back(token);
        return all;
    };
    constexpr std::size_t sessions = 4;
    std::vector<std::vector<Token>> alone(sessions);
    std::vector<std::vector<Token>> together(sessions);
    for (std::size_t i = 0; i < sessions; ++i) alone[i] = run(i);
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < sessions; ++i)
            threads.emplace_back([&, i] {
                for (int repeat = 0; repeat < 5; ++repeat) together[i] = run(i);
            });
    }
    for (std::size_t i = 0; i < sessions; ++i) CHECK(together[i] == alone[i]);
    CHECK(alone[0] != alone[1]);
}
