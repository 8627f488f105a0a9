#pragma once

#include <mistral/mistral.hpp>

#include <span>

// The model and the session that this program uses are compiled once, in engine.cpp. Every other file that includes
// this header only parses the library. Headers that merely name its classes need no more than <mistral/fwd.hpp>.

using Model = mistral::MistralModel<mistral::bfloat16>;

extern template class mistral::MistralModel<mistral::bfloat16>;
extern template class mistral::Session<Model>;
// A pass depends on the cache's format too: what instantiates the model's class leaves it out.
extern template void mistral::MistralModel<mistral::bfloat16>::forward<mistral::bfloat16>(
    std::span<const Model::SequenceChunk<mistral::bfloat16>>) const;
