// The CUDA runtime. One mutex and one condition variable guard all queues and events: tests have
// few of them. The state is never destroyed: threads of streams may outlive main().
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "internal.h"
#include "standin.h"
#include "stream.h"

// One use of an event: what was recorded.
struct Recording {
  bool is_done = false;
};

struct CUevent_st {
  std::shared_ptr<Recording> last;  // null: never recorded
  bool is_of_compute_stream = false;
};

struct CUstream_st {
  std::deque<std::function<void()>> queue;
  bool is_busy = false, is_closed = false;
};

namespace standin {
namespace {

struct Allocation {
  size_t num_bytes = 0, mapped_bytes = 0;
  bool is_pinned = false;
};

std::chrono::microseconds first_delay() {
  const char* const given = std::getenv("STANDIN_DELAY_US");
  return std::chrono::microseconds(given != nullptr ? std::atol(given) : 0);
}

struct Runtime {
  std::mutex mutex;  // guards what follows, and what streams and events hold
  std::condition_variable changed;
  std::map<uintptr_t, Allocation> allocations;
  std::map<cudaStream_t, std::shared_ptr<CUstream_st>> streams;
  int64_t num_events = 0;
  std::string bus_id;
  std::chrono::microseconds delay = first_delay();
};

Runtime& runtime() {
  static Runtime* const state = new Runtime;
  return *state;
}

void run_stream(const std::shared_ptr<CUstream_st>& stream) {
  Runtime& state = runtime();
  std::unique_lock lock(state.mutex);
  while (true) {
    state.changed.wait(lock, [&] { return stream->is_closed || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    std::function<void()> work = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->is_busy = true;
    lock.unlock();
    work();
    work = nullptr;  // what it holds may go here, without the lock
    lock.lock();
    stream->is_busy = false;
    state.changed.notify_all();
  }
}

// REQUIRES the lock.
const Allocation* find(const void* memory, size_t num_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const auto& all = runtime().allocations;
  const auto next = all.upper_bound(address);
  if (next == all.begin()) return nullptr;
  const auto& [begin, allocation] = *std::prev(next);
  return address + num_bytes <= begin + allocation.num_bytes ? &allocation : nullptr;
}

void check_is_pinned(const void* memory, size_t num_bytes) {
  const std::lock_guard lock(runtime().mutex);
  const Allocation* const allocation = find(memory, num_bytes);
  if (allocation == nullptr || !allocation->is_pinned)
    die("an asynchronous copy between the device and host memory that is not pinned");
}

void block_until_done(const std::shared_ptr<Recording>& recording) {
  std::unique_lock lock(runtime().mutex);
  runtime().changed.wait(lock, [&] { return recording->is_done; });
}

}  // namespace

// Pages of its own, so that what uses it after its release ends the process.
void* allocate(size_t num_bytes, bool is_pinned) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t mapped = (num_bytes + page) / page * page;
  void* const memory =
      ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (!is_pinned) add_device_pages(memory, mapped);
  const std::lock_guard lock(runtime().mutex);
  runtime().allocations[reinterpret_cast<uintptr_t>(memory)] = {num_bytes, mapped, is_pinned};
  return memory;
}

void release(void* memory) {
  if (memory == nullptr) return;
  const std::lock_guard lock(runtime().mutex);
  const auto found = runtime().allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (found == runtime().allocations.end()) die("memory is freed that is not allocated");
  if (!found->second.is_pinned) remove_device_pages(memory);
  ::munmap(memory, found->second.mapped_bytes);
  runtime().allocations.erase(found);
}

void check_is_device_memory(const void* memory, size_t num_bytes) {
  if (num_bytes > 0 && is_device_memory_protected() && !is_device_memory(memory, num_bytes))
    die("memory of the host is given where the device's belongs");
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr) {
    depend_on_others();
    return work();
  }
  Runtime& state = runtime();
  const std::lock_guard lock(state.mutex);
  if (!state.streams.contains(stream)) die("work for a stream that does not live");
  stream->queue.push_back(std::move(work));
  state.changed.notify_all();
}

RuntimeCounts runtime_counts() {
  Runtime& state = runtime();
  const std::lock_guard lock(state.mutex);
  return {.streams = static_cast<int64_t>(state.streams.size()),
          .events = state.num_events,
          .allocations = static_cast<int64_t>(state.allocations.size())};
}

void set_operation_delay(std::chrono::microseconds delay) {
  const std::lock_guard lock(runtime().mutex);
  runtime().delay = delay;
}

void pause() {
  std::chrono::microseconds delay{0};
  {
    const std::lock_guard lock(runtime().mutex);
    delay = runtime().delay;
  }
  std::this_thread::sleep_for(delay);
}

void set_bus_id(const std::string& id) {
  const std::lock_guard lock(runtime().mutex);
  runtime().bus_id = id;
}

}  // namespace standin

