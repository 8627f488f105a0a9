#include "fiber.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATION_ADDRESS_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATION_ADDRESS_SANITIZER
#endif
#endif

#ifdef EMULATION_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) {}
static void __asan_unpoison_memory_region(const volatile void*, std::size_t) {}
#endif

#ifdef __x86_64__
// Keeps the registers that a function must preserve on the stack, stores its top in *from, and takes those of `to`. It
// jumps back: processors expect a return to where the last call came from, and here it never goes there.
extern "C" void emulation_switch_stack(void** from, void* to);
asm(R"(
    .text
    .p2align 4
    .type emulation_switch_stack, @function
emulation_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size emulation_switch_stack, . - emulation_switch_stack
)");
#else
#include <ucontext.h>
#endif

namespace emulation {
namespace {

constexpr std::size_t guard_bytes = 4096;

// Which fiber a new stack belongs to: functions that start a stack have no arguments.
thread_local Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() {
    void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_bytes, PROT_NONE);
    stack_ = static_cast<std::byte*>(memory) + guard_bytes;
#ifndef __x86_64__
    context_ = new ucontext_t;
    caller_ = new ucontext_t;
#endif
}

Fiber::~Fiber() {
    __asan_unpoison_memory_region(stack_, stack_bytes);
    munmap(stack_ - guard_bytes, guard_bytes + stack_bytes);
#ifndef __x86_64__
    delete static_cast<ucontext_t*>(context_);
    delete static_cast<ucontext_t*>(caller_);
#endif
}

void Fiber::start(const std::function<void()>& function) {
    // A function that has returned left nothing poisoned but what called it.
    constexpr std::size_t callers_bytes = 4096;
    const std::size_t bytes = finished_ ? callers_bytes : stack_bytes;
    __asan_unpoison_memory_region(stack_ + stack_bytes - bytes, bytes);
    function_ = &function;
    finished_ = false;
    fake_stack_ = nullptr;
    prepare_stack();
}

void Fiber::resume() {
    starting = this;
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, stack_bytes);
    switch_to_fiber();
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void Fiber::suspend() {
    switch_to_caller(false);
    __sanitizer_finish_switch_fiber(fake_stack_, &caller_stack_, &caller_stack_bytes_);
}

void Fiber::enter() {
    starting->run();
}

void Fiber::run() {
    __sanitizer_finish_switch_fiber(fake_stack_, &caller_stack_, &caller_stack_bytes_);
    try {
        (*function_)();
    } catch (...) {
        thrown_ = std::current_exception();
    }
    finished_ = true;
    switch_to_caller(true);
}

#ifdef __x86_64__
void Fiber::prepare_stack() {
    // As emulation_switch_stack leaves it: six registers, and the address to return to, above which the stack is
    // aligned as if a call had come from an address of 0, where debuggers stop.
    auto** top = reinterpret_cast<void**>(stack_ + stack_bytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&Fiber::enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context_ = top;
}

void Fiber::switch_to_fiber() {
    emulation_switch_stack(&caller_, context_);
}

void Fiber::switch_to_caller(bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, caller_stack_, caller_stack_bytes_);
    emulation_switch_stack(&context_, caller_);
}
#else
void Fiber::prepare_stack() {
    auto* context = static_cast<ucontext_t*>(context_);
    getcontext(context);
    context->uc_stack.ss_sp = stack_;
    context->uc_stack.ss_size = stack_bytes;
    context->uc_link = nullptr;
    makecontext(context, &Fiber::enter, 0);
}

void Fiber::switch_to_fiber() {
    swapcontext(static_cast<ucontext_t*>(caller_), static_cast<ucontext_t*>(context_));
}

void Fiber::switch_to_caller(bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, caller_stack_, caller_stack_bytes_);
    swapcontext(static_cast<ucontext_t*>(context_), static_cast<ucontext_t*>(caller_));
}
#endif

}  // namespace emulation
