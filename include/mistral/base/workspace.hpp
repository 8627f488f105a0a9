#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace mistral {

/// Makes buffers that need no more than their size.
template <class Bytes>
struct ConstructBuffer {
    Bytes operator()(Index size) const { return Bytes(size); }
};

/// Scratch memory for the intermediate results of a forward pass: a stack that grows to what the largest pass needs
/// and allocates nothing after that, so that equal passes get equal addresses. `Bytes` is a device's buffer of bytes,
/// which allocate(size) makes. One workspace serves one thread at a time.
template <class Bytes, class Allocate = ConstructBuffer<Bytes>>
class BasicWorkspace {
    struct Top {
        std::size_t block = 0;
        Index offset = 0;
    };

  public:
    /// A scope on the stack: what it took is given back when it ends. Frames nest.
    class Frame {
      public:
        explicit Frame(BasicWorkspace& workspace) : workspace_(workspace), mark_(workspace.top_) {}
        ~Frame() { workspace_.top_ = mark_; }
        Frame(const Frame&) = delete;
        Frame& operator=(const Frame&) = delete;

        /// An uninitialised matrix [rows, cols] that lives as long as the frame.
        template <class T>
        [[nodiscard]] MatrixView<T> matrix(Index rows, Index cols) {
            return {reinterpret_cast<T*>(workspace_.take(rows * cols * static_cast<Index>(sizeof(T)))), rows, cols};
        }

      private:
        BasicWorkspace& workspace_;
        Top mark_;
    };

    BasicWorkspace() = default;
    explicit BasicWorkspace(Allocate allocate) : allocate_(std::move(allocate)) {}

    [[nodiscard]] Frame frame() { return Frame(*this); }

    /// Memory held, in bytes.
    [[nodiscard]] Index bytes() const {
        Index sum = 0;
        for (const Bytes& block : blocks_) sum += block.size();
        return sum;
    }

  private:
    std::byte* take(Index bytes) {
        constexpr Index alignment = 64;
        const Index size = round_up(bytes, alignment);
        while (top_.block < blocks_.size() && blocks_[top_.block].size() - top_.offset < size)
            top_ = {top_.block + 1, 0};
        if (top_.block == blocks_.size()) blocks_.push_back(allocate_(std::max(size, this->bytes())));
        std::byte* memory = blocks_[top_.block].data() + top_.offset;
        top_.offset += size;
        return memory;
    }

    Allocate allocate_;
    std::vector<Bytes> blocks_;
    Top top_;
};

}  // namespace mistral
