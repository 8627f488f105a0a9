// Prints the instruction set that is chosen here, and what a model writes with it.
//
//   writer MODEL [INSTRUCTION_SET]

#include <mistral/mistral.hpp>

#include <exception>
#include <iostream>

#include "instruction_set_named.hpp"

int main(int argc, char** argv) try {
    using namespace mistral;
    if (argc < 2) return 2;
    const Cpu device({.threads = 2}, argc > 2 ? instruction_set_named(argv[2]) : best_instruction_set());
    std::cout << name(device.instruction_set()) << '\n';
    const auto model = MistralModel<bfloat16>::load(argv[1], device);
    const auto tokenizer = Tokenizer::load(argv[1]);
    Session session(model);
    for (const Token token : session.generate(tokenizer.encode("ROMEO:"), {.max_tokens = 12}))
        std::cout << tokenizer.piece(token);
    std::cout << '\n';
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
