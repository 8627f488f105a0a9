#include "block.hpp"

#include "emulation.hpp"
#include "fiber.hpp"
#include "ready_set.hpp"
#include "static_shared_memory.hpp"

#include <algorithm>
#include <deque>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace mistral::cuda {

// What kernels declare as `alignas(16) extern __shared__ std::byte dynamic_shared[]`.
extern std::byte dynamic_shared[];
alignas(16) std::byte dynamic_shared[emulation::max_dynamic_shared_bytes];

}  // namespace mistral::cuda

namespace emulation {

Position position;

namespace {

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
    std::size_t zeros;

    void run() const {
        std::memcpy(to, from, bytes);
        std::memset(static_cast<std::byte*>(to) + bytes, 0, zeros);
    }
};

struct Warp {
    unsigned live = 0;  // bits of lanes that have not returned
    std::deque<Meeting> meetings;
};

struct Thread {
    std::unique_ptr<Fiber> fiber;  // from the start to the end
    uint3 index{};
    bool at_barrier = false;
    bool waited_for_earlier_grids = false;
    std::vector<Copy> copies;                // not committed
    std::vector<std::vector<Copy>> commits;  // not waited for
};

/// The block that runs, which the built-ins of its threads find here.
class Block {
  public:
    void run(dim3 size, const std::function<void()>& function, std::uint64_t seed, bool begins_early);

    unsigned barrier(bool predicate);
    Meeting& meet(const char* name, unsigned mask, const void* value, std::size_t bytes);
    void leave(Meeting& meeting);
    Thread& running() { return threads_[running_]; }
    [[nodiscard]] bool copies_late() const { return seed_ % 2 == 1; }

  private:
    void start(dim3 size, std::uint64_t seed);
    std::optional<unsigned> next();
    void step(unsigned thread, const std::function<void()>& function);
    void retire();
    void release_barrier();
    void release(Meeting& meeting);
    void release_meetings(Warp& warp);
    Warp& warp() { return warps_[running_ / warp_size]; }
    [[nodiscard]] std::string stuck() const;

    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    std::vector<std::unique_ptr<Fiber>> idle_;  // stacks for threads that start
    ReadySet ready_;
    std::uint64_t seed_ = 0;
    bool begins_early_ = false;
    std::minstd_rand random_;
    unsigned running_ = 0;
    unsigned live_ = 0;
    unsigned waiting_ = 0;       // at the barrier
    unsigned holding_ = 0;       // among them, those whose predicate holds
    unsigned last_holding_ = 0;  // at the barrier before
};

void Block::run(dim3 size, const std::function<void()>& function, std::uint64_t seed, bool begins_early) {
    begins_early_ = begins_early;
    start(size, seed);
    while (const auto thread = next()) step(*thread, function);
    if (live_ > 0) throw KernelError(stuck());
}

void Block::start(dim3 size, std::uint64_t seed) {
    live_ = size.x * size.y * size.z;
    waiting_ = holding_ = last_holding_ = 0;
    seed_ = seed;
    random_.seed(static_cast<std::minstd_rand::result_type>(seed + position.block.x));
    // Stacks of a block that failed are taken over as they are.
    for (Thread& thread : threads_)
        if (thread.fiber) idle_.push_back(std::move(thread.fiber));
    threads_.clear();
    threads_.resize(live_);
    warps_.resize((live_ + warp_size - 1) / warp_size);
    for (Warp& warp : warps_) {
        warp.live = 0;
        for (Meeting& meeting : warp.meetings) meeting.arrived = meeting.unread = 0;
    }
    ready_.clear();
    for (unsigned thread = 0; thread < live_; ++thread) {
        threads_[thread].index = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
        warps_[thread / warp_size].live |= 1u << thread % warp_size;
        ready_.add(thread);
    }
}

std::optional<unsigned> Block::next() {
    if (seed_ == 0) return ready_.take_first();
    if (seed_ == 1) return ready_.take_last();
    return ready_.take_around(unsigned(random_() % threads_.size()));
}

void Block::step(unsigned thread, const std::function<void()>& function) {
    running_ = thread;
    position.thread = running().index;
    position.lane = thread % warp_size;
    auto& fiber = running().fiber;
    if (!fiber) {
        if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>());
        fiber = std::move(idle_.back());
        idle_.pop_back();
        fiber->start(function);
    }
    fiber->resume();
    if (fiber->finished()) retire();
}

void Block::retire() {
    if (begins_early_ && !running().waited_for_earlier_grids)
        kernel_error("returns without cudaGridDependencySynchronize, from a kernel that may begin early");
    idle_.push_back(std::move(running().fiber));
    warp().live &= ~(1u << position.lane);
    --live_;
    if (waiting_ > 0 && waiting_ == live_) release_barrier();
    release_meetings(warp());
}

unsigned Block::barrier(bool predicate) {
    running().at_barrier = true;
    ++waiting_;
    holding_ += predicate ? 1 : 0;
    if (waiting_ == live_) release_barrier();
    running().fiber->suspend();
    return last_holding_;
}

void Block::release_barrier() {
    last_holding_ = holding_;
    waiting_ = holding_ = 0;
    for (unsigned thread = 0; thread < threads_.size(); ++thread)
        if (std::exchange(threads_[thread].at_barrier, false)) ready_.add(thread);
}

