#include <mistral/cuda.hpp>

#include "generator.hpp"

template <>
mistral::Cuda generator::make_device(const Options& options) {
    return mistral::Cuda(options.gpu.value());
}

template <mistral::Scalar S>
int generator::run_on_gpu(const Options& options) {
    return run<S, mistral::DefaultCacheScalar<S>, mistral::Cuda>(options);
}

template int generator::run_on_gpu<float>(const generator::Options&);
template int generator::run_on_gpu<mistral::half>(const generator::Options&);
template int generator::run_on_gpu<mistral::bfloat16>(const generator::Options&);
template int generator::run_on_gpu<mistral::Q8>(const generator::Options&);
template int generator::run_on_gpu<mistral::Q4>(const generator::Options&);
