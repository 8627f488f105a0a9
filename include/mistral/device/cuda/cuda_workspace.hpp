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
#include <list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace mistral {

/// What one sequence needs to compute on a GPU, alone or with others: a stream, scratch memory, positions where kernels
/// read them, and the passes that were recorded.
class CudaWorkspace {
  public:
    /// So many kinds of passes are known at a time, the newest ones. A record takes memory of the GPU, and batches that
    /// have changed seldom come back: a sequence is alone or leads a few in turn.
    static constexpr std::size_t most_passes = 8;

    explicit CudaWorkspace(std::shared_ptr<cuda::Gpu> gpu) : CudaWorkspace(gpu, cuda::CurrentGpu(gpu->ordinal())) {}

    [[nodiscard]] auto frame() { return scratch_.frame(); }
    /// Scratch memory held, in bytes.
    [[nodiscard]] Index bytes() const { return scratch_.bytes(); }

    [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }

    /// Where kernels find the runs' positions: brought there unless they are among the newest, so that a pass brings
    /// them once, not in every layer.
    template <class Run>
    [[nodiscard]] const Index* positions(std::span<const Run> runs) {
        const Positions wanted = positions_of(runs);
        const auto found = std::find(held_.begin(), held_.end(), wanted);
        if (found != held_.end()) return place(found - held_.begin());
        last_brought_ = last_brought_ % (most_places - 1) + 1;
        return bring(wanted, last_brought_);
    }

    /// As Device says. The first pass of its kind is only performed, and scratch memory grows as it needs; the second
    /// is recorded too; the others are what was recorded.
    template <class Body>
    bool perform(const Pass& pass, Body&& body) {
        static_cast<void>(bring(positions_of(pass.steps), recorded_place));
        const auto found =
            std::find_if(passes_.begin(), passes_.end(), [&](const KnownPass& known) { return known.is_like(pass); });
        if (found == passes_.end()) {
            body();
            if (passes_.size() == most_passes) passes_.pop_back();
            passes_.emplace_front(pass);
            return true;
        }
        passes_.splice(passes_.begin(), passes_, found);
        cuda::RecordedPass& recorded = found->recorded;
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

    /// Passes that differ in nothing but their positions. Holds their pointers, which so name nothing else.
    struct KnownPass {
        std::shared_ptr<const void> model;
        std::vector<std::shared_ptr<const void>> caches;  // in the order of the steps
        Index logits;
        cuda::RecordedPass recorded;  // or not yet

        explicit KnownPass(const Pass& pass) : model(pass.model), logits(pass.logits) {
            for (const Step& step : pass.steps) caches.push_back(step.caches);
        }
        [[nodiscard]] bool is_like(const Pass& pass) const {
            return model == pass.model && logits == pass.logits &&
                   std::equal(caches.begin(), caches.end(), pass.steps.begin(), pass.steps.end(),
                              [](const auto& mine, const Step& step) { return mine == step.caches; });
        }
    };

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

    template <class Run>
    static Positions positions_of(std::span<const Run> runs) {
        Positions positions = none();
        std::transform(runs.begin(), runs.end(), positions.begin(), [](const Run& run) { return run.position; });
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
    std::list<KnownPass> passes_;                           // at most most_passes, the newest first
    cuda::Stream stream_;                                   // the last, so that it waits before anything else goes
};

}  // namespace mistral
