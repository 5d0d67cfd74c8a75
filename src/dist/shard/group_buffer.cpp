#include "dist/shard/group_buffer.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <memory>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::dist {
namespace {

constexpr int64_t kAlignment = 256;  // bytes

}  // namespace

void check_device(const Collectives& group, at::Device device) {
  VAX_CHECK(device.is_cpu() || group.orders_stream(), "tensors on ", device.str(),
            " in a group of host memory (", group.name(), ")");
}

std::vector<at::Tensor> make_group_buffers(Collectives& group, const std::vector<int64_t>& counts,
                                           at::ScalarType type, at::Device device) {
  check_device(group, device);
  const at::TensorOptions options = at::TensorOptions(type).device(device);
  const auto stride_bytes = [type](int64_t count) {
    return round_up(count * static_cast<int64_t>(at::elementSize(type)), kAlignment);
  };
  int64_t num_bytes = 0;
  for (const int64_t count : counts) num_bytes += stride_bytes(count);
  const std::shared_ptr<void> memory = group.allocate(num_bytes);
  std::byte* next = static_cast<std::byte*>(memory.get());
  std::vector<at::Tensor> buffers;
  for (const int64_t count : counts) {
    if (!memory) {
      buffers.push_back(at::empty({count}, options));
      continue;
    }
    buffers.push_back(at::for_blob(next, {count})
                          .deleter([memory](void*) {})
                          .options(options)
                          .target_device(device)
                          .make_tensor());
    next += stride_bytes(count);
  }
  return buffers;
}

}  // namespace vax::dist
