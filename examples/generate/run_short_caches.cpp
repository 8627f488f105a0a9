#include "generator.hpp"

template int generator::run<mistral::bfloat16, mistral::Q8>(const generator::Options&);
template int generator::run<mistral::Q8, mistral::Q8>(const generator::Options&);
template int generator::run<mistral::Q4, mistral::Q8>(const generator::Options&);
