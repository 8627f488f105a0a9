#include <mistral/base/file_in_directory.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "../checkpoint/files.hpp"

using namespace mistral;

namespace fs = std::filesystem;

TEST_CASE("a plain file is what its name says, however the directory is written") {
    const files::ScratchDirectory scratch;
    fs::create_directory(scratch / "model");
    files::write(scratch / "model" / "file", "x");
    CHECK(file_in_directory(scratch / "model", "file") == scratch / "model" / "file");
    CHECK(file_in_directory(scratch / "model" / ".." / "model/", "file") == scratch / "model" / "file");
    CHECK(files::contains(message_of([&] { return file_in_directory(scratch / "model", "other"); }),
                          (scratch / "model" / "other").string() + " cannot be opened: "));
}

#if !defined(_WIN32)

TEST_CASE("a link may lead to a file inside the directory, and nowhere else") {
    const files::ScratchDirectory scratch;
    fs::create_directory(scratch / "model");
    files::write(scratch / "model" / "file", "x");
    files::write(scratch / "model_file", "x");
    fs::create_symlink("file", scratch / "model" / "inside");
    fs::create_symlink("../model_file", scratch / "model" / "outside");
    CHECK(file_in_directory(scratch / "model", "inside") == scratch / "model" / "file");
    CHECK(message_of([&] { return file_in_directory(scratch / "model", "outside"); }) ==
          (scratch / "model" / "outside").string() + " is a link to " + (scratch / "model_file").string() +
              ", expected a file in the directory: open the directory that holds the files, or copy them");
}

TEST_CASE("in a cache of huggingface_hub a link may lead to the blobs beside the snapshots") {
    const files::ScratchDirectory scratch;
    fs::create_directory(scratch / "blobs");
    files::write(scratch / "blobs" / "0123abcd", "x");
    for (const char* parent : {"snapshots", "others"}) {
        fs::create_directories(scratch / parent / "revision");
        fs::create_symlink("../../blobs/0123abcd", scratch / parent / "revision" / "file");
    }
    CHECK(file_in_directory(scratch / "snapshots" / "revision", "file") == scratch / "blobs" / "0123abcd");
    CHECK(files::contains(message_of([&] { return file_in_directory(scratch / "others" / "revision", "file"); }),
                          " is a link to "));
}

#endif
