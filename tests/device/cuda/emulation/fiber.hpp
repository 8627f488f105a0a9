#pragma once

#include <cstddef>
#include <exception>
#include <functional>

namespace emulation {

/// A stack of its own on which a function runs until it suspends itself or returns. One thread of the system runs all
/// fibers of a block.
class Fiber {
  public:
    Fiber();
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    /// Makes the next `resume` call this function from its start. What ran before on this stack is forgotten.
    void start(const std::function<void()>& function);

    /// Runs the function until it suspends or returns. Throws what it threw.
    void resume();

    /// Goes back to `resume`, from within this fiber.
    void suspend();

    [[nodiscard]] bool finished() const { return finished_; }

  private:
    static constexpr std::size_t stack_bytes = std::size_t(256) << 10;

    static void enter();
    void run();
    void switch_to_fiber();
    void switch_to_caller(bool for_good);
    void prepare_stack();

    std::byte* stack_ = nullptr;  // above a page that no one may touch
    void* context_ = nullptr;
    void* caller_ = nullptr;
    const std::function<void()>* function_ = nullptr;
    std::exception_ptr thrown_;
    bool finished_ = true;

    // What sanitizers want to know of the stacks.
    void* fake_stack_ = nullptr;
    const void* caller_stack_ = nullptr;
    std::size_t caller_stack_bytes_ = 0;
};

}  // namespace emulation
