#include <mistral/generate/saved_session.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <mistral/generate/session.hpp>

#include "checkpoint/files.hpp"
#include "tiny_model.hpp"

using namespace mistral;

namespace {

template <class Session>
std::string saved(const Session& session) {
    std::ostringstream out(std::ios::binary);
    session.save(out);
    return out.str();
}

template <class Session>
void restore(Session& session, const std::string& bytes) {
    std::istringstream in(bytes, std::ios::binary);
    session.restore(in);
}

template <class Session>
std::string restore_error(Session& session, const std::string& bytes) {
    return message_of([&] { restore(session, bytes); });
}

const GenerateOptions continuation{
    .max_tokens = 20, .temperature = 1.3f, .repetition_penalty = 1.2f, .seed = 9, .ignore_eos = true};

/// Where the numbers that follow the header start.
std::size_t header_size(const std::string& bytes) {
    std::int64_t length = 0;
    std::memcpy(&length, bytes.data() + 16, sizeof(length));
    return 24 + static_cast<std::size_t>(length);
}

std::string with_number(std::string bytes, std::size_t at, std::int64_t number) {
    std::memcpy(bytes.data() + at, &number, sizeof(number));
    return bytes;
}

}  // namespace

TEST_CASE_TEMPLATE("a restored session continues with the same bits", S, double, float, half, bfloat16) {
    for (const std::vector<Index>& windows : {std::vector<Index>{1}, {6}, {4, no_window}, {no_window}}) {
        const auto model = tiny::model<S>(tiny::config(windows), Cpu(1));
        for (const Index length : {0, 1, 5, 6, 7, 23})
            for (const bool pushed : {false, true}) {
                Session session(model, {.rewind = 2});
                session.append(tiny::tokens(length));
                if (pushed) session.push(11);
                const std::string bytes = saved(session);

                Session other(model, {.rewind = 2, .chunk = 3});
                other.append(tiny::tokens(9, 5));  // is replaced
                restore(other, bytes);
                CHECK(other.position() == session.position());
                CHECK(other.first_rewind() == session.first_rewind());
                CHECK(std::ranges::equal(other.recent(4096), session.recent(4096)));
                CHECK(saved(other) == bytes);
                if (session.position() == 0) continue;
                CHECK(tiny::logits(other) == tiny::logits(session));
                CHECK(tiny::collect(other.generate({}, continuation)) ==
                      tiny::collect(session.generate({}, continuation)));
                session.rewind_to(session.position() - 2);
                other.rewind_to(other.position() - 2);
                CHECK(tiny::logits(other) == tiny::logits(session));
            }
    }
}

TEST_CASE("a restored session with a cache in 8 bits continues with the same bits, and no other cache takes its file") {
    const auto model = tiny::model({4, no_window});
    Session<MistralModel<float>, Q8> session(model, {.rewind = 2});
    session.append(tiny::tokens(23));
    const std::string bytes = saved(session);
    Session<MistralModel<float>, Q8> other(model, {.rewind = 2, .chunk = 3});
    restore(other, bytes);
    CHECK(saved(other) == bytes);
    CHECK(tiny::logits(other) == tiny::logits(session));
    CHECK(tiny::collect(other.generate({}, continuation)) == tiny::collect(session.generate({}, continuation)));
    session.rewind_to(41);
    other.rewind_to(41);
    other.append(tiny::tokens(5));
    for (const Token token : tiny::tokens(5)) session.append(std::span(&token, 1));
    CHECK(tiny::logits(other) == tiny::logits(session));

    Session in_float(model, {.rewind = 2});
    const std::string refusal = restore_error(in_float, bytes);
    CHECK(refusal.find("cache q8\"; expected: ") != refusal.npos);
    CHECK(refusal.ends_with("cache float\""));
    CHECK(restore_error(other, saved(in_float)).ends_with("cache q8\""));
}

TEST_CASE("a draft that was computed when a session was saved is not restored, whatever the numbers say of logits") {
    const auto model = tiny::model();
    Session session(model, {.rewind = 3});
    session.append(tiny::tokens(9));
    session.push(5);
    static_cast<void>(session.logits(tiny::tokens(3)));
    const std::string bytes = saved(session);
    Session plain(model, {.rewind = 3});
    plain.append(tiny::tokens(9));
    plain.push(5);
    for (const std::int64_t has_logits : {1, 0}) {
        Session other(model, {.rewind = 3});
        restore(other, with_number(bytes, header_size(bytes) + 16, has_logits));
        CHECK(other.position() == 10);
        CHECK(tiny::logits(other) == tiny::logits(plain));
        CHECK(saved(other).size() < bytes.size());  // without the draft's keys and values
    }
}

