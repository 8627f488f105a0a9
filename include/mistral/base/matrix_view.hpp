#pragma once

#include <mistral/base/types.hpp>

#include <cassert>
#include <span>
#include <type_traits>

namespace mistral {

/// A row-major matrix [rows, cols] in memory that belongs to someone else. Rows lie `stride` elements apart.
template <class T>
class MatrixView {
  public:
    MatrixView() = default;
    MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}
    MatrixView(T* data, Index rows, Index cols, Index stride) : data_(data), rows_(rows), cols_(cols), stride_(stride) {
        assert(rows >= 0 && cols >= 0 && stride >= cols);
    }

    /// A view that may write is also one that may only read.
    operator MatrixView<const T>() const requires(!std::is_const_v<T>) { return {data_, rows_, cols_, stride_}; }

    [[nodiscard]] T* data() const { return data_; }
    [[nodiscard]] Index rows() const { return rows_; }
    [[nodiscard]] Index cols() const { return cols_; }
    [[nodiscard]] Index stride() const { return stride_; }

    [[nodiscard]] T* row(Index i) const {
        assert(i >= 0 && i < rows_);
        return data_ + i * stride_;
    }
    [[nodiscard]] T& operator()(Index i, Index j) const {
        assert(j >= 0 && j < cols_);
        return row(i)[j];
    }

    /// The `count` rows from row `first` on.
    [[nodiscard]] MatrixView middle_rows(Index first, Index count) const {
        assert(first >= 0 && count >= 0 && first + count <= rows_);
        return {data_ + first * stride_, count, cols_, stride_};
    }

    /// The `count` columns from column `first` on.
    [[nodiscard]] MatrixView middle_cols(Index first, Index count) const {
        assert(first >= 0 && count >= 0 && first + count <= cols_);
        return {data_ + first, rows_, count, stride_};
    }

  private:
    T* data_ = nullptr;
    Index rows_ = 0;
    Index cols_ = 0;
    Index stride_ = 0;
};

}  // namespace mistral
