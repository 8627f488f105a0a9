#pragma once

#include <mistral/base/config.hpp>
#include <mistral/base/error.hpp>
#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/shape.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/cuda_workspace.hpp>
#include <mistral/device/cuda/device_buffer.hpp>
#include <mistral/device/cuda/device_matrix.hpp>
#include <mistral/device/cuda/gpu.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/device/cuda/matrix_product.hpp>
#include <mistral/device/device.hpp>

#include <cuda_runtime_api.h>

#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

namespace mistral {

/// How a GPU keeps a matrix.
template <class T>
struct DeviceMatrixOf {
    using type = DeviceMatrix<T>;
};
template <QuantizedScalar Q>
struct DeviceMatrixOf<Q> {
    using type = QuantizedDeviceMatrix<Q>;
};

/// One NVIDIA GPU, by CUDA. The verbs are those of `Device`, for weights in float, half, bfloat16, Q8 and Q4 and caches
/// in float, half and bfloat16; each workspace has a stream of its own, so that sequences on several threads compute at
/// the same time. Up to 16 tokens multiply activations in float, which is as fast as memory; more are rounded to the
/// type of the weights, bfloat16 for Q8 and Q4, and go to tensor cores, so that a token's last bits depend on the
/// chunk that it comes in. All verbs throw Error where CUDA fails.
class Cuda {
  public:
    template <class T>
    using Buffer = DeviceBuffer<T>;
    template <class T>
    using Matrix = typename DeviceMatrixOf<T>::type;
    using Workspace = CudaWorkspace;

    /// The GPU of that ordinal, as CUDA counts them from 0. Throws Error where there is none, or one before Ampere.
    explicit Cuda(int ordinal = 0) : gpu_(std::make_shared<cuda::Gpu>(ordinal)) {}

    [[nodiscard]] int ordinal() const { return gpu_->ordinal(); }

    template <class T>
    [[nodiscard]] Buffer<T> buffer(Index size) const {
        return {gpu_, size};
    }
    [[nodiscard]] Workspace workspace() const { return Workspace(gpu_); }

    template <class T>
    [[nodiscard]] Matrix<T> matrix(const HostMatrix<T>& weights) const {
        return {gpu_, weights};
    }
    template <QuantizedScalar Q, class Read>
    [[nodiscard]] Matrix<Q> quantize(Index rows, Index cols, Read&& read) const {
        return Matrix<Q>::quantize(gpu_, rows, cols, read);
    }
    template <QuantizedScalar Q>
    [[nodiscard]] Matrix<Q> mapped(const std::shared_ptr<const void>&, const std::byte* data, Index rows,
                                   Index cols) const {
        return {gpu_, data, rows, cols};
    }

    template <class S>
    void embed(MatrixView<const Token> tokens, const DeviceMatrix<S>& table, MatrixView<float> out,
               Workspace& workspace) const {
        const auto current = this->current();
        cuda::embed(workspace.stream(), tokens.data(), table.view(), out);
    }

    void rms_norm(MatrixView<const float> x, const DeviceMatrix<float>& weight, double eps, MatrixView<float> out,
                  Workspace& workspace) const {
        const auto current = this->current();
        cuda::rms_norm(workspace.stream(), x, weight.view().data(), static_cast<float>(eps), out);
    }

    template <class M, std::size_t count>
    void multiply(MatrixView<const float> x, const std::array<Product<M, float>, count>& products, Update update,
                  Workspace& workspace) const {
        static_assert(count <= most_products);
        const auto current = this->current();
        if (x.rows() > cuda::few_tokens) return multiply_many(x, products, update, workspace);
        multiply_few(x, products, update, false, workspace);
    }

    template <class M>
    void gate(MatrixView<const float> x, const Product<M, float>& gate, const Product<M, float>& up,
              Workspace& workspace) const {
        const auto current = this->current();
        const std::array products{gate, up};
        if (x.rows() > cuda::few_tokens) {
            multiply_many(x, products, Update::assign, workspace);
            return cuda::swiglu(workspace.stream(), gate.out, up.out, gate.out);
        }
        multiply_few(x, products, Update::assign, true, workspace);
    }

    void rotate(MatrixView<float> x, std::span<const TokenRun> runs, const DeviceMatrix<float>& frequencies,
                RotaryPairing pairing, Workspace& workspace) const {
        const auto current = this->current();
        cuda::rotate(workspace.stream(), x, runs, workspace.positions(runs), frequencies.view().data(),
                     2 * frequencies.cols(), pairing);
    }

    template <class C>
    void convert(MatrixView<const float> keys, MatrixView<const float> values, Index, MatrixView<C> cached_keys,
                 MatrixView<C> cached_values, Workspace& workspace) const {
        const auto current = this->current();
        cuda::convert(workspace.stream(), keys, values, cached_keys, cached_values);
    }

