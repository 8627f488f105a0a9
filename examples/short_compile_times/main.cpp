// A program of two files, of which only engine.cpp compiles the library. Compare tests/compile_time.sh on both.
//
//   short_compile_times [DIRECTORY]

#include <iostream>

#include "engine.hpp"

int main(int argc, char** argv) try {
    const char* directory = argc > 1 ? argv[1] : MISTRAL_DEFAULT_MODEL;
    const auto model = Model::load(directory);
    const auto tokenizer = mistral::Tokenizer::load(directory);
    mistral::Session session(model);
    for (const auto token : session.generate(tokenizer.encode("ROMEO:"), {.max_tokens = 50}))
        std::cout << tokenizer.piece(token) << std::flush;
    std::cout << '\n';
} catch (const mistral::Error& error) {
    std::cerr << "short_compile_times: " << error.what() << '\n';
    return 1;
}
