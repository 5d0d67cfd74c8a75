#include "torch_device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "memory.h"
#include "stream.h"

namespace standin {
namespace {

using c10::IValue;
using torch::jit::Stack;

bool is_ours(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kDeviceType;
}

// --- Memory --------------------------------------------------------------------------------------

void release_block(void* block) { delete static_cast<std::shared_ptr<void>*>(block); }

class Memory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    auto block = std::make_unique<std::shared_ptr<void>>(device_block(num_bytes));
    TORCH_CHECK(num_bytes == 0 || *block, "stand-in device: no ", num_bytes, " bytes are left");
    void* const data = block->get();
    return {data, block.release(), &release_block, the_device()};
  }
  void copy_data(void* to, const void* from, size_t num_bytes) const override {
    submit([=] { std::memcpy(to, from, num_bytes); });
  }
};

Memory& memory() {
  static Memory instance;
  return instance;
}

// Blocks of pinned_empty() that live: where they begin and end.
struct Pinned {
  std::mutex mutex;
  std::map<uintptr_t, uintptr_t> blocks;
};

Pinned& pinned() {
  static Pinned* const instance = new Pinned;
  return *instance;
}

bool is_pinned(const at::Tensor& host) {
  const std::lock_guard lock(pinned().mutex);
  const auto begin = reinterpret_cast<uintptr_t>(host.const_data_ptr());
  const auto next = pinned().blocks.upper_bound(begin);
  return next != pinned().blocks.begin() && begin < std::prev(next)->second;
}

// --- What LibTorch asks of a device
// ---------------------------------------------------------------

// One device, one stream, and events that have nothing to wait for: everything is done in order.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<kDeviceType> {
  c10::Device exchangeDevice(c10::Device) const override { return the_device(); }
  c10::Device getDevice() const override { return the_device(); }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, the_device()); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  // Random numbers are the CPU's.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  c10::Device getDeviceFromPtr(void* data) const override {
    TORCH_CHECK(is_device_memory(data, 1), data, " is not device memory");
    return the_device();
  }
};

struct Registered {
  Registered() {
    c10::register_privateuse1_backend("standin");
    c10::SetAllocator(kDeviceType, &memory());
    at::RegisterPrivateUse1HooksInterface(new Hooks);
  }
} const registered;

