#include "options.hpp"
#include "run.hpp"

template <mistral::Scalar S>
int generator::run_on_gpu(const Options&) {
    throw UsageError("--device cuda: this program was built without CUDA, see mistral::cuda in README.md");
}

template int generator::run_on_gpu<float>(const generator::Options&);
template int generator::run_on_gpu<mistral::half>(const generator::Options&);
template int generator::run_on_gpu<mistral::bfloat16>(const generator::Options&);
template int generator::run_on_gpu<mistral::Q8>(const generator::Options&);
template int generator::run_on_gpu<mistral::Q4>(const generator::Options&);
