// Runs the example that draws the receptive field, which fails by itself where the law of the windows does not hold,
// and looks at its picture.

#include <doctest/doctest.h>

#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"

namespace {

std::vector<std::string> lines_of(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

}  // namespace

TEST_CASE("information travels window - 1 positions a layer, and the picture has a cell for each") {
    // One of each, the defaults, a wide window, many layers.
    for (const auto& numbers : {std::pair(1, 1), std::pair(6, 4), std::pair(2, 16), std::pair(10, 3)}) {
        const int layers = numbers.first, window = numbers.second;
        CAPTURE(layers);
        CAPTURE(window);
        const Result result =
            run("receptive_field", "'" RECEPTIVE_FIELD "' --layers " + std::to_string(layers) + " --window " +
                                       std::to_string(window) + " --svg receptive_field.svg");
        CHECK(result.status == 0);
        CHECK(result.err == "");
        const int reach = layers * (window - 1), tokens = 3 + reach + 8;
        CHECK(result.out.find(" = " + std::to_string(reach) + " positions on, and no further.\n") != std::string::npos);

        const auto svg = lines_of(read("receptive_field.svg"));
        const auto size = [](int cells) { return std::to_string(16 * cells); };
        REQUIRE(static_cast<int>(svg.size()) == tokens * (layers + 1) + 2);
        CHECK(svg.front() == "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size(tokens) + "\" height=\"" +
                                 size(layers + 1) + "\">");
        CHECK(svg.back() == "</svg>");
        const std::regex cell(
            "<rect x=\"(\\d+)\" y=\"(\\d+)\" width=\"15\" height=\"15\" fill=\"#d2420b\" "
            "fill-opacity=\"([01]\\.?\\d*)\"/>");
        std::set<std::pair<int, int>> places;
        int changed = 0;
        for (std::size_t i = 1; i + 1 < svg.size(); ++i) {
            std::smatch match;
            REQUIRE(std::regex_match(svg[i], match, cell));
            places.emplace(std::stoi(match[1]), std::stoi(match[2]));
            changed += std::stod(match[3]) > 0.1;
        }
        CHECK(static_cast<int>(places.size()) == tokens * (layers + 1));
        CHECK(places.rbegin()->first == 16 * (tokens - 1));
        CHECK(places.begin()->second == 0);
        // 1 position in the embeddings, and window - 1 more in each layer
        CHECK(changed == (layers + 1) + (window - 1) * layers * (layers + 1) / 2);
    }
}
