#include <mistral/base/mapped_file.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <system_error>

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include "../checkpoint/files.hpp"

using namespace mistral;

namespace {

std::string text_of(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

TEST_CASE("a mapped file gives the bytes and the size of the file") {
    const files::ScratchDirectory scratch;
    for (const std::size_t size : {1u, 4095u, 4096u, 4097u, 100'000u}) {
        std::string content(size, '\0');
        for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7);
        files::write(scratch / "file", content);
        const auto file = MappedFile::open(scratch / "file");
        CHECK(file->bytes().size() == size);
        CHECK(text_of(*file) == content);
        CHECK(file->name() == (scratch / "file").string());
    }
}

TEST_CASE("an empty file has no bytes") {
    const files::ScratchDirectory scratch;
    files::write(scratch / "empty", "");
    CHECK(MappedFile::open(scratch / "empty")->bytes().empty());
}

TEST_CASE("a path may hold characters beyond ASCII") {
    const files::ScratchDirectory scratch;
    const auto path = scratch / std::filesystem::path(u8"mod\u00e8le \u6a21\u578b");
    files::write(path, "abc");
    CHECK(text_of(*MappedFile::open(path)) == "abc");
    CHECK(files::contains(MappedFile::open(path)->name(), "mod\xc3\xa8le"));
}

TEST_CASE("a mapping outlives the first pointer to it and the name of its file") {
    const files::ScratchDirectory scratch;
    files::write(scratch / "file", "content");
    auto first = MappedFile::open(scratch / "file");
    const std::shared_ptr<const void> owner = first;
    const auto bytes = first->bytes();
    first.reset();
    std::filesystem::remove(scratch / "file");
    CHECK(std::memcmp(bytes.data(), "content", 7) == 0);
}

TEST_CASE("a file that another is renamed over stays what it was") {
    const files::ScratchDirectory scratch;
    files::write(scratch / "file", "old");
    const auto file = MappedFile::open(scratch / "file");
    files::write(scratch / "new", "new content");
    std::filesystem::rename(scratch / "new", scratch / "file");
    CHECK(text_of(*file) == "old");
}

TEST_CASE("what is missing or no regular file is refused by name") {
    const files::ScratchDirectory scratch;
    const auto refusal = [](const files::Path& path) { return message_of([&] { return MappedFile::open(path); }); };
    const auto unopened = [](const files::Path& path, std::errc reason) {
        return path.string() + " cannot be opened: " + std::make_error_code(reason).message();
    };
    CHECK(refusal(scratch / "missing") == unopened(scratch / "missing", std::errc::no_such_file_or_directory));
    CHECK(refusal(files::Path()) == unopened("", std::errc::no_such_file_or_directory));
    CHECK(refusal(scratch.path()) == scratch.path().string() + " is not a regular file");
#if !defined(_WIN32)
    CHECK(refusal("/dev/zero") == "/dev/zero is not a regular file");
    REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
    CHECK(refusal(scratch / "pipe") == (scratch / "pipe").string() + " is not a regular file");  // and does not wait
    std::filesystem::create_symlink(scratch / "loop", scratch / "loop");
    CHECK(refusal(scratch / "loop") == unopened(scratch / "loop", std::errc::too_many_symbolic_link_levels));
    CHECK(refusal(scratch / "pipe" / "file") == unopened(scratch / "pipe" / "file", std::errc::not_a_directory));
    files::write(scratch / "secret", "x");
    std::filesystem::permissions(scratch / "secret", std::filesystem::perms::none);
    if (::geteuid() != 0)  // who may read everything
        CHECK(refusal(scratch / "secret") == (scratch / "secret").string() + " cannot be mapped: " +
                                                 std::make_error_code(std::errc::permission_denied).message());
#endif
}
