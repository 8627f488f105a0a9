#include "generator.hpp"

template int generator::run<mistral::half>(const generator::Options&);
template int generator::run<mistral::bfloat16>(const generator::Options&);
