#include <mistral/checkpoint/load.hpp>
#include <mistral/checkpoint/packed_file.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "files.hpp"
#include "kernels.hpp"

using namespace mistral;

namespace {

namespace fs = std::filesystem;
using Modified = fs::file_time_type;

/// A scratch directory with a copy of a model of bfloat16 and room for packed files.
struct Scratch {
    explicit Scratch(const files::Path& from = files::hugging_face) {
        fs::create_directory(model);
        fs::copy(from, model, fs::copy_options::recursive);
    }

    template <class S>
    [[nodiscard]] MistralModel<S> load(LoadOptions options = {}) const {
        options.packed_file = packed;
        return MistralModel<S>::load(model, Cpu(2), options);
    }

    files::ScratchDirectory directory;
    files::Path model = directory / "model";
    files::Path weights = model / "model.safetensors";
    files::Path packed = directory / "weights.packed";
};

template <class Model>
std::vector<float> logits_of(const Model& model) {
    const std::vector<Token> tokens{1, 17, 99, 5, 42, 7};
    typename Model::template State<float> state(model.device(), model.config());
    std::vector<float> logits(tokens.size() * static_cast<std::size_t>(model.config().vocab_size));
    model.template forward<float>(tokens, state,
                                  {logits.data(), static_cast<Index>(tokens.size()), model.config().vocab_size});
    return logits;
}

template <class S>
std::vector<float> logits_without(const Scratch& scratch) {
    return logits_of(MistralModel<S>::load(scratch.model, Cpu(2)));
}

/// Makes the packed file one that was written long ago, by which one that is written now differs.
Modified make_old(const files::Path& file) {
    const auto old = fs::last_write_time(file) - std::chrono::hours(100);
    fs::last_write_time(file, old);
    return fs::last_write_time(file);
}

/// Whether loading replaces the packed file as it is. The logits must be right in any case.
template <class S>
bool is_replaced(const Scratch& scratch) {
    const auto old = make_old(scratch.packed);
    CHECK(logits_of(scratch.load<S>()) == logits_without<S>(scratch));
    return fs::last_write_time(scratch.packed) != old;
}

/// The files beside the model: the packed one, and whatever should not have been left there.
std::vector<std::string> names_in(const Scratch& scratch) {
    auto names = scratch.directory.names();
    std::erase(names, "model");
    return names;
}

const files::Path bundled = MISTRAL_MODELS "/shakespeare";
const std::vector<std::string> only_packed{"weights.packed"};

/// The same with the last bit of one byte turned round.
std::string flipped(std::string bytes, std::size_t at) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    return bytes;
}

}  // namespace

TEST_CASE_TEMPLATE("a packed file changes no bit of the logits, when it is written and when it is read", S, Q8, Q4) {
    for (const files::Path& from :
         {bundled, files::hugging_face, files::sharded, files::consolidated, files::reference / "tied"}) {
        CAPTURE(from.string());
        const Scratch scratch(from);
        const auto expected = logits_without<S>(scratch);
        CHECK(logits_of(scratch.load<S>()) == expected);
        CHECK_FALSE(is_replaced<S>(scratch));
        CHECK(names_in(scratch) == only_packed);
    }
}

TEST_CASE("the second loading reads none of the weights that the first has quantised") {
    const Scratch scratch;
    const auto expected = logits_of(scratch.load<Q4>());
    const auto modified = fs::last_write_time(scratch.weights);
    auto poisoned = files::read(scratch.weights);
    const Checkpoint checkpoint = Checkpoint::open(scratch.model);
    for (const auto& [name, tensor] : checkpoint.tensors())
        if (tensor.shape.size() == 2 && name != "model.embed_tokens.weight") {
            const auto at = poisoned.find(std::string(reinterpret_cast<const char*>(tensor.bytes.data()), 64));
            REQUIRE(at != poisoned.npos);
            poisoned.replace(at, tensor.bytes.size(), tensor.bytes.size(), '\x7f');
        }
    files::write(scratch.weights, poisoned);
    fs::last_write_time(scratch.weights, modified);
    CHECK(logits_of(scratch.load<Q4>()) == expected);
    CHECK(files::contains(message_of([&] { return logits_without<Q4>(scratch); }), "beyond the range of q4"));
}

