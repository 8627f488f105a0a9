#include <mistral/base/replacement_file.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "../checkpoint/files.hpp"

using namespace mistral;

#if !defined(_WIN32)

namespace {

/// Of the calls of fsync in this program: how many there were, and the error that they end with.
std::atomic<int> flushes = 0;
std::atomic<int> flush_error = 0;

}  // namespace

// Takes the place of the system's, which cannot be watched.
extern "C" int fsync(int file) {
    ++flushes;
    errno = flush_error;
    return flush_error == 0 ? ::fdatasync(file) : -1;
}

#endif

namespace {

using Names = std::vector<std::string>;

void replace(const files::Path& path, const std::string& content) {
    ReplacementFile file(path);
    file.write(files::bytes_of(content));
    file.take_place();
}

std::string refusal(const files::Path& path) {
    return message_of([&] { ReplacementFile{path}; });
}

}  // namespace

TEST_CASE("a file appears and is replaced as a whole, when it takes its place and not before") {
    const files::ScratchDirectory scratch;
    const auto path = scratch / "file";
    std::string before;
    for (const std::string& content : {std::string(100'000, 'a'), std::string("short"), std::string()}) {
        ReplacementFile file(path);
        file.write(files::bytes_of(content.substr(0, 3)));
        if (content.size() > 3) file.stream() << content.substr(3);
        CHECK(std::filesystem::exists(path) == !before.empty());
        CHECK((before.empty() || files::read(path) == before));
        const auto& complete = file.complete();
        CHECK((files::read(complete) == content));
        CHECK(complete.parent_path() == scratch.path());
        CHECK((before.empty() || files::read(path) == before));
        file.take_place();
        CHECK((files::read(path) == content));
        CHECK(scratch.names() == Names{"file"});
        before = content;
    }
}

TEST_CASE("an exception leaves the old file and nothing else, wherever it comes from") {
    const files::ScratchDirectory scratch;
    replace(scratch / "file", "old");
    for (const bool complete : {false, true}) {
        try {
            ReplacementFile file(scratch / "file");
            file.write(files::bytes_of("new"));
            if (complete) file.complete();
            throw 1;
        } catch (int) {
        }
        CHECK(files::read(scratch / "file") == "old");
        CHECK(scratch.names() == Names{"file"});
    }
}

TEST_CASE("what cannot be written is an error that names the path") {
    const files::ScratchDirectory scratch;
    const auto reason = [](const files::Path& path, std::errc error) {
        return path.string() + " cannot be written: " + std::make_error_code(error).message();
    };
    replace(scratch / "file", "old");
    const auto missing = scratch / "missing" / "file", below = scratch / "file" / "file";
    CHECK(refusal(missing) == reason(missing, std::errc::no_such_file_or_directory));
    CHECK(refusal(below) == reason(below, std::errc::not_a_directory));
    CHECK(refusal(scratch.path()) == scratch.path().string() + " is not a regular file");
#if !defined(_WIN32)
    CHECK(refusal("/dev/null") == "/dev/null is not a regular file");
    REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
    CHECK(refusal(scratch / "pipe") == (scratch / "pipe").string() + " is not a regular file");
    std::filesystem::remove(scratch / "pipe");
    if (const files::ReadOnly read_only(scratch.path()); read_only)
        CHECK(refusal(scratch / "file") == reason(scratch / "file", std::errc::permission_denied));
    else
        MESSAGE("not run: root cannot become somebody else here");
    {
        const files::SizeLimit limit(5000);
        const auto too_large = reason(scratch / "file", std::errc::file_too_large);
        const std::string large(20'000, 'x');
        CHECK(message_of([&] { replace(scratch / "file", large); }) == too_large);
        CHECK(message_of([&] {
                  ReplacementFile file(scratch / "file");
                  file.stream() << large.substr(0, 6000);  // too little for the stream to write at once
                  file.take_place();
              }) == too_large);
    }
    // The place is taken by a directory after the file was opened.
    CHECK(files::contains(message_of([&] {
                              ReplacementFile file(scratch / "other");
                              std::filesystem::create_directory(scratch / "other");
                              file.take_place();
                          }),
                          (scratch / "other").string() + " cannot be replaced: "));
    std::filesystem::remove(scratch / "other");
#endif
    CHECK(files::read(scratch / "file") == "old");
    CHECK(scratch.names() == Names{"file"});
}

#if !defined(_WIN32)

TEST_CASE("the bytes are on the disk before the path is theirs") {
    const files::ScratchDirectory scratch;
    replace(scratch / "file", "old");
    const int before = flushes;
    ReplacementFile file(scratch / "file");
    file.write(files::bytes_of("new"));
    CHECK(flushes == before);
    file.complete();
    CHECK(flushes == before + 1);
    CHECK(files::read(scratch / "file") == "old");
    file.take_place();
    CHECK(flushes == before + 1);
    CHECK(files::read(scratch / "file") == "new");

    flush_error = EIO;
    CHECK(message_of([&] { replace(scratch / "file", "lost"); }) ==
          (scratch / "file").string() + " cannot be written: " + std::make_error_code(std::errc::io_error).message());
    flush_error = 0;
    CHECK(files::read(scratch / "file") == "new");
    CHECK(scratch.names() == Names{"file"});
}

TEST_CASE("a link is replaced, not the file that it leads to") {
    const files::ScratchDirectory scratch;
    replace(scratch / "target", "old");
    std::filesystem::create_symlink("target", scratch / "link");
    replace(scratch / "link", "new");
    CHECK(files::read(scratch / "target") == "old");
    CHECK(files::read(scratch / "link") == "new");
    CHECK_FALSE(std::filesystem::is_symlink(scratch / "link"));
}

#endif

TEST_CASE("several writers at once do not mix, and readers see whole files only") {
    const files::ScratchDirectory scratch;
    const auto path = scratch / "file";
    const auto is_whole = [](const std::string& content) {
        return content.size() == 50'000 && content.find_first_not_of(content[0]) == std::string::npos;
    };
    replace(path, std::string(50'000, '0'));
    std::atomic<int> broken = 0;
    std::vector<std::thread> threads;
    for (const char letter : {'a', 'b', 'c', 'd'})
        threads.emplace_back([&, letter] {
            for (int i = 0; i < 25; ++i) {
                ReplacementFile file(path);
                for (int part = 0; part < 5; ++part) file.write(files::bytes_of(std::string(10'000, letter)));
                file.take_place();
                broken += !is_whole(files::read(path));
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(broken == 0);
    CHECK(is_whole(files::read(path)));
    CHECK(scratch.names() == Names{"file"});
}
