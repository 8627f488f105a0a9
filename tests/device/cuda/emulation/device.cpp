#include "state.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace emulation {
namespace {

struct ErrorText {
    cudaError_t error;
    const char* name;
    const char* text;
};

constexpr std::array error_texts{
    ErrorText{cudaSuccess, "cudaSuccess", "no error"},
    ErrorText{cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    ErrorText{cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    ErrorText{cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    ErrorText{cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    ErrorText{cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    ErrorText{cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    ErrorText{cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
              "CUDA driver version is insufficient for CUDA runtime version"},
    ErrorText{cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    ErrorText{cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    ErrorText{cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    ErrorText{cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    ErrorText{cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    ErrorText{cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    ErrorText{cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
              "too many resources requested for launch"},
    ErrorText{cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    ErrorText{cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    ErrorText{cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    ErrorText{cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
              "operation not permitted when stream is capturing"},
    ErrorText{cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
              "operation failed due to a previous error during capture"},
    ErrorText{cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
              "operation would result in a merge of separate capture sequences"},
    ErrorText{cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
              "capture was not ended in the same stream as it began"},
    ErrorText{cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    ErrorText{cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
              "dependency created on uncaptured work in another stream"},
    ErrorText{cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
              "operation would make the legacy stream depend on a capturing blocking stream"},
    ErrorText{cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
              "operation not permitted on an event last recorded in a capturing stream"},
    ErrorText{cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
              "attempt to terminate a thread-local capture sequence from another thread"},
    ErrorText{cudaErrorUnknown, "cudaErrorUnknown", "unknown error"}};

const ErrorText& text_of(cudaError_t error) {
    static constexpr ErrorText unrecognized{cudaErrorUnknown, "unrecognized error code", "unrecognized error code"};
    const auto* found = std::find_if(error_texts.begin(), error_texts.end(),
                                     [&](const ErrorText& text) { return text.error == error; });
    return found == error_texts.end() ? unrecognized : *found;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

}  // namespace

State& state() {
    static State state;
    return state;
}

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

cudaError_t admit(State& state) {
    ++state.counts.calls;
    auto& left = state.settings.calls_to_failure;
    if (left > 0 && --left == 0) return state.settings.failure;
    return state.settings.devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

Counts counts() {
    State& s = state();
    const std::lock_guard lock(s.mutex);
    Counts counts = s.counts;
    counts.live_allocations = s.device_memory.size();
    counts.live_bytes = s.device_memory.bytes();
    counts.live_host_allocations = s.host_memory.size();
    counts.live_handles =
        s.streams.size() + s.events.size() + s.graphs.size() + s.executables.size() + s.live_cublas_handles;
    return counts;
}

namespace {

template <class Body>
void set(Body body) {
    const std::lock_guard lock(state().mutex);
    body(state().settings);
}

}  // namespace

void reset() {
    set([](Settings& settings) {
        settings = {};
        state().counts = {};
    });
    last_error = cudaSuccess;
    current_device = 0;
}

void fail_call(std::size_t n, cudaError_t error) {
    set([&](Settings& settings) {
        settings.calls_to_failure = n;
        settings.failure = error;
    });
}

void set_device_count(int count) {
    set([&](Settings& settings) { settings.devices = count; });
}

void set_attribute(cudaDeviceAttr attribute, int value) {
    set([&](Settings& settings) { settings.attributes[attribute] = value; });
}

void set_memory(std::size_t bytes) {
    set([&](Settings& settings) { settings.memory = bytes; });
}

void set_matmul_milliseconds(std::vector<double> times) {
    set([&](Settings& settings) { settings.matmul_milliseconds = std::move(times); });
}

void set_seed(std::uint64_t seed) {
    set([&](Settings& settings) { settings.seed = seed; });
}

}  // namespace emulation

using namespace emulation;

const char* cudaGetErrorName(cudaError_t error) {
    return text_of(error).name;
}
const char* cudaGetErrorString(cudaError_t error) {
    return text_of(error).text;
}
cudaError_t cudaGetLastError() {
    return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
    return last_error;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
    return call([&](State& s) {
        *count = s.settings.devices;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int device) {
    return call([&](State& s) {
        if (device < 0 || device >= s.settings.devices) return cudaErrorInvalidDevice;
        current_device = device;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int* device) {
    return call([&](State&) {
        *device = current_device;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return call([&](State& s) {
        if (device < 0 || device >= s.settings.devices) return cudaErrorInvalidDevice;
        const auto found = s.settings.attributes.find(attribute);
        if (found == s.settings.attributes.end()) return cudaErrorInvalidValue;
        *value = found->second;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSynchronize() {
    return call([](State& s) { return refuse_while_capturing(s); });
}