TEST_CASE("several sessions can stand one after the other in a stream") {
    const auto model = tiny::model();
    Session first(model);
    Session second(model);
    first.append(tiny::tokens(9));
    second.append(tiny::tokens(3, 4));
    std::stringstream stream;
    first.save(stream);
    second.save(stream);
    Session session(model);
    session.restore(stream);
    CHECK(tiny::logits(session) == tiny::logits(first));
    session.restore(stream);
    CHECK(tiny::logits(session) == tiny::logits(second));
}

TEST_CASE("a session goes to a file and back") {
    const auto model = tiny::model();
    const files::ScratchDirectory directory;
    const files::Path file = directory / "session";
    Session session(model);
    session.append(tiny::tokens(17));
    session.save(file);
    session.append(tiny::tokens(3));
    session.save(file);  // replaces
    CHECK(directory.names() == std::vector<std::string>{"session"});
    Session other(model);
    other.restore(file);
    CHECK(tiny::logits(other) == tiny::logits(session));

    std::ofstream(file, std::ios::binary | std::ios::app) << "x";
    CHECK(message_of([&] { other.restore(file); }) == utf8(file) + ": the file goes on after the end of the session");
    CHECK(other.position() == 0);
}

TEST_CASE("files that cannot be read or written are named") {
    Session session(tiny::model());
    CHECK(message_of([&] { session.restore(std::filesystem::path("/nowhere/session")); }) ==
          "/nowhere/session: cannot be opened for reading");
    CHECK(message_of([&] { session.save(std::filesystem::path("/nowhere/session")); }) ==
          "/nowhere/session cannot be written: No such file or directory");
    CHECK_THROWS_AS(session.restore(std::filesystem::temp_directory_path()), Error);
    CHECK(message_of([&] { session.save(std::filesystem::temp_directory_path()); }) ==
          utf8(std::filesystem::temp_directory_path()) + " is not a regular file");
    std::ofstream closed;
    CHECK(message_of([&] { session.save(closed); }) == "the session could not be written");
}

#if !defined(_WIN32)

TEST_CASE("a disk without room leaves the session that was saved before") {
    const files::ScratchDirectory directory;
    const files::Path file = directory / "session";
    Session session(tiny::model());
    session.append(tiny::tokens(2));
    session.save(file);
    const std::string before = files::read(file);
    session.append(tiny::tokens(2));
    for (const rlim_t bytes : {0u, 1000u}) {
        const files::SizeLimit limit(bytes);
        CHECK(files::contains(message_of([&] { session.save(file); }), file.string()));
    }
    CHECK((files::read(file) == before));
    CHECK(directory.names() == std::vector<std::string>{"session"});
}

#endif

TEST_CASE("a saved session that ends early is refused wherever it ends, and leaves an empty session") {
    const auto model = tiny::model({5, no_window});
    Session session(model, {.context = 16});
    session.append(tiny::tokens(9));
    const std::string bytes = saved(session);
    Session other(model, {.context = 16});
    int accepted = 0;
    int not_empty = 0;
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        accepted += restore_error(other, bytes.substr(0, size)).find("end") == std::string::npos;
        not_empty += other.position() != 0;
    }
    CHECK(accepted == 0);
    CHECK(not_empty == 0);
    restore(other, bytes);
    CHECK(tiny::logits(other) == tiny::logits(session));
}

TEST_CASE("numbers that lie are refused, or harmless") {
    const auto model = tiny::model({5, no_window});
    Session session(model, {.context = 16});
    session.append(tiny::tokens(9));
    const std::string bytes = saved(session);
    const std::size_t header = header_size(bytes);
    const std::vector<std::int64_t> lies{
        -1, 0, 1, 8, 10, 16, 17, 1 << 20, std::int64_t{1} << 52, no_window, std::numeric_limits<std::int64_t>::min()};
    Session other(model, {.context = 16});
    int survived = 0;
    std::vector<std::size_t> places{0, 8, 16};
    for (std::size_t at = header; at + 8 <= bytes.size(); at += 4) places.push_back(at);
    for (const std::size_t at : places)
        for (const std::int64_t lie : lies) {
            const bool harmless = at == header + 16 && lie == 0;  // no logits: they are computed again
            if (with_number(bytes, at, lie) == bytes || harmless) continue;
            const std::string error = restore_error(other, with_number(bytes, at, lie));
            if (!error.empty()) {
                survived += other.position() != 0;
                continue;
            }
            // Tokens, logits, keys and values can be any; the session then works, with these.
            survived += at < header || (at < header + 32 && (at - header) % 8 == 0);
            survived += other.position() != 9;
            other.append(tiny::tokens(3));
            if (other.can_rewind_to(5)) other.rewind_to(5);
        }
    CHECK(survived == 0);
}

