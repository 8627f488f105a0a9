#pragma once

#include <mistral/fwd.hpp>

#include <string>

/// A message of the library's, made in another translation unit.
std::string message_of_other_unit();

/// Links only if what fwd.hpp declares is what the library defines, with the same default arguments.
bool is_defined(const mistral::MistralModel<mistral::bfloat16>* model,
                const mistral::Session<mistral::MistralModel<float>, float>* session,
                const mistral::GroupedQueryAttention<float, mistral::Cpu>* attention,
                const mistral::RollingKVCache<float, mistral::Cpu, mistral::Shape{.window = 4}>* cache);
