#include "other.hpp"

#include <mistral/mistral.hpp>

std::string message_of_other_unit() {
    try {
        mistral::fail("position ", 3);
    } catch (const mistral::Error& error) {
        return error.what();
    }
}

bool is_defined(const mistral::MistralModel<mistral::bfloat16>* model,
                const mistral::Session<mistral::MistralModel<float>>* session,
                const mistral::GroupedQueryAttention<float, mistral::Cpu, mistral::Shape{}>* attention,
                const mistral::RollingKVCache<float, mistral::Cpu, mistral::Shape{.window = 4}>* cache) {
    return sizeof(*model) + sizeof(*session) + sizeof(*attention) + sizeof(*cache) > 0;
}
