#include <mistral/checkpoint/tensor_view.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace mistral;

TEST_CASE("element types are listed in the order of their enumeration") {
    for (std::size_t i = 0; i < dtype_infos.size(); ++i) CHECK(dtype_infos[i].dtype == static_cast<DType>(i));
    CHECK(info(DType::u64).name == "U64");
    CHECK(info(DType::bf16).bits == 16);
    CHECK(info(DType::f6_e2m3).bits == 6);
}

TEST_CASE("element types are found by the names that files use") {
    for (const DTypeInfo& known : dtype_infos) CHECK(find_dtype(known.name) == known.dtype);
    CHECK_FALSE(find_dtype("bf16").has_value());
    CHECK_FALSE(find_dtype("").has_value());
    CHECK(dtype_of<bfloat16> == DType::bf16);
    CHECK(dtype_of<half> == DType::f16);
    CHECK(dtype_of<float> == DType::f32);
    CHECK(dtype_of<double> == DType::f64);
}

TEST_CASE("a shape is written in brackets") {
    CHECK(shape_text(std::vector<Index>{}) == "[]");
    CHECK(shape_text(std::vector<Index>{4096, 14336}) == "[4096, 14336]");
    CHECK(TensorView{.shape = {3, 4}}.elements() == 12);
    CHECK(TensorView{}.elements() == 1);
}
