#include "engine.hpp"

template class mistral::MistralModel<mistral::bfloat16>;
template class mistral::Session<Model>;