    template <class C>
    void append(MatrixView<const C> keys, MatrixView<const C> values, std::span<const CachedRun<C>> runs,
                Workspace& workspace) const {
        const auto current = this->current();
        cuda::append(workspace.stream(), keys, values, runs, workspace.positions(runs));
    }

    template <class C>
    void attend(MatrixView<const float> queries, MatrixView<const C> keys, MatrixView<const C> values,
                std::span<const CachedRun<C>> runs, const Shape& shape, MatrixView<float> out,
                Workspace& workspace) const {
        const auto current = this->current();
        auto frame = workspace.frame();
        const auto scratch = frame.template matrix<std::byte>(1, cuda::attention_scratch(runs, shape));
        cuda::attend<C>(workspace.stream(),
                        {.queries = queries,
                         .keys = keys,
                         .values = values,
                         .runs = runs,
                         .positions = workspace.positions(runs),
                         .shape = shape,
                         .out = out},
                        scratch.data());
    }

    template <class T>
    void copy(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        copy(from, to, cudaMemcpyDeviceToDevice, workspace);
    }
    template <class T>
    void copy_in(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        copy(from, to, cudaMemcpyHostToDevice, workspace);
    }
    template <class T>
    void copy_out(MatrixView<const T> from, MatrixView<T> to, Workspace& workspace) const {
        copy(from, to, cudaMemcpyDeviceToHost, workspace);
    }

    template <class Body>
    bool perform(const Pass& pass, Workspace& workspace, Body&& body) const {
        const auto current = this->current();
        return workspace.perform(pass, body);
    }

    void finish(Workspace& workspace) const { workspace.finish(); }

  private:
    [[nodiscard]] cuda::CurrentGpu current() const { return cuda::CurrentGpu(gpu_->ordinal()); }

    template <class M, std::size_t count>
    void multiply_many(MatrixView<const float> x, const std::array<Product<M, float>, count>& products, Update update,
                       Workspace& workspace) const {
        auto frame = workspace.frame();
        const auto scratch = frame.template matrix<std::byte>(1, cuda::MatrixProduct::scratch_bytes);
        const auto rounded = round_to<typename M::ProductScalar>(x, frame, workspace);
        for (const auto& product : products) {
            auto inner = workspace.frame();
            gpu_->product().run(workspace.stream(), rounded, dense(product.weights, inner, workspace), product.out,
                                update, scratch.data());
        }
    }

    template <class M, std::size_t count>
    static void multiply_few(MatrixView<const float> x, const std::array<Product<M, float>, count>& products,
                             Update update, bool gated, Workspace& workspace) {
        const auto views = std::apply([](const auto&... each) { return std::array{view_of(each)...}; }, products);
        using View = typename decltype(views)::value_type;
        cuda::multiply(workspace.stream(), x, std::span<const View>(views), update, gated);
    }

    template <class M>
    static auto view_of(const Product<M, float>& product) {
        return cuda::WeightsFor<decltype(product.weights.view())>{product.weights.view(), product.out};
    }

    template <class S, class Frame>
    static MatrixView<const S> dense(const DeviceMatrix<S>& weights, Frame&, Workspace&) {
        return weights.view();
    }
    template <QuantizedScalar Q, class Frame>
    static MatrixView<const bfloat16> dense(const QuantizedDeviceMatrix<Q>& weights, Frame& frame,
                                            Workspace& workspace) {
        const auto all = frame.template matrix<bfloat16>(weights.rows(), weights.cols());
        cuda::dequantize(workspace.stream(), weights.view(), all);
        return all;
    }

    template <class S, class Frame>
    static MatrixView<const S> round_to(MatrixView<const float> x, Frame& frame, Workspace& workspace) {
        if constexpr (std::same_as<S, float>) {
            return x;
        } else {
            const auto rounded = frame.template matrix<S>(x.rows(), x.cols());
            cuda::convert(workspace.stream(), x, rounded);
            return rounded;
        }
    }

    template <class T>
    void copy(MatrixView<const T> from, MatrixView<T> to, cudaMemcpyKind kind, Workspace& workspace) const {
        assert(from.rows() == to.rows() && from.cols() == to.cols());
        if (from.rows() == 0 || from.cols() == 0) return;
        const auto current = this->current();
        const auto bytes = [](Index elements) { return static_cast<std::size_t>(elements) * sizeof(T); };
        MISTRAL_CUDA(cudaMemcpy2DAsync(to.data(), bytes(to.stride()), from.data(), bytes(from.stride()),
                                       bytes(from.cols()), static_cast<std::size_t>(from.rows()), kind,
                                       workspace.stream()));
    }

    std::shared_ptr<cuda::Gpu> gpu_;
};

static_assert(Device<Cuda>);

}  // namespace mistral
