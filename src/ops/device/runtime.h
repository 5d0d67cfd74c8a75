// The device that this process computes on, as far as a program has one: chosen once at the start,
// by runtime.device. Three libraries implement these functions and the device's kernels, and
// linking chooses one: none (takes() is false, the rest is out of reach), CUDA, and for tests a
// stand-in that runs the same kernels on the host. Everything runs on one compute stream,
// LibTorch's current one, which is not the legacy default stream (that one can neither be captured
// nor overlap).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "ops/device/stream.h"

namespace vax::ops::device {

// Is this tensor one of a device that the program has operators for?
bool takes(const at::Tensor& tensor);

// Devices that this program could use: 0 without CUDA, a driver or a GPU.
int count();
// Why count() is 0, for people: "this program was built without CUDA", "no driver", ...
std::string why_none();

// Makes device `index` and a compute stream of this process current for this thread, and fixes what
// LibTorch's products may do: no TF32, no reduced-precision sums. Call once, before the first
// device tensor. THROWS ConfigError when the device cannot be had.
void select(int index);

// After select(): where tensors of the computation lie. Before it: the CPU.
c10::Device current();
std::string name(int index);

// Whether select() was called.
bool is_selected();

// What a function has put on the compute stream, to be put there again and again: the same
// operations on the same memory. Tensors that were made meanwhile live in memory of the graph's
// own.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void replay() = 0;
};
// Runs `work` once to record it; nothing is computed until replay(). `work` must not wait for the
// device, nor copy from memory of the host that changes. REQUIRES select(). THROWS CommError.
std::unique_ptr<Graph> capture(std::function<void()> work);

// Bytes of device tensors: now, and the most since the last reset_peak_bytes().
int64_t held_bytes();
int64_t peak_bytes();
void reset_peak_bytes();
int64_t total_bytes();  // of the device's memory

// A host tensor that copies to the device do not wait for (pinned); ordinary memory before
// select().
at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type);

}  // namespace vax::ops::device
