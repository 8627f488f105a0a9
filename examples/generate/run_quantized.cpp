#include "generator.hpp"

template int generator::run<mistral::Q8>(const generator::Options&);
template int generator::run<mistral::Q4>(const generator::Options&);