TEST_CASE("a mapped matrix lies in the file, at a multiple of 64 bytes, and outlives its name") {
    const Scratch scratch;
    static_cast<void>(scratch.load<Q8>());
    const Checkpoint checkpoint = Checkpoint::open(scratch.model);
    const Cpu device(1);
    const LoadOptions options{.packed_file = scratch.packed};
    const auto weights = WeightLoader<Q8, Cpu>(checkpoint, device, options).load();
    const auto plain = WeightLoader<Q8, Cpu>(checkpoint, device, {}).load();
    const std::string file = files::read(scratch.packed);
    fs::remove(scratch.packed);
    for (const auto& [mapped, made] :
         {std::pair(weights.blocks[0].attention.query, plain.blocks[0].attention.query),
          std::pair(weights.blocks[1].feed_forward.down, plain.blocks[1].feed_forward.down),
          std::pair(weights.output, plain.output)}) {
        CHECK(std::ranges::equal(mapped.bytes(), made.bytes()));
        const std::string bytes(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
        CHECK(file.find(bytes) % 64 == 0);
        CHECK(reinterpret_cast<std::uintptr_t>(mapped.bytes().data()) % 64 == 0);
    }
}

TEST_CASE("a packed file of another state of the checkpoint is replaced") {
    const Scratch scratch;
    static_cast<void>(scratch.load<Q4>());
    SUBCASE("its tensors were modified at another time") {
        fs::last_write_time(scratch.weights, fs::last_write_time(scratch.weights) + std::chrono::nanoseconds(1000));
        CHECK(is_replaced<Q4>(scratch));
    }
    SUBCASE("its header says something else of the same length") {
        const auto modified = fs::last_write_time(scratch.weights);
        auto bytes = files::read(scratch.weights);
        const std::string first = "layers.0.self_attn.k_proj", second = "layers.1.self_attn.k_proj";
        const auto a = bytes.find(first), b = bytes.find(second);
        REQUIRE(std::max(a, b) != bytes.npos);
        bytes.replace(a, first.size(), second).replace(b, second.size(), first);
        files::write(scratch.weights, bytes);
        fs::last_write_time(scratch.weights, modified);
        CHECK(is_replaced<Q4>(scratch));
    }
    SUBCASE("its file has another size") {
        const auto modified = fs::last_write_time(scratch.weights);
        auto tensors = files::read_safetensors(scratch.weights);
        std::swap(tensors.front(), tensors.back());
        files::write(scratch.weights, files::safetensors(tensors));
        fs::last_write_time(scratch.weights, modified);
        CHECK(is_replaced<Q4>(scratch));
    }
    SUBCASE("its config alone has changed, which concerns no weights") {
        auto config = files::read_json(scratch.model / "config.json");
        config["rope_theta"] = 12345;
        files::write(scratch.model / "config.json", config.dump());
        CHECK_FALSE(is_replaced<Q4>(scratch));
    }
    SUBCASE("the directory has another name only") {
        Scratch moved;
        fs::rename(scratch.packed, moved.packed);
        fs::remove_all(moved.model);
        fs::rename(scratch.model, moved.model);
        CHECK_FALSE(is_replaced<Q4>(moved));
        return;
    }
    CHECK_FALSE(is_replaced<Q4>(scratch));
}

TEST_CASE("a packed file of another scalar or version is replaced") {
    const Scratch scratch;
    static_cast<void>(scratch.load<Q4>());
    CHECK(is_replaced<Q8>(scratch));
    CHECK(is_replaced<Q4>(scratch));
    CHECK_FALSE(is_replaced<Q4>(scratch));
    for (const std::string version :
         {"version 1, little-endian", "quantised by version 1", "panels of 32 rows, version 1"}) {
        CAPTURE(version);
        auto bytes = files::read(scratch.packed);
        const auto at = bytes.find(version);
        REQUIRE(at != bytes.npos);
        bytes[at + version.find('1')] = '2';
        files::write(scratch.packed, bytes);
        CHECK(is_replaced<Q4>(scratch));
    }
}

TEST_CASE("a packed file that is cut off, too long or changed anywhere near the ends of matrices is replaced") {
    const Scratch scratch(files::reference / "tied");  // whose matrices are so small that they are all ends
    static_cast<void>(scratch.load<Q4>());
    const auto bytes = files::read(scratch.packed);
    constexpr std::size_t mark = 23;  // bytes that tell it from other files
    std::vector<std::string> damaged{"", bytes + '\0', bytes + bytes,
                                     bytes.substr(0, bytes.size() / 2) + std::string(bytes.size() / 2, '\0')};
    for (const std::size_t length :
         {std::size_t{1}, mark - 1, mark, std::size_t{64}, std::size_t{1000}, bytes.size() / 2, bytes.size() - 1})
        damaged.push_back(bytes.substr(0, length));
    for (std::size_t at = mark; at < bytes.size(); at += 1237) damaged.push_back(flipped(bytes, at));
    damaged.push_back(flipped(bytes, mark));
    damaged.push_back(flipped(bytes, bytes.size() - 1));
    REQUIRE(damaged.size() > 30);
    for (std::size_t i = 0; i < damaged.size(); ++i) {
        CAPTURE(i);
        files::write(scratch.packed, damaged[i]);
        CHECK(is_replaced<Q4>(scratch));
        CHECK((files::read(scratch.packed) == bytes));
    }
}

TEST_CASE("of large matrices 4096 bytes at either end are checked") {
    const Scratch scratch(bundled);
    static_cast<void>(scratch.load<Q8>());
    const auto bytes = files::read(scratch.packed);
    const auto end = bytes.size() - sizeof(std::uint64_t);
    const auto begin = end - static_cast<std::size_t>(PackedMatrix<Q8>::bytes_of(2048, 256));
    for (const std::size_t at : {begin, begin + 4095, end - 4096, end - 1}) {
        files::write(scratch.packed, flipped(bytes, at));
        CHECK(is_replaced<Q8>(scratch));
        CHECK((files::read(scratch.packed) == bytes));
    }
}

TEST_CASE("what is no packed file is refused by name and stays as it is") {
    const Scratch scratch;
    for (const std::string& other : {std::string("{\"a\": 1}"), std::string(100000, '\0'),
                                     std::string("mistral packed", 9) + "?", files::read(scratch.weights)}) {
        files::write(scratch.packed, other);
        CHECK(message_of([&] { return scratch.load<Q4>(); }) ==
              scratch.packed.string() +
                  " is no file of packed weights and is not replaced by one: delete it, or give another path");
        CHECK((files::read(scratch.packed) == other));
    }
    fs::remove(scratch.packed);
    fs::create_directory(scratch.packed);
    CHECK(message_of([&] { return scratch.load<Q4>(); }) == scratch.packed.string() + " is not a regular file");
    CHECK(message_of([&] { return MistralModel<Q4>::load(scratch.model, Cpu(1), {.packed_file = files::Path()}); }) ==
          "\"\" is no path of a file of packed weights");
    CHECK(names_in(scratch) == only_packed);
}

TEST_CASE("other scalars refuse a packed file") {
    const Scratch scratch;
    CHECK(message_of([&] { return scratch.load<bfloat16>(); }) ==
          scratch.packed.string() + " cannot hold weights of the type bfloat16, expected q8 or q4");
    CHECK(names_in(scratch).empty());
}

TEST_CASE("a packed file that cannot be written is an error that names it, before anything is quantised") {
    const Scratch scratch;
    int tensors = 0;
    const auto message = [&](const files::Path& packed) {
        return message_of([&] {
            return MistralModel<Q4>::load(scratch.model, Cpu(1),
                                          {.progress = [&](const LoadProgress&) { ++tensors; }, .packed_file = packed});
        });
    };
    const auto missing = scratch.directory / "missing" / "weights.packed";
    CHECK(message(missing) == missing.string() + " cannot be written: No such file or directory");
    const auto below_file = scratch.weights / "weights.packed";
    CHECK(message(below_file) == below_file.string() + " cannot be written: Not a directory");
    CHECK(tensors == 0);
#if !defined(_WIN32)
    const files::ReadOnly read_only(scratch.directory.path());
    if (!read_only) {
        MESSAGE("not run: root cannot become somebody else here");
        return;
    }
    CHECK(message(scratch.packed) == scratch.packed.string() + " cannot be written: Permission denied");
    CHECK(tensors == 0);
#endif
}

#if !defined(_WIN32)

TEST_CASE("a disk without room leaves the old packed file as it was, and nothing else") {
    const Scratch scratch;
    static_cast<void>(scratch.load<Q8>());
    const auto before = files::read(scratch.packed);
    std::string message;
    {
        const files::SizeLimit limit(20'000);
        message = message_of([&] { return scratch.load<Q4>(); });
    }
    CHECK(message == scratch.packed.string() + " cannot be written: " + files::SizeLimit::message);
    CHECK((files::read(scratch.packed) == before));
    CHECK(names_in(scratch) == only_packed);
}

#endif

TEST_CASE("progress counts every tensor once, whether the packed file is written or read") {
    for (const auto& [directory, count] : {std::pair(files::sharded, 21), std::pair(files::reference / "tied", 21)}) {
        const Scratch scratch(directory);
        const Index tensors = count;
        std::vector<Index> expected;
        for (Index i = 1; i <= tensors; ++i) expected.push_back(i);
        for (int loading = 0; loading < 2; ++loading) {
            std::vector<Index> done;
            static_cast<void>(scratch.load<Q4>({.progress = [&](const LoadProgress& progress) {
                done.push_back(progress.tensors_done);
                CHECK(progress.tensors == tensors);
            }}));
            CHECK(done == expected);
        }
    }
}

TEST_CASE("a loading that is stopped leaves no file, and one that reads the packed file stops as well") {
    const Scratch scratch;
    const auto stop_after = [&](Index tensors) {
        std::stop_source source;
        Index done = 0;
        CHECK_THROWS_AS(static_cast<void>(scratch.load<Q4>({.progress =
                                                                [&](const LoadProgress& progress) {
                                                                    done = progress.tensors_done;
                                                                    if (done == tensors) source.request_stop();
                                                                },
                                                            .stop = source.get_token()})),
                        Cancelled);
        CHECK(done == tensors);
    };
    stop_after(5);
    CHECK(names_in(scratch).empty());
    struct Unwanted {};
    CHECK_THROWS_AS(static_cast<void>(scratch.load<Q4>({.progress = [](const LoadProgress&) { throw Unwanted(); }})),
                    Unwanted);
    CHECK(names_in(scratch).empty());
    static_cast<void>(scratch.load<Q4>());
    stop_after(5);
    CHECK_FALSE(is_replaced<Q4>(scratch));
}

TEST_CASE("several loadings at once all end with the right weights and one file") {
    const Scratch scratch;
    const auto expected = logits_without<Q4>(scratch);
    for (int round = 0; round < 4; ++round) {
        std::vector<std::vector<float>> found(4);
        std::vector<std::thread> threads;
        for (auto& logits : found) threads.emplace_back([&] { logits = logits_of(scratch.load<Q4>()); });
        // One more of another scalar, which replaces theirs or is replaced.
        threads.emplace_back([&] { static_cast<void>(scratch.load<Q8>()); });
        for (auto& thread : threads) thread.join();
        for (const auto& logits : found) CHECK(logits == expected);
        CHECK(names_in(scratch) == only_packed);
        if (round % 2 == 0) fs::remove(scratch.packed);
    }
}
