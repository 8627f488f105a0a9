#pragma once

#include <mistral/text/tokenizer.hpp>

#include <nlohmann/json.hpp>

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

/// Where the data of the tests of text/ lie.
inline const std::string text_data = MISTRAL_TEST_DATA "/text/";

/// The file of the tokenizer "v1", "v2", "v3" or "shakespeare".
inline std::string tokenizer_path(const std::string& version) {
    if (version == "shakespeare") return MISTRAL_MODELS "/shakespeare/tokenizer.model";
    if (version == "v1") return text_data + "tokenizers/tokenizer.model.v1";
    if (version == "v2") return text_data + "tokenizers/mistral_instruct_tokenizer_240216.model.v2";
    return text_data + "tokenizers/mistral_instruct_tokenizer_240323.model.v3";
}

/// Loaded once for all tests of a program.
inline const mistral::Tokenizer& tokenizer(const std::string& version) {
    static const auto v1 = mistral::Tokenizer::load(tokenizer_path("v1"));
    static const auto v2 = mistral::Tokenizer::load(tokenizer_path("v2"));
    static const auto v3 = mistral::Tokenizer::load(tokenizer_path("v3"));
    static const auto shakespeare = mistral::Tokenizer::load(tokenizer_path("shakespeare"));
    return version == "v1" ? v1 : version == "v2" ? v2 : version == "v3" ? v3 : shakespeare;
}

inline std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot open " + path);
    return {std::istreambuf_iterator<char>(in), {}};
}

inline nlohmann::json read_json(const std::string& path) {
    return nlohmann::json::parse(read_file(path));
}

/// A file with one JSON value per line.
inline std::vector<nlohmann::json> read_json_lines(const std::string& path) {
    std::ifstream in(path);
    if (!in) throw std::runtime_error("cannot open " + path);
    std::vector<nlohmann::json> values;
    for (std::string line; std::getline(in, line);) values.push_back(nlohmann::json::parse(line));
    return values;
}
