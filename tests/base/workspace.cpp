#include <mistral/base/aligned_buffer.hpp>
#include <mistral/base/workspace.hpp>

#include <doctest/doctest.h>

#include <cstdint>

using namespace mistral;
using Workspace = BasicWorkspace<AlignedBuffer<std::byte>>;

TEST_CASE("matrices of one frame do not overlap and are aligned") {
    Workspace workspace;
    auto frame = workspace.frame();
    std::vector<MatrixView<float>> matrices;
    for (Index i = 1; i < 60; ++i) {
        matrices.push_back(frame.matrix<float>(i, 3));
        CHECK(reinterpret_cast<std::uintptr_t>(matrices.back().data()) % 64 == 0);
        std::fill_n(matrices.back().data(), 3 * i, static_cast<float>(i));
    }
    for (std::size_t i = 0; i < matrices.size(); ++i)
        CHECK(std::all_of(matrices[i].data(), matrices[i].data() + matrices[i].rows() * 3,
                          [&](float value) { return value == static_cast<float>(i + 1); }));
}

TEST_CASE("a second pass takes no more memory than the first") {
    Workspace workspace;
    const auto pass = [&] {
        auto outer = workspace.frame();
        (void)outer.matrix<double>(10, 100);
        for (int layer = 0; layer < 5; ++layer) {
            auto inner = workspace.frame();
            (void)inner.matrix<float>(7, 1000);
            (void)inner.matrix<float>(70, 100);
        }
    };
    pass();
    const Index bytes = workspace.bytes();
    CHECK(bytes > 0);
    for (int i = 0; i < 100; ++i) pass();
    CHECK(workspace.bytes() == bytes);
}

TEST_CASE("a frame gives back what it took") {
    Workspace workspace;
    auto outer = workspace.frame();
    const float* before = nullptr;
    {
        auto frame = workspace.frame();
        before = frame.matrix<float>(4, 4).data();
    }
    CHECK(outer.matrix<float>(2, 2).data() == before);
}
