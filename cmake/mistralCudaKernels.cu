// The kernels for the GPU, compiled once for the scalars that mistral/device/cuda/kernels.hpp names.

#include <mistral/device/cuda/kernels/elementwise.cuh>
#include <mistral/device/cuda/kernels/multiply.cuh>
#include <mistral/device/cuda/kernels/multiply_quantized.cuh>
#include <mistral/device/cuda/kernels/norm.cuh>
#include <mistral/device/cuda/kernels/rotary.cuh>

namespace mistral::cuda {

template void embed(cudaStream_t, const Token*, MatrixView<const float>, MatrixView<float>);
template void embed(cudaStream_t, const Token*, MatrixView<const half>, MatrixView<float>);
template void embed(cudaStream_t, const Token*, MatrixView<const bfloat16>, MatrixView<float>);

template void multiply<float>(cudaStream_t, MatrixView<const float>,
                              std::span<const WeightsFor<MatrixView<const float>>>, Update, bool);
template void multiply<half>(cudaStream_t, MatrixView<const float>, std::span<const WeightsFor<MatrixView<const half>>>,
                             Update, bool);
template void multiply<bfloat16>(cudaStream_t, MatrixView<const float>,
                                 std::span<const WeightsFor<MatrixView<const bfloat16>>>, Update, bool);
template void multiply<Q8>(cudaStream_t, MatrixView<const float>, std::span<const WeightsFor<QuantizedView<Q8>>>,
                           Update, bool);
template void multiply<Q4>(cudaStream_t, MatrixView<const float>, std::span<const WeightsFor<QuantizedView<Q4>>>,
                           Update, bool);

template void dequantize(cudaStream_t, QuantizedView<Q8>, MatrixView<bfloat16>);
template void dequantize(cudaStream_t, QuantizedView<Q4>, MatrixView<bfloat16>);

template void convert(cudaStream_t, MatrixView<const float>, MatrixView<float>);
template void convert(cudaStream_t, MatrixView<const float>, MatrixView<half>);
template void convert(cudaStream_t, MatrixView<const float>, MatrixView<bfloat16>);

template void convert(cudaStream_t, MatrixView<const float>, MatrixView<const float>, MatrixView<float>,
                      MatrixView<float>);
template void convert(cudaStream_t, MatrixView<const float>, MatrixView<const float>, MatrixView<half>,
                      MatrixView<half>);
template void convert(cudaStream_t, MatrixView<const float>, MatrixView<const float>, MatrixView<bfloat16>,
                      MatrixView<bfloat16>);

template void append(cudaStream_t, MatrixView<const float>, MatrixView<const float>, std::span<const CachedRun<float>>,
                     const Index*);
template void append(cudaStream_t, MatrixView<const half>, MatrixView<const half>, std::span<const CachedRun<half>>,
                     const Index*);
template void append(cudaStream_t, MatrixView<const bfloat16>, MatrixView<const bfloat16>,
                     std::span<const CachedRun<bfloat16>>, const Index*);

}  // namespace mistral::cuda
