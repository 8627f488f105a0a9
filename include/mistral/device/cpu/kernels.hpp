#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/device/cpu/cpu_base.hpp>
#include <mistral/device/device.hpp>

#include <functional>
#include <span>
#include <tuple>

/// The verbs that compute, as functions: tables of them are compiled for one instruction set each, in
/// mistralKernels.cpp, and every program that chooses at run time is linked with all. Their names and types are the
/// same under any compiler flags, and what they point to is called in no other way.
namespace mistral::cpu {

/// With activations of type A.
template <class A>
struct ActivationKernels {
    void (*rms_norm)(const CpuBase&, MatrixView<const A> x, const HostMatrix<A>& weight, double eps, MatrixView<A> out,
                     CpuBase::Workspace&);
    void (*rotate)(const CpuBase&, MatrixView<A> x, std::span<const TokenRun> runs,
                   const HostMatrix<float>& frequencies, RotaryPairing, CpuBase::Workspace&);
    void (*swiglu)(const CpuBase&, MatrixView<const A> gate, MatrixView<const A> up, MatrixView<A> out,
                   CpuBase::Workspace&);
};

/// With weights of type S.
template <class S>
struct WeightKernels {
    void (*multiply)(const CpuBase&, MatrixView<const Activation<S>> x,
                     std::span<const Product<CpuBase::Matrix<S>, Activation<S>>> products, Update, CpuBase::Workspace&);
};

/// With weights that are quantised to Q.
template <class Q>
struct QuantizationKernels {
    using Read = std::function<void(Index row, float* to)>;
    PackedMatrix<Q> (*quantize)(const CpuBase&, Index rows, Index cols, const Read& read);
};

/// With caches of type C.
template <class C>
struct CacheKernels {
    void (*convert)(const CpuBase&, MatrixView<const Activation<C>> keys, MatrixView<const Activation<C>> values,
                    Index head_dim, MatrixView<CachedElement<C>> cached_keys,
                    MatrixView<CachedElement<C>> cached_values, CpuBase::Workspace&);
    void (*attend)(const CpuBase&, MatrixView<const Activation<C>> queries, MatrixView<const CachedElement<C>> keys,
                   MatrixView<const CachedElement<C>> values, std::span<const CachedRun<C>> runs, const Shape&,
                   MatrixView<Activation<C>> out, CpuBase::Workspace&);
};

using Kernels =
    std::tuple<ActivationKernels<float>, ActivationKernels<double>,  //
               WeightKernels<double>, WeightKernels<float>, WeightKernels<half>, WeightKernels<bfloat16>,
               WeightKernels<Q8>, WeightKernels<Q4>,              //
               QuantizationKernels<Q8>, QuantizationKernels<Q4>,  //
               CacheKernels<double>, CacheKernels<float>, CacheKernels<half>, CacheKernels<bfloat16>, CacheKernels<Q8>>;

/// The tables, by the names that mistralDispatch.cmake keeps visible to the linker.
extern "C" {
[[gnu::visibility("hidden")]] extern const Kernels mistral_kernels_baseline;
[[gnu::visibility("hidden")]] extern const Kernels mistral_kernels_avx2;
[[gnu::visibility("hidden")]] extern const Kernels mistral_kernels_avx512_dot;
}

}  // namespace mistral::cpu