Meeting& Block::meet(const char* function, unsigned mask, const void* value, std::size_t bytes) {
    const unsigned lane = 1u << position.lane;
    if ((mask & lane) == 0) kernel_error(std::string(function) + " is called by a lane that is not in its mask");

    // The meeting that waits for this lane, or a new one in place of one that all have left.
    auto& meetings = warp().meetings;
    const auto waits = [&](const Meeting& m) { return m.unread == 0 && m.arrived != 0 && m.mask == mask; };
    auto found = std::find_if(meetings.begin(), meetings.end(), waits);
    if (found == meetings.end()) {
        const auto is_over = [](const Meeting& m) { return m.unread == 0 && m.arrived == 0; };
        found = std::find_if(meetings.begin(), meetings.end(), is_over);
        if (found == meetings.end()) found = meetings.emplace(meetings.end());
        found->function = function;
        found->mask = mask;
        std::memset(found->values.data(), 0xff, warp_size * bytes);
    }
    Meeting& meeting = *found;
    if (meeting.function != function && std::strcmp(meeting.function, function) != 0)
        kernel_error(std::string("lanes of a warp call ") + meeting.function + " and " + function + " at once");
    if (bytes > 0) std::memcpy(meeting.values.data() + position.lane * bytes, value, bytes);
    meeting.arrived |= lane;
    if (meeting.arrived == (mask & warp().live)) release(meeting);
    running().fiber->suspend();
    return meeting;
}

void Block::release(Meeting& meeting) {
    meeting.unread = meeting.arrived;
    const unsigned first = running_ / warp_size * warp_size;
    for (unsigned lane = 0; lane < warp_size; ++lane)
        if ((meeting.arrived >> lane & 1) != 0) ready_.add(first + lane);
}

void Block::leave(Meeting& meeting) {
    meeting.unread &= ~(1u << position.lane);
    if (meeting.unread == 0) meeting.arrived = 0;
}

// What waited only for a lane that has returned goes on without it.
void Block::release_meetings(Warp& warp) {
    for (Meeting& meeting : warp.meetings)
        if (meeting.arrived != 0 && meeting.unread == 0 && meeting.arrived == (meeting.mask & warp.live))
            release(meeting);
}

std::string Block::stuck() const {
    std::ostringstream message;
    message << "block (" << position.block.x << ", " << position.block.y << ", " << position.block.z
            << ") cannot go on: of " << live_ << " threads that have not returned, " << waiting_
            << " wait at __syncthreads";
    for (std::size_t warp = 0; warp < warps_.size(); ++warp)
        for (const Meeting& meeting : warps_[warp].meetings)
            if (meeting.arrived != 0)
                message << "; in warp " << warp << " " << meeting.function << " of the lanes " << std::hex << "0x"
                        << meeting.mask << " has been called by 0x" << meeting.arrived << std::dec;
    return message.str();
}

Block block;

std::vector<unsigned> order_of_blocks(std::size_t count, std::uint64_t seed) {
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed > 1) std::shuffle(order.begin(), order.end(), std::minstd_rand(unsigned(seed)));
    return order;
}

}  // namespace

void kernel_error(const std::string& message) {
    std::ostringstream out;
    out << "block (" << position.block.x << ", " << position.block.y << ", " << position.block.z << "), thread ("
        << position.thread.x << ", " << position.thread.y << ", " << position.thread.z << "): " << message;
    throw KernelError(out.str());
}

unsigned barrier(bool predicate) {
    return block.barrier(predicate);
}

Meeting& meet(const char* function, unsigned mask, const void* value, std::size_t bytes) {
    return block.meet(function, mask, value, bytes);
}

void leave(Meeting& meeting) {
    block.leave(meeting);
}

void copy_to_shared(void* to, const void* from, std::size_t bytes, std::size_t zeros) {
    const Copy copy{to, from, bytes, zeros};
    if (block.copies_late())
        block.running().copies.push_back(copy);
    else
        copy.run();
}

void commit_copies() {
    Thread& thread = block.running();
    thread.commits.push_back(std::exchange(thread.copies, {}));
}

void wait_for_copies(std::size_t pending_commits) {
    auto& commits = block.running().commits;
    while (commits.size() > pending_commits) {
        for (const Copy& copy : commits.front()) copy.run();
        commits.erase(commits.begin());
    }
}

void wait_for_earlier_grids() {
    block.running().waited_for_earlier_grids = true;
}

void run_grid(dim3 grid, dim3 size, std::size_t dynamic_shared_bytes, std::uint64_t seed, bool begins_early,
              const std::function<void()>& thread) {
    auto* const shared = mistral::cuda::dynamic_shared;
    ASAN_UNPOISON_MEMORY_REGION(shared, max_dynamic_shared_bytes);
    ASAN_POISON_MEMORY_REGION(shared + dynamic_shared_bytes, max_dynamic_shared_bytes - dynamic_shared_bytes);
    position.grid_size = grid;
    position.block_size = size;
    for (const unsigned index : order_of_blocks(std::size_t(grid.x) * grid.y * grid.z, seed)) {
        position.block = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
        std::memset(shared, 0xff, dynamic_shared_bytes);
        poison_static_shared_memory();
        block.run(size, thread, seed, begins_early);
    }
}

}  // namespace emulation
