// Continues a text with a Mistral model, or holds a conversation: generate --help.

#include <mistral/checkpoint/checkpoint.hpp>

#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "generate/command_line.hpp"
#include "generate/options.hpp"
#include "generate/run.hpp"

namespace {

using namespace generator;

constexpr int usage_status = 2;

// The type that most of the checkpoint's weights have, those of the embedding's.
std::string own_type(const std::string& model) {
    switch (mistral::Checkpoint::open(model).tensor("model.embed_tokens.weight").dtype) {
        case mistral::DType::f64:
            return "double";
        case mistral::DType::f32:
            return "float";
        case mistral::DType::f16:
            return "half";
        default:
            return "bfloat16";
    }
}

// The places where choices at run time become types.
int run_on_gpu(const Options& options, const std::string& type) {
    if (type == "float") return run_on_gpu<float>(options);
    if (type == "half") return run_on_gpu<mistral::half>(options);
    if (type == "bfloat16") return run_on_gpu<mistral::bfloat16>(options);
    if (type == "q8") return run_on_gpu<mistral::Q8>(options);
    if (type == "q4") return run_on_gpu<mistral::Q4>(options);
    throw UsageError("--dtype " + type + " goes with --device cpu only");
}

int run(const Options& options) {
    const std::string type = options.dtype == "auto" ? own_type(options.model) : options.dtype;
    if (options.gpu) return run_on_gpu(options, type);
    if (options.kv_dtype == "q8") {
        if (type == "bfloat16") return run<mistral::bfloat16, mistral::Q8>(options);
        if (type == "q8") return run<mistral::Q8, mistral::Q8>(options);
        if (type == "q4") return run<mistral::Q4, mistral::Q8>(options);
        throw UsageError("--kv-dtype q8 goes with --dtype bfloat16, q8 or q4, and --dtype is " + type);
    }
    if (type == "double") return run<double>(options);
    if (type == "float") return run<float>(options);
    if (type == "half") return run<mistral::half>(options);
    if (type == "q8") return run<mistral::Q8>(options);
    if (type == "q4") return run<mistral::Q4>(options);
    return run<mistral::bfloat16>(options);
}

}  // namespace

int main(int argc, char** argv) try {
    const auto options = CommandLine().parse(argc, argv);
    return options ? run(*options) : EXIT_SUCCESS;
} catch (const UsageError& error) {
    std::cerr << "generate: " << error.what() << "\nTry 'generate --help'.\n";
    return usage_status;
} catch (const mistral::Cancelled&) {
    std::cerr << "generate: interrupted\n";
    return interrupted_status;
} catch (const std::exception& error) {
    std::cerr << "generate: " << error.what() << '\n';
    return EXIT_FAILURE;
}
