#pragma once

#include <mistral/mistral.hpp>

// The model and the session that this program uses are compiled once, in engine.cpp. Every other file that includes
// this header only parses the library. Headers that merely name its classes need no more than <mistral/fwd.hpp>.

using Model = mistral::MistralModel<mistral::bfloat16>;

extern template class mistral::MistralModel<mistral::bfloat16>;
extern template class mistral::Session<Model>;
