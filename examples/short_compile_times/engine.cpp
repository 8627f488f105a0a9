#include "engine.hpp"

template class mistral::MistralModel<mistral::bfloat16>;
template class mistral::Session<Model>;
template void mistral::MistralModel<mistral::bfloat16>::forward<mistral::bfloat16>(
    std::span<const Model::SequenceChunk<mistral::bfloat16>>) const;
