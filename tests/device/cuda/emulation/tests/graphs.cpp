#include "device_buffer.hpp"
#include "emulation.hpp"

#include <mistral/device/cuda/kernels/launch.cuh>

#include <doctest/doctest.h>

#include <memory>
#include <vector>

// Streams, events, and what is captured to be replayed.

namespace mistral::cuda {
namespace {

__global__ void add(int* x, int value) {
    wait_for_previous();
    x[threadIdx.x] += value;
}

}  // namespace
}  // namespace mistral::cuda

using namespace mistral::cuda;

namespace {

struct Stream {
    cudaStream_t handle = nullptr;
    Stream() { cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking); }
    ~Stream() { cudaStreamDestroy(handle); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return handle; }
};

struct Event {
    cudaEvent_t handle = nullptr;
    Event() { cudaEventCreateWithFlags(&handle, cudaEventDisableTiming); }
    ~Event() { cudaEventDestroy(handle); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    operator cudaEvent_t() const { return handle; }
};

cudaStreamCaptureStatus status_of(cudaStream_t stream) {
    cudaStreamCaptureStatus status{};
    CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess);
    return status;
}

}  // namespace

TEST_CASE("A graph runs what was captured, with its arguments of then and the memory of now") {
    emulation::reset();
    const Stream stream;
    const DeviceBuffer<int> x(std::vector<int>{1});
    int source = 10;
    int addend = 5;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(status_of(stream) == cudaStreamCaptureStatusActive);
    CHECK(cudaMemcpyAsync(x.data(), &source, sizeof(int), cudaMemcpyHostToDevice, stream) == cudaSuccess);
    launch(add, 1, 1, 0, stream, x.data(), addend);
    addend = 1000;
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(status_of(stream) == cudaStreamCaptureStatusNone);
    CHECK(x.values()[0] == 1);
    CHECK(emulation::counts().kernels_run == 0);

    cudaGraphExec_t exec = nullptr;
    CHECK(cudaGraphInstantiate(&exec, graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
    CHECK(x.values()[0] == 15);
    source = 20;
    CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
    CHECK(x.values()[0] == 25);
    CHECK(emulation::counts().launches == 1);
    CHECK(emulation::counts().kernels_run == 2);
    CHECK(emulation::counts().graph_launches == 2);

    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
    CHECK(cudaGraphExecDestroy(exec) == cudaErrorInvalidValue);
    CHECK(cudaGraphDestroy(graph) == cudaErrorInvalidValue);
    CHECK(cudaGraphLaunch(exec, stream) == cudaErrorInvalidValue);
}

TEST_CASE("Waiting for a stream that captures, or allocating, is an error, and spoils the capture where CUDA says so") {
    const Stream stream;
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorInvalidValue);
    CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);

    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaErrorInvalidValue);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(status_of(stream) == cudaStreamCaptureStatusInvalidated);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);

    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    int* memory = nullptr;
    CHECK(cudaMalloc(&memory, 4) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);

    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaMalloc(&memory, 4) == cudaSuccess);
    CHECK(cudaFree(memory) == cudaSuccess);
    CHECK(cudaMallocAsync(&memory, 4, stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("Streams join a capture by events, and must be waited for before it ends") {
    const Stream origin;
    const Stream other;
    const Event fork;
    const Event join;
    const DeviceBuffer<int> x(std::vector<int>{0});
    for (const bool joined : {true, false}) {
        cudaGraph_t graph = nullptr;
        CHECK(cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        CHECK(cudaEventRecord(fork, origin) == cudaSuccess);
        CHECK(cudaStreamWaitEvent(other, fork) == cudaSuccess);
        launch(add, 1, 1, 0, other, x.data(), 1);
        CHECK(cudaEventRecord(join, other) == cudaSuccess);
        if (!joined) launch(add, 1, 1, 0, other, x.data(), 1);
        CHECK(cudaStreamWaitEvent(origin, join) == cudaSuccess);
        CHECK(cudaStreamEndCapture(other, &graph) == cudaErrorStreamCaptureUnmatched);
        CHECK(cudaStreamEndCapture(origin, &graph) == (joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined));
        CHECK(status_of(other) == cudaStreamCaptureStatusNone);
        if (joined) CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    }
    CHECK(x.values()[0] == 0);
}

TEST_CASE("Events of what is captured and of what is not do not mix") {
    const Stream stream;
    const Event before;
    const Event within;
    cudaGraph_t graph = nullptr;
    CHECK(cudaEventRecord(before, stream) == cudaSuccess);
    CHECK(cudaEventQuery(before) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(stream, before) == cudaErrorStreamCaptureIsolation);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaEventRecord(within, stream) == cudaSuccess);
    CHECK(cudaEventSynchronize(within) == cudaErrorCapturedEvent);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
}

TEST_CASE("A stream or an event that is destroyed is known no more") {
    emulation::reset();
    const auto handles = emulation::counts().live_handles;
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    CHECK(cudaStreamCreateWithFlags(&stream, 7) == cudaErrorInvalidValue);
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    CHECK(emulation::counts().live_handles == handles + 2);
    CHECK(cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaEventDestroy(event) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventRecord(event, stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
    CHECK(emulation::counts().live_handles == handles);
    const DeviceBuffer<int> x(1);
    CHECK_THROWS(launch(add, 1, 1, 0, stream, x.data(), 1));
}
