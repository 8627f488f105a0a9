#pragma once

#include <memory>
#include <type_traits>

namespace mistral::cuda {

/// Calls the function, of CUDA's or of its libraries', that ends the life of what a handle names.
template <auto destroy>
struct Destroy {
    template <class T>
    void operator()(T* handle) const {
        static_cast<void>(destroy(handle));
    }
};

/// A handle of the type H, destroyed with its owner.
template <class H, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<H>, Destroy<destroy>>;

}  // namespace mistral::cuda
