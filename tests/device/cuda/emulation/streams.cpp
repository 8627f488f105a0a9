#include "state.hpp"

#include <algorithm>
#include <utility>

namespace emulation {

cudaError_t put(State& s, cudaStream_t handle, Work work) {
    CUstream_st* stream = s.find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (!stream->capture) {
        work();
        s.milliseconds += 0.001;
        return cudaSuccess;
    }
    if (stream->capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    stream->capture->work.push_back(std::move(work));
    ++stream->submitted;
    return cudaSuccess;
}

cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
    return call([&](State& s) { return put(s, stream, std::move(work)); });
}

cudaError_t refuse_while_capturing(State& s) {
    cudaError_t error = cudaSuccess;
    for (const auto& [handle, stream] : s.streams) {
        if (!stream->capture) continue;
        Capture& capture = *stream->capture;
        const bool here = capture.thread == std::this_thread::get_id();
        if (capture.mode == cudaStreamCaptureModeRelaxed) continue;
        if (capture.mode == cudaStreamCaptureModeThreadLocal && !here) continue;
        capture.invalidated = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error;
}

namespace {

cudaError_t create_stream(State& s, cudaStream_t* stream, unsigned flags) {
    if (flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = s.streams.create();
    return cudaSuccess;
}

cudaError_t create_event(State& s, cudaEvent_t* event, unsigned flags) {
    if (flags > (cudaEventBlockingSync | cudaEventDisableTiming)) return cudaErrorInvalidValue;
    *event = s.events.create();
    (*event)->timed = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
}

cudaError_t wait_for_stream(State& s, cudaStream_t handle) {
    CUstream_st* stream = s.find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (!stream->capture) return cudaSuccess;
    stream->capture->invalidated = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t wait_for_event(State& s, cudaEvent_t event) {
    if (!s.events.contains(event)) return cudaErrorInvalidResourceHandle;
    if (!event->capture) return cudaSuccess;
    event->capture->invalidated = true;
    return cudaErrorCapturedEvent;
}

cudaError_t elapsed(State& s, float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    if (!s.events.contains(start) || !s.events.contains(end)) return cudaErrorInvalidResourceHandle;
    if (start->capture || end->capture) return cudaErrorCapturedEvent;
    const auto has_time = [](const CUevent_st& event) { return event.timed && event.milliseconds >= 0; };
    if (!has_time(*start) || !has_time(*end)) return cudaErrorInvalidResourceHandle;
    *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
    return cudaSuccess;
}

// A stream that waits for an event of a capture joins that capture; and what the event's stream has recorded up to the
// event is then part of what follows.
cudaError_t wait_in_stream(State& s, cudaStream_t handle, cudaEvent_t event) {
    CUstream_st* stream = s.find(handle);
    if (stream == nullptr || !s.events.contains(event)) return cudaErrorInvalidResourceHandle;
    if (!event->capture) {
        if (!stream->capture) return cudaSuccess;
        stream->capture->invalidated = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (handle == nullptr) return cudaErrorStreamCaptureImplicit;
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->invalidated = event->capture->invalidated = true;
        return cudaErrorStreamCaptureMerge;
    }
    if (!stream->capture) {
        stream->capture = event->capture;
        stream->submitted = 1;  // the wait itself, which has to be joined too
        stream->joined = 0;
    }
    if (s.streams.contains(event->stream) && event->stream->capture == event->capture)
        event->stream->joined = std::max(event->stream->joined, event->position);
    return cudaSuccess;
}

cudaError_t begin_capture(State& s, cudaStream_t handle, cudaStreamCaptureMode mode) {
    if (handle == nullptr) return cudaErrorStreamCaptureUnsupported;
    CUstream_st* stream = s.find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture || mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed)
        return cudaErrorInvalidValue;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = handle;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->submitted = stream->joined = 0;
    return cudaSuccess;
}

// Ends the capture in all streams that take part. Tells whether one of them has work that the origin never waited for.
bool detach_streams(State& s, const std::shared_ptr<Capture>& capture) {
    bool unjoined = false;
    for (const auto& [handle, stream] : s.streams) {
        if (stream->capture != capture) continue;
        unjoined = unjoined || (handle != capture->origin && stream->joined < stream->submitted);
        stream->capture = nullptr;
    }
    for (const auto& [handle, event] : s.events)
        if (event->capture == capture) event->capture = nullptr;
    return unjoined;
}

cudaError_t end_capture(State& s, cudaStream_t handle, cudaGraph_t* graph) {
    *graph = nullptr;
    CUstream_st* stream = s.find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const auto capture = stream->capture;
    if (!capture) return cudaErrorInvalidValue;
    if (capture->origin != handle) return cudaErrorStreamCaptureUnmatched;
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
        return cudaErrorStreamCaptureWrongThread;
    const bool unjoined = detach_streams(s, capture);
    if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    if (unjoined) return cudaErrorStreamCaptureUnjoined;
    *graph = s.graphs.create();
    (*graph)->work = std::move(capture->work);
    return cudaSuccess;
}

// With the stream where a capture began, the capture ends.
cudaError_t destroy_stream(State& s, cudaStream_t stream) {
    if (!s.streams.contains(stream)) return cudaErrorInvalidResourceHandle;
    if (const auto capture = stream->capture) {
        if (capture->origin == stream)
            detach_streams(s, capture);
        else
            capture->invalidated = true;
    }
    s.streams.destroy(stream);
    return cudaSuccess;
}

}  // namespace
}  // namespace emulation

using namespace emulation;

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return call([&](State& s) { return create_stream(s, stream, flags); });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return release([&](State& s) { return destroy_stream(s, stream); });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return call([&](State& s) { return wait_for_stream(s, stream); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return call([&](State& s) { return wait_for_stream(s, stream); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return call([&](State& s) { return flags != 0 ? cudaErrorInvalidValue : wait_in_stream(s, stream, event); });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return call([&](State& s) { return create_event(s, event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return release([&](State& s) { return s.events.destroy(event) ? cudaSuccess : cudaErrorInvalidResourceHandle; });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    return call([&](State& s) {
        const CUstream_st* stream = s.find(handle);
        if (stream == nullptr || !s.events.contains(event)) return cudaErrorInvalidResourceHandle;
        *event = {stream->capture, handle, stream->submitted, event->timed, s.milliseconds};
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return call([&](State& s) { return wait_for_event(s, event); });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return call([&](State& s) { return wait_for_event(s, event); });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    return call([&](State& s) { return elapsed(s, milliseconds, start, end); });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return call([&](State& s) { return begin_capture(s, stream, mode); });
}

// A capture ends also where the call is made to fail.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    return release([&](State& s) {
        const cudaError_t admitted = admit(s);
        const cudaError_t ended = end_capture(s, stream, graph);
        if (admitted == cudaSuccess) return ended;
        s.graphs.destroy(std::exchange(*graph, nullptr));
        return admitted;
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    return call([&](State& s) {
        const CUstream_st* stream = s.find(handle);
        if (stream == nullptr) return cudaErrorInvalidResourceHandle;
        *status = !stream->capture               ? cudaStreamCaptureStatusNone
                  : stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                                 : cudaStreamCaptureStatusActive;
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
    return call([&](State& s) {
        if (!s.graphs.contains(graph) || flags != 0) return cudaErrorInvalidValue;
        *exec = s.executables.create();
        (*exec)->work = std::make_shared<const std::vector<Work>>(graph->work);
        return cudaSuccess;
    });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    return call([&](State& s) {
        if (!s.executables.contains(exec)) return cudaErrorInvalidValue;
        ++s.counts.graph_launches;
        return put(s, stream, [work = exec->work] {
            for (const Work& piece : *work) piece();
        });
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return release([&](State& s) { return s.executables.destroy(exec) ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return release([&](State& s) { return s.graphs.destroy(graph) ? cudaSuccess : cudaErrorInvalidValue; });
}