// --- Operators -----------------------------------------------------------------------------------

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &memory(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                         std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(sizes, strides, &memory(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(type));
}

at::Scalar read_number(const at::Tensor& self) {
  wait_to_read("a number is read");
  const DeviceCode device;
  return for_device_code(self).item();
}

// Both directions and within the device, with changes of type.
at::Tensor copy_from(const at::Tensor& self, const at::Tensor& destination, bool non_blocking) {
  const bool from_host = !is_ours(self), to_host = !is_ours(destination);
  const auto copy = [from = for_device_code(self), to = for_device_code(destination)] {
    to.copy_(from);
  };
  if (to_host) {
    wait_to_read("a copy to the host");
    const DeviceCode device;
    copy();
  } else if (!from_host) {
    submit(copy);
  } else if (is_pinned(self) && non_blocking) {
    submit_late([copy, self, destination] { copy(); });
  } else {
    wait("a copy from memory of the host that is not pinned, or that is to be waited for");
    submit(copy);
  }
  return destination;
}

// The device tensor that `result` is a view of.
std::optional<at::Tensor> view_in(const at::Tensor& result, const std::vector<at::Tensor>& ours) {
  const auto* const data = static_cast<const std::byte*>(result.const_data_ptr());
  for (const at::Tensor& tensor : ours) {
    const auto* const begin = static_cast<const std::byte*>(tensor.storage().data());
    if (data < begin || data >= begin + tensor.storage().nbytes()) continue;
    TORCH_CHECK(result.scalar_type() == tensor.scalar_type(), "a view of another type");
    return tensor.as_strided(result.sizes(), result.strides(),
                             (data - begin) / static_cast<int64_t>(tensor.element_size()));
  }
  return std::nullopt;
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// The arguments of one operator as its CPU kernel takes them.
class Arguments {
 public:
  Arguments(const c10::OperatorHandle& op, const Stack& stack) : name_(op.schema().name()) {
    const auto& formal = op.schema().arguments();
    for (size_t i = 0; i < formal.size(); ++i) {
      const IValue& value = stack[stack.size() - formal.size() + i];
      given_.push_back(value);
      if (!is_written(formal[i])) {
        for_cpu_.push_back(replaced(value));
      } else if (value.isTensor() && value.toTensor().numel() == 0) {
        // Out arguments that have no memory yet: the operator gives them their sizes.
        replaced(value);
        makes_ = true;
        for_cpu_.push_back(at::empty({0}, value.toTensor().options().device(c10::kCPU)));
      } else {
        writes_ = true;
        for_cpu_.push_back(replaced(value));
      }
    }
    TORCH_CHECK(ours_.empty() || host_.empty(), name_, ": a tensor of ", host_.front().sizes(),
                " elements is on the CPU, others are on the device");
  }

  // Into memory that was there before.
  bool writes() const { return writes_; }
  bool makes() const { return makes_; }
  const std::vector<at::Tensor>& ours() const { return ours_; }
  const Stack& for_cpu() const { return for_cpu_; }
  // The argument that an operator returns as it has got it.
  const IValue& written(const c10::OperatorHandle& op, const c10::Argument& returned) const {
    const auto& formal = op.schema().arguments();
    for (size_t i = 0; i < formal.size(); ++i)
      if (formal[i].alias_info() != nullptr && *formal[i].alias_info() == *returned.alias_info())
        return given_[i];
    TORCH_CHECK(false, name_, " returns what it has not got");
  }

 private:
  IValue replaced(const IValue& value) {
    if (value.isTensor()) return on_cpu(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(on_cpu(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional(on_cpu(*tensor)) : std::nullopt);
      return list;
    }
    if (value.isDevice()) return c10::Device(c10::kCPU);
    return value;
  }

  at::Tensor on_cpu(const at::Tensor& tensor) {
    if (is_ours(tensor)) ours_.push_back(tensor);
    // As on CUDA, a number may come from the host; it is read now.
    else if (tensor.defined() && tensor.dim() == 0)
      return tensor.clone();
    else if (tensor.defined())
      host_.push_back(tensor);
    return for_device_code(tensor);
  }

  std::string name_;
  bool writes_ = false, makes_ = false;
  Stack given_, for_cpu_;
  std::vector<at::Tensor> ours_, host_;
};

Stack run_on_cpu(const c10::OperatorHandle& op, const Stack& arguments) {
  Stack stack = arguments;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
  return stack;
}

// A result in new memory of the device.
at::Tensor new_result(const at::Tensor& result) {
  return at::empty_strided(result.sizes(), result.strides(), result.options().device(the_device()));
}

// Memory for an out argument that has none.
void give_memory(const at::Tensor& out, const at::Tensor& like) {
  const at::Tensor memory = new_result(like);
  out.unsafeGetTensorImpl()->set_storage_keep_dtype(memory.storage());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(memory.sizes(), memory.strides());
}

// Operators that make new tensors. Their sizes are known by running them, also in a capture, whose
// numbers mean nothing.
void run_with_results(const c10::OperatorHandle& op, const Arguments& arguments, Stack* stack) {
  TORCH_CHECK(!is_capturing() || !arguments.writes(), op.schema().name(),
              " both writes and makes tensors: not modelled in a capture");
  Stack results;
  const auto run = [&] { results = run_on_cpu(op, arguments.for_cpu()); };
  if (is_capturing()) {
    const DeviceCode device;
    run();
  } else {
    submit(run);
  }
  std::vector<std::pair<size_t, at::Tensor>> made;
  const auto fill = [&](size_t i, const at::Tensor& ours, const at::Tensor& result) {
    const DeviceCode device;
    made.emplace_back(i, for_device_code(ours));
    made.back().second.copy_(result);
  };
  const auto& returns = op.schema().returns();
  for (size_t i = 0; i < returns.size(); ++i) {
    TORCH_CHECK(!results[i].isTensorList(), op.schema().name(), ": lists are not modelled");
    if (!results[i].isTensor() || !results[i].toTensor().defined()) continue;
    const at::Tensor result = results[i].toTensor();
    if (is_written(returns[i])) {
      results[i] = arguments.written(op, returns[i]);
      const at::Tensor out = results[i].toTensor();
      if (out.numel() > 0 || result.numel() == 0) continue;
      give_memory(out, result);
      fill(i, out, result);
    } else if (const auto view = view_in(result, arguments.ours())) {
      results[i] = *view;
    } else {
      const at::Tensor ours = new_result(result);
      fill(i, ours, result);
      results[i] = ours;
    }
  }
  if (is_capturing() && !made.empty()) {
    submit([op, made, cpu = arguments.for_cpu()] {
      const Stack again = run_on_cpu(op, cpu);
      for (const auto& [i, result] : made) result.copy_(again[i].toTensor());
    });
  }
  torch::jit::drop(*stack, op.schema().arguments().size());
  stack->insert(stack->end(), results.begin(), results.end());
}

// Every operator that has no registration of its own.
void run_operator(const c10::OperatorHandle& op, Stack* stack) {
  const Arguments arguments(op, *stack);
  const auto& returns = op.schema().returns();
  const bool is_read = std::ranges::any_of(
      returns, [](const c10::Argument& r) { return r.type()->kind() != c10::TensorType::Kind; });
  if (is_read) wait_to_read(op.schema().name().c_str());
  if (arguments.makes() || !std::ranges::all_of(returns, is_written))
    return run_with_results(op, arguments, stack);
  submit([op, cpu = arguments.for_cpu()] { run_on_cpu(op, cpu); });
  Stack results;
  for (const c10::Argument& returned : returns) results.push_back(arguments.written(op, returned));
  torch::jit::drop(*stack, op.schema().arguments().size());
  stack->insert(stack->end(), results.begin(), results.end());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("_local_scalar_dense", &read_number);
  m.impl("_copy_from", &copy_from);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_operator>());
}

}  // namespace

at::Tensor for_device_code(const at::Tensor& tensor) {
  if (!is_ours(tensor)) return tensor;
  return at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(),
                       tensor.options().device(c10::kCPU));
}

at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type) {
  const at::Tensor memory = at::empty(sizes, type);
  const auto begin = reinterpret_cast<uintptr_t>(memory.const_data_ptr());
  {
    const std::lock_guard lock(pinned().mutex);
    pinned().blocks[begin] = begin + memory.nbytes();
  }
  return at::from_blob(
      memory.mutable_data_ptr(), sizes,
      [memory, begin](void*) {
        const std::lock_guard lock(pinned().mutex);
        pinned().blocks.erase(begin);
      },
      memory.options());
}

}  // namespace standin
