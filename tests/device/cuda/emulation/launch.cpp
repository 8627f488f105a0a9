#include "launch.h"

#include "block.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstdint>

namespace emulation {
namespace {

std::size_t dynamic_shared_limit(const State& s, const void* kernel) {
    const auto raised = s.dynamic_shared_limits.find(kernel);
    const auto attribute = s.settings.attributes.at(cudaDevAttrMaxSharedMemoryPerBlock);
    return std::size_t(raised == s.dynamic_shared_limits.end() ? attribute : raised->second);
}

bool is_grid(dim3 grid) {
    return grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535;
}

bool begins_early(const cudaLaunchConfig_t& config) {
    return std::any_of(config.attrs, config.attrs + config.numAttrs, [](const cudaLaunchAttribute& attribute) {
        return attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
               attribute.val.programmaticStreamSerializationAllowed != 0;
    });
}

bool is_block(dim3 block) {
    return block.x >= 1 && block.y >= 1 && block.z >= 1 && block.x <= max_block_threads &&
           block.y <= max_block_threads && block.z <= 64 &&
           std::size_t(block.x) * block.y * block.z <= max_block_threads;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
    return call([&](State& s) {
        if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
        if (!is_grid(config.gridDim) || !is_block(config.blockDim)) return cudaErrorInvalidConfiguration;
        if (config.dynamicSmemBytes > dynamic_shared_limit(s, kernel)) return cudaErrorInvalidValue;
        ++s.counts.launches;
        return put(s, config.stream,
                   [&s, grid = config.gridDim, block = config.blockDim, bytes = config.dynamicSmemBytes,
                    early = begins_early(config), thread = std::move(thread)] {
                       ++s.counts.kernels_run;
                       run_grid(grid, block, bytes, s.settings.seed, early, thread);
                   });
    });
}

}  // namespace emulation

using namespace emulation;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    return call([&](State& s) {
        if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
        if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
        const int most =
            std::min(int(max_dynamic_shared_bytes), s.settings.attributes.at(cudaDevAttrMaxSharedMemoryPerBlockOptin));
        if (value < 0 || value > most) return cudaErrorInvalidValue;
        s.dynamic_shared_limits[kernel] = value;
        return cudaSuccess;
    });
}

// As if the kernel were compiled for the GPU.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
    return call([&](State& s) {
        if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
        const auto& all = s.settings.attributes;
        attributes->ptxVersion =
            10 * all.at(cudaDevAttrComputeCapabilityMajor) + all.at(cudaDevAttrComputeCapabilityMinor);
        return cudaSuccess;
    });
}

// As if no kernel had more registers than the threads leave it, nor static shared memory.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int block_size,
                                                          std::size_t dynamic_shared_bytes) {
    return call([&](State& s) {
        if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
        if (block_size < 1 || block_size > int(max_block_threads)) return cudaErrorInvalidValue;
        const auto& attributes = s.settings.attributes;
        constexpr std::size_t reserved_bytes = 1024;  // of each block
        const auto shared_bytes = std::size_t(attributes.at(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
        *blocks = std::min({32, attributes.at(cudaDevAttrMaxThreadsPerMultiProcessor) / block_size,
                            int(shared_bytes / (dynamic_shared_bytes + reserved_bytes))});
        return cudaSuccess;
    });
}
