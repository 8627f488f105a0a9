#pragma once

#include <mistral/base/host_matrix.hpp>
#include <mistral/base/matrix_view.hpp>
#include <mistral/base/rounding.hpp>
#include <mistral/base/types.hpp>
#include <mistral/device/cpu/thread_pool.hpp>
#include <mistral/device/cuda/device_buffer.hpp>
#include <mistral/device/cuda/gpu.hpp>
#include <mistral/device/cuda/kernels.hpp>
#include <mistral/scalar/quantization.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace mistral {

/// A matrix [rows, cols] in a GPU's memory. Copies share it.
template <class T>
class DeviceMatrix {
    static_assert(std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16>,
                  "GPUs compute with float, half, bfloat16, Q8 and Q4");

  public:
    /// What products with many tokens take it as.
    using ProductScalar = T;

    DeviceMatrix() = default;
    DeviceMatrix(const std::shared_ptr<cuda::Gpu>& gpu, const HostMatrix<T>& from)
        : memory_(std::make_shared<DeviceBuffer<T>>(gpu, from.rows() * from.cols())),
          rows_(from.rows()),
          cols_(from.cols()) {
        const cuda::CurrentGpu current(gpu->ordinal());
        const bool is_whole = from.view.stride() == cols_;
        const Index count = is_whole ? rows_ * cols_ : cols_;  // at once
        for (Index done = 0; done < rows_ * cols_; done += count)
            gpu->upload().copy(reinterpret_cast<const std::byte*>(from.view.row(done / cols_)),
                               reinterpret_cast<std::byte*>(memory_->data() + done),
                               static_cast<std::size_t>(count) * sizeof(T), gpu->stream().get());
        gpu->stream().synchronize();
    }

    [[nodiscard]] Index rows() const { return rows_; }
    [[nodiscard]] Index cols() const { return cols_; }
    [[nodiscard]] MatrixView<const T> view() const { return {std::as_const(*memory_).data(), rows_, cols_}; }

  private:
    std::shared_ptr<DeviceBuffer<T>> memory_;
    Index rows_ = 0;
    Index cols_ = 0;
};

/// A quantised matrix [rows, cols] in a GPU's memory, in the order of QuantizedView: first all codes, then all scales.
/// Copies share it.
template <QuantizedScalar Q>
class QuantizedDeviceMatrix {
  public:
    using View = cuda::QuantizedView<Q>;
    using ProductScalar = bfloat16;

    /// Names the order in files: another text for another order.
    static constexpr std::string_view layout = "tiles of 4 rows for GPUs, version 1";

    QuantizedDeviceMatrix() = default;

    /// Of which `from` are the bytes(): bytes_of(rows, cols) of them in host memory.
    QuantizedDeviceMatrix(const std::shared_ptr<cuda::Gpu>& gpu, const std::byte* from, Index rows, Index cols)
        : gpu_(gpu),
          memory_(std::make_shared<DeviceBuffer<std::byte>>(gpu, bytes_of(rows, cols))),
          rows_(rows),
          cols_(cols) {
        const cuda::CurrentGpu current(gpu->ordinal());
        gpu->upload().copy(from, memory_->data(), static_cast<std::size_t>(memory_->size()), gpu->stream().get());
        gpu->stream().synchronize();
    }

    /// Quantises the rows that read(row, float* to) gives, which is called from several threads, one per core.
    template <class Read>
    [[nodiscard]] static QuantizedDeviceMatrix quantize(const std::shared_ptr<cuda::Gpu>& gpu, Index rows, Index cols,
                                                        Read&& read) {
        const View shape{.rows = rows, .cols = cols};
        const Index width = shape.groups() * group_size;
        ThreadPool pool(0);
        std::vector<std::byte> bytes(static_cast<std::size_t>(bytes_of(rows, cols)));
        std::vector<float> scratch(static_cast<std::size_t>(pool.threads() * width));
        pool.for_each(shape.row_tiles(), [&](Index worker, Index tile) noexcept {
            float* const row = scratch.data() + worker * width;
            for (Index r = tile * View::tile_rows; r < std::min(rows, (tile + 1) * View::tile_rows); ++r) {
                read(r, row);
                for_each_quantized_group<Q>(row, cols, [&](Index group, const QuantizedGroup& quantized) {
                    write(quantized, shape, r, group, bytes.data());
                });
            }
        });
        return QuantizedDeviceMatrix(gpu, bytes.data(), rows, cols);
    }

    [[nodiscard]] Index rows() const { return rows_; }
    [[nodiscard]] Index cols() const { return cols_; }

    /// How many bytes a matrix [rows, cols] takes: a multiple of 64.
    [[nodiscard]] static Index bytes_of(Index rows, Index cols) {
        constexpr Index multiple = 64;
        const View shape{.rows = rows, .cols = cols};
        const Index bytes = shape.code_bytes() + shape.scale_count() * static_cast<Index>(sizeof(half));
        return round_up(bytes, multiple);
    }

    /// A copy in host memory.
    [[nodiscard]] std::vector<std::byte> bytes() const {
        std::vector<std::byte> copy(static_cast<std::size_t>(memory_->size()));
        const cuda::CurrentGpu current(gpu_->ordinal());
        MISTRAL_CUDA(
            cudaMemcpyAsync(copy.data(), memory_->data(), copy.size(), cudaMemcpyDeviceToHost, gpu_->stream().get()));
        gpu_->stream().synchronize();
        return copy;
    }

    [[nodiscard]] View view() const {
        View view{.rows = rows_, .cols = cols_};
        view.codes = reinterpret_cast<const std::uint8_t*>(memory_->data());
        view.scales = reinterpret_cast<const half*>(memory_->data() + view.code_bytes());
        return view;
    }

  private:
    static void write(const QuantizedGroup& from, const View& shape, Index row, Index group, std::byte* to) {
        std::memcpy(to + shape.code_bytes() + shape.scale_index(row, group) * static_cast<Index>(sizeof(half)),
                    &from.scale, sizeof(half));
        for (Index i = 0; i < group_size; ++i) {
            const std::int8_t level = from.levels[static_cast<std::size_t>(i)];
            std::byte& code = to[shape.code_byte(row, group * group_size + i)];
            if constexpr (std::same_as<Q, Q8>) {
                code = static_cast<std::byte>(level);
            } else {
                const auto index = static_cast<std::byte>(q4_index(level));
                code |= i % 2 == 0 ? index : index << 4;
            }
        }
    }

    std::shared_ptr<cuda::Gpu> gpu_;
    std::shared_ptr<DeviceBuffer<std::byte>> memory_;
    Index rows_ = 0;
    Index cols_ = 0;
};

}  // namespace mistral
