#pragma once

#include <mistral/base/matrix_view.hpp>
#include <mistral/base/types.hpp>

#include <memory>

namespace mistral {

/// A read-only matrix [rows, cols] in host memory that `owner` keeps alive: a mapped checkpoint, or a buffer of its
/// own. Without an owner the memory is the caller's and must outlive every copy.
template <class T>
struct HostMatrix {
    MatrixView<const T> view;
    std::shared_ptr<const void> owner;

    [[nodiscard]] Index rows() const { return view.rows(); }
    [[nodiscard]] Index cols() const { return view.cols(); }
};

}  // namespace mistral
