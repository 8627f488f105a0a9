#pragma once

#include <mistral/base/types.hpp>
#include <mistral/base/workspace.hpp>
#include <mistral/device/cuda/check.hpp>
#include <mistral/device/cuda/device_buffer.hpp>
#include <mistral/device/cuda/gpu.hpp>
#include <mistral/device/cuda/recorded_pass.hpp>
#include <mistral/device/device.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

namespace mistral {

/// What one sequence needs to compute on a GPU, alone or with others: a stream, scratch memory, positions where kernels
/// read them, and the passes of one token that were recorded.
class CudaWorkspace {
  public:
    explicit CudaWorkspace(std::shared_ptr<cuda::Gpu> gpu) : CudaWorkspace(gpu, cuda::CurrentGpu(gpu->ordinal())) {}

    [[nodiscard]] auto frame() { return scratch_.frame(); }
    /// Scratch memory held, in bytes.
    [[nodiscard]] Index bytes() const { return scratch_.bytes(); }

    [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }

    /// Where kernels find the runs' positions: brought there unless they are among the newest, so that a pass brings
    /// them once, not in every layer.
    template <class Run>
    [[nodiscard]] const Index* positions(std::span<const Run> runs) {
        Positions wanted = none();
        std::transform(runs.begin(), runs.end(), wanted.begin(), [](const Run& run) { return run.position; });
        const auto found = std::find(held_.begin(), held_.end(), wanted);
        if (found != held_.end()) return place(found - held_.begin());
        last_brought_ = last_brought_ % (most_places - 1) + 1;
        return bring(wanted, last_brought_);
    }

    /// As Device says. The first pass of its kind is only performed, and scratch memory grows as it needs; the second
    /// is recorded too; the others are what was recorded.
    template <class Body>
    bool perform(const Pass& pass, Body&& body) {
        Positions positions = none();
        positions.front() = pass.position;
        static_cast<void>(bring(positions, recorded_place));
        const Kind kind{pass.model, pass.tokens, pass.logits};
        const auto found = passes_.find(kind);
        if (found == passes_.end()) {
            body();
            passes_.try_emplace(kind);
            return true;
        }
        cuda::RecordedPass& recorded = found->second;
        const bool is_new = !recorded;
        if (is_new) recorded = cuda::RecordedPass(stream(), body);
        recorded.run(stream());
        return is_new;
    }

    /// Waits until all is done.
    void finish() const { stream_.synchronize(); }

  private:
    struct Allocate {
        std::shared_ptr<cuda::Gpu> gpu;
        DeviceBuffer<std::byte> operator()(Index size) const { return {gpu, size}; }
    };
    /// The model, the tokens and the logits of a pass. What holds the model's pointer keeps it from naming another.
    using Kind = std::tuple<std::shared_ptr<const void>, Index, Index>;

    /// Of the runs of one verb; -1 where there are fewer.
    using Positions = std::array<Index, most_sequences>;

    static constexpr Index most_places = 16;
    static constexpr Index recorded_place = 0;  // the first that is searched: where recorded passes read

    CudaWorkspace(const std::shared_ptr<cuda::Gpu>& gpu, const cuda::CurrentGpu&)
        : scratch_(Allocate{gpu}), position_memory_(gpu, most_places * Index{most_sequences}) {
        held_.fill(none());
    }

    static Positions none() {
        Positions positions;
        positions.fill(-1);
        return positions;
    }

    [[nodiscard]] Index* place(Index i) { return position_memory_.data() + i * Index{most_sequences}; }

    /// Makes them the positions at place i.
    const Index* bring(const Positions& positions, Index i) {
        Positions& held = held_[static_cast<std::size_t>(i)];
        if (held != positions)
            MISTRAL_CUDA(
                cudaMemcpyAsync(place(i), positions.data(), sizeof(positions), cudaMemcpyHostToDevice, stream()));
        held = positions;
        return place(i);
    }

    BasicWorkspace<DeviceBuffer<std::byte>, Allocate> scratch_;
    DeviceBuffer<Index> position_memory_;                   // [most_places, most_sequences]
    std::array<Positions, std::size_t{most_places}> held_;  // what it holds
    Index last_brought_ = 0;                                // the place, recorded_place aside
    std::map<Kind, cuda::RecordedPass> passes_;             // of kinds that were performed, recorded or not yet
    cuda::Stream stream_;                                   // the last, so that it waits before anything else goes
};

}  // namespace mistral
