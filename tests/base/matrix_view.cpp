#include <mistral/base/matrix_view.hpp>

#include <doctest/doctest.h>

#include <array>

using namespace mistral;

TEST_CASE("a view addresses rows by its stride") {
    std::array<int, 12> numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const MatrixView<int> view(numbers.data(), 3, 2, 4);
    CHECK(view(0, 1) == 1);
    CHECK(view(2, 1) == 9);
    const MatrixView<const int> middle = view.middle_rows(1, 2);
    CHECK(middle.rows() == 2);
    CHECK(middle(0, 0) == 4);
    CHECK(middle(1, 1) == 9);
    const MatrixView<const int> right = view.middle_cols(1, 1);
    CHECK(right.cols() == 1);
    CHECK(right(0, 0) == 1);
    CHECK(right(2, 0) == 9);
    view(1, 0) = 40;
    CHECK(numbers[4] == 40);
}