TEST_CASE("every byte of the header, the numbers and the end matters") {
    const auto model = tiny::model({5, no_window});
    Session session(model, {.context = 16});
    session.append(tiny::tokens(9));
    const std::string bytes = saved(session);
    Session other(model, {.context = 16});
    int accepted = 0;
    for (std::size_t at = 0; at < header_size(bytes) + 32; ++at)
        for (const int bit : {0, 3, 7}) {
            std::string damaged = bytes;
            damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
            accepted += restore_error(other, damaged).empty();
        }
    for (std::size_t at = bytes.size() - 8; at < bytes.size(); ++at) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ 1);
        accepted += restore_error(other, damaged).empty();
    }
    // The one bit that may differ: whether there are logits. Without them they are computed again.
    CHECK(accepted == 1);
    restore(other, with_number(bytes, header_size(bytes) + 16, 0));
    CHECK(tiny::logits(other) == tiny::logits(session));

    session.push(3);  // now there are none
    const std::string pushed = saved(session);
    CHECK(restore_error(other, with_number(pushed, header_size(pushed) + 16, 1)) ==
          "the saved session is damaged: position 10 with 1 tokens to compute, 1 rows of logits and 10 tokens");
}

TEST_CASE("a session saved with fewer tokens than its caches hold cannot be rewound beyond them") {
    const auto model = tiny::model({no_window});
    Session session(model);
    session.append(tiny::tokens(9));
    std::string bytes = saved(session);
    const std::size_t numbers = header_size(bytes);
    bytes = with_number(bytes, numbers + 24, 2);
    bytes.erase(numbers + 32, 7 * sizeof(Token));
    Session other(model);
    restore(other, bytes);
    CHECK(tiny::logits(other) == tiny::logits(session));
    CHECK(other.first_rewind() == 8);
    CHECK_FALSE(other.can_rewind_to(7));
    CHECK_THROWS_AS(other.rewind_to(7), Error);
    session.rewind_to(8);
    other.rewind_to(8);
    CHECK(tiny::logits(other) == tiny::logits(session));
}

TEST_CASE("a session of another model, scalar or geometry is refused with both") {
    Session session(tiny::model({6}));
    session.append(tiny::tokens(9));
    const std::string bytes = saved(session);
    const auto error = [&](auto&& other) { return restore_error(other, bytes); };
    const std::string start = "the saved session is of another model: ";

    Session other_windows(tiny::model({7}));
    CHECK(error(other_windows) ==
          start +
              "\"layers 2, hidden_size 16, intermediate_size 24, query_heads 4, kv_heads 2, head_dim 6, vocab_size 40, "
              "rope_theta 10000, norm_eps 1e-05, windows 6, halves, untied, weights float, cache float\"; expected: "
              "\"layers 2, hidden_size 16, intermediate_size 24, query_heads 4, kv_heads 2, head_dim 6, vocab_size 40, "
              "rope_theta 10000, norm_eps 1e-05, windows 7, halves, untied, weights float, cache float\"");
    CHECK(error(Session(tiny::model<bfloat16>(tiny::config({6}), Cpu(1)))).starts_with(start));
    CHECK(error(Session<MistralModel<float>, bfloat16>(tiny::model({6}))).starts_with(start));
    auto config = tiny::config({6});
    config.rope_theta = 10000.001;
    CHECK(error(Session(tiny::model<float>(config, Cpu(1)))).starts_with(start));
    config = tiny::config({6});
    config.rotary_pairing = RotaryPairing::adjacent;
    CHECK(error(Session(tiny::model<float>(config, Cpu(1)))).starts_with(start));
    CHECK(error(Session(tiny::model({6}), {.rewind = 1})).find("slots") != std::string::npos);
    CHECK(restore_error(session, "not a session at all, but a text of some length") ==
          "this is not a saved session, or one of a machine of another byte order");
    CHECK(restore_error(session, with_number(bytes, 8, 2)) == "the saved session has version 2, expected 1");
    CHECK(restore_error(session, with_number(bytes, 16, 1 << 30)).find("expected at most 65536") != std::string::npos);
    CHECK(session.position() == 0);
}
