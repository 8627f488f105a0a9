#include "generator.hpp"

template int generator::run<double>(const generator::Options&);
template int generator::run<float>(const generator::Options&);