using standin::enqueue;
using standin::runtime;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  const std::lock_guard lock(runtime().mutex);
  const char* const given = std::getenv("STANDIN_BUS_ID");
  const std::string own = given != nullptr ? given : "process " + std::to_string(::getpid());
  std::snprintf(id, static_cast<size_t>(length), "%s",
                (runtime().bus_id.empty() ? own : runtime().bus_id).c_str());
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  standin::wait("cudaDeviceSynchronize");
  auto& state = runtime();
  std::unique_lock lock(state.mutex);
  state.changed.wait(lock, [&] {
    for (const auto& [handle, stream] : state.streams)
      if (stream->is_busy || !stream->queue.empty()) return false;
    return true;
  });
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the stand-in";
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  auto made = std::make_shared<CUstream_st>();
  *stream = made.get();
  auto& state = runtime();
  const std::lock_guard lock(state.mutex);
  state.streams[*stream] = made;
  std::thread([made] { standin::run_stream(made); }).detach();
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

// Returns at once; what the stream holds is still done.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto& state = runtime();
  const std::lock_guard lock(state.mutex);
  if (!state.streams.contains(stream)) standin::die("a stream is destroyed twice");
  stream->is_closed = true;
  state.streams.erase(stream);
  state.changed.notify_all();
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  standin::refuse_in_capture("cudaStreamSynchronize");
  if (stream == nullptr) {
    standin::wait("cudaStreamSynchronize");
    return cudaSuccess;
  }
  auto& state = runtime();
  std::unique_lock lock(state.mutex);
  state.changed.wait(lock, [&] { return !stream->is_busy && stream->queue.empty(); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new CUevent_st;
  const std::lock_guard lock(runtime().mutex);
  ++runtime().num_events;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  const std::lock_guard lock(runtime().mutex);
  --runtime().num_events;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  auto recording = std::make_shared<Recording>();
  {
    const std::lock_guard lock(runtime().mutex);
    event->last = recording;
    event->is_of_compute_stream = stream == nullptr;
  }
  enqueue(stream, [recording] {
    const std::lock_guard lock(runtime().mutex);
    recording->is_done = true;
    runtime().changed.notify_all();
  });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  // Known by then to be done: the stand-in's compute stream is never behind.
  if (event->is_of_compute_stream) standin::wait("cudaEventQuery");
  standin::refuse_in_capture("cudaEventQuery");
  const std::lock_guard lock(runtime().mutex);
  return event->last == nullptr || event->last->is_done ? cudaSuccess : cudaErrorNotReady;
}

// For what is recorded now, whatever is recorded later.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  std::shared_ptr<Recording> recording;
  {
    const std::lock_guard lock(runtime().mutex);
    recording = event->last;
  }
  if (recording != nullptr) enqueue(stream, [recording] { standin::block_until_done(recording); });
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  standin::refuse_in_capture("cudaMalloc");
  *memory = standin::allocate(num_bytes, false);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  standin::refuse_in_capture("cudaFree");
  standin::release(memory);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned int) {
  standin::refuse_in_capture("cudaHostAlloc");
  standin::demand_watched_waits();  // staging buffers: there are other ranks
  *memory = standin::allocate(num_bytes, true);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  standin::refuse_in_capture("cudaFreeHost");
  standin::release(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t num_bytes, cudaMemcpyKind) {
  standin::refuse_in_capture("cudaMemcpy");
  const standin::DeviceCode device;
  std::memcpy(to, from, num_bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice) {
    standin::check_is_pinned(from, num_bytes);
  } else {
    standin::check_is_device_memory(from, num_bytes);
  }
  if (kind == cudaMemcpyDeviceToHost) {
    standin::check_is_pinned(to, num_bytes);
  } else {
    standin::check_is_device_memory(to, num_bytes);
  }
  enqueue(stream, [=] {
    standin::pause();
    const standin::DeviceCode device;
    std::memmove(to, from, num_bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  enqueue(stream, [=] { function(data); });
  return cudaSuccess;
}
