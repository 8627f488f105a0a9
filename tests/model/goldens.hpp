#pragma once

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "plain_mistral.hpp"

/// Numbers that another implementation computed, read without the library's own reader.
namespace goldens {

using mistral::Index;

/// A safetensors file of float64, float32 and int64 tensors with at most two dimensions; vectors become [1, n].
class File {
  public:
    explicit File(const std::string& path) {
        std::ifstream in(path, std::ios::binary);
        bytes_.assign(std::istreambuf_iterator<char>(in), {});
        if (bytes_.size() < 8) throw std::runtime_error("no goldens at " + path);
        std::memcpy(&header_size_, bytes_.data(), sizeof(header_size_));
        header_ = nlohmann::json::parse(bytes_.substr(8, header_size_));
    }

    [[nodiscard]] plain::Matrix matrix(const std::string& name) const {
        const auto& entry = header_.at(name);
        const auto& shape = entry.at("shape");
        plain::Matrix result(shape.size() == 2 ? shape[0].get<Index>() : 1, shape.back().get<Index>());
        const char* data = bytes_.data() + 8 + header_size_ + entry.at("data_offsets")[0].get<std::size_t>();
        const std::string type = entry.at("dtype");
        for (std::size_t i = 0; i < result.values.size(); ++i)
            result.values[i] = type == "F64"   ? at<double>(data, i)
                               : type == "F32" ? static_cast<double>(at<float>(data, i))
                                               : static_cast<double>(at<std::int64_t>(data, i));
        return result;
    }

  private:
    template <class T>
    static T at(const char* data, std::size_t i) {
        T value;
        std::memcpy(&value, data + i * sizeof(T), sizeof(T));
        return value;
    }

    std::string bytes_;
    std::uint64_t header_size_ = 0;
    nlohmann::json header_;
};

/// The modules of components.json of one kind: calls visit(parameters, name) for each. Fails where there is none.
template <class Visit>
void for_each_component(const std::string& kind, Visit&& visit) {
    const auto list = nlohmann::json::parse(std::ifstream(MISTRAL_TEST_DATA "/reference/components.json"));
    int found = 0;
    for (const auto& component : list)
        if (component.at("kind") == kind) {
            visit(component, component.at("name").get<std::string>() + ".");
            ++found;
        }
    if (found == 0) throw std::runtime_error("no golden component " + kind);
}

inline File components() {
    return File(MISTRAL_TEST_DATA "/reference/components.safetensors");
}

inline Index window_of(const nlohmann::json& component) {
    return component.at("window").is_null() ? mistral::no_window : component.at("window").get<Index>();
}

inline mistral::Shape shape_of(const nlohmann::json& component) {
    return {.window = window_of(component),
            .query_heads = component.at("query_heads"),
            .kv_heads = component.at("kv_heads"),
            .head_dim = component.at("head_dim")};
}

/// The largest difference of two matrices over the largest element expected; infinite where one is not finite.
template <class A>
double relative_difference(mistral::MatrixView<const A> found, const plain::Matrix& expected) {
    if (found.rows() != expected.rows || found.cols() != expected.cols) return INFINITY;
    double difference = 0;
    double largest = 0;
    for (Index i = 0; i < found.rows(); ++i)
        for (Index j = 0; j < found.cols(); ++j) {
            if (!std::isfinite(found(i, j))) return INFINITY;
            difference = std::max(difference, std::abs(static_cast<double>(found(i, j)) - expected(i, j)));
            largest = std::max(largest, std::abs(expected(i, j)));
        }
    return difference / largest;
}

/// How far a component may be from float64. Inputs and weights are exact in every type, so that what differs is the
/// arithmetic: a few dozen roundings of 1e-16 or 6e-8.
template <class A>
inline constexpr double component_tolerance = sizeof(A) == 8 ? 1e-12 : 3e-6;

/// Checks a component's result against transformers in float64, with its casts to float32 lifted, and in float32, as it
/// comes: that is within 3.4e-7 of the former, so that floats are close to both, and doubles no closer than floats.
template <class A>
void check_component(const File& file, const std::string& name, mistral::MatrixView<const A> found) {
    CHECK(relative_difference(found, file.matrix(name + "out")) < component_tolerance<A>);
    CHECK(relative_difference(found, file.matrix(name + "out_f32")) < component_tolerance<float>);
}

}  // namespace goldens
