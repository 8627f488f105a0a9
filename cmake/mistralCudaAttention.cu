// The attention on the GPU, for the scalars that a cache can have there. Compiled by nvcc with
// --expt-relaxed-constexpr: kernels ask Window for the mask and RangeBlocks for sizes.

#include <mistral/device/cuda/kernels/attention.cuh>

namespace mistral::cuda {

template Index attention_scratch(std::span<const CachedRun<float>>, const Shape&);
template Index attention_scratch(std::span<const CachedRun<half>>, const Shape&);
template Index attention_scratch(std::span<const CachedRun<bfloat16>>, const Shape&);

template void attend(cudaStream_t, const Attention<float>&, std::byte*);
template void attend(cudaStream_t, const Attention<half>&, std::byte*);
template void attend(cudaStream_t, const Attention<bfloat16>&, std::byte*);

}  // namespace mistral::cuda
