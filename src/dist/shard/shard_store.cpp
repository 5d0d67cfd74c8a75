#include "dist/shard/shard_store.h"

#include <ATen/ATen.h>

#include <cstddef>

#include "base/error.h"
#include "base/narrow.h"
#include "dist/shard/shared_memory.h"

namespace vax::dist {
namespace {

constexpr int64_t kAlignment = 64;  // bytes

int64_t padded_bytes(const Partition& partition, int size, at::ScalarType type) {
  return round_up(partition.shard_count * size * static_cast<int64_t>(at::elementSize(type)),
                  kAlignment);
}

}  // namespace

std::vector<at::Tensor> make_node_units(const Communicator& node,
                                        const std::vector<Partition>& partitions,
                                        at::ScalarType type) {
  int64_t num_bytes = 0;
  for (const Partition& partition : partitions)
    num_bytes += padded_bytes(partition, node.size(), type);
  const auto block = std::make_shared<SharedMemory>(node, num_bytes);
  std::byte* next = static_cast<std::byte*>(block->data());
  std::vector<at::Tensor> units;
  for (const Partition& partition : partitions) {
    units.push_back(at::from_blob(
        next, {partition.shard_count * node.size()}, [block](void*) {}, type));
    next += padded_bytes(partition, node.size(), type);
  }
  return units;
}

ShardStore::ShardStore(int the_rank, int the_size, const std::vector<int64_t>& unit_counts,
                       const ShardedUnitsOptions& options)
    : type(options.shard_dtype),
      device(options.device),
      rank(the_rank),
      size(the_size),
      node_shared(options.node != nullptr) {
  const Communicator* const node = options.node;
  VAX_CHECK(node == nullptr || device.is_cpu(), "node-shared units on ", device.str(),
            ": ranks of a node share host memory only");
  const at::TensorOptions tensor_options = at::TensorOptions(type).device(device);
  for (const int64_t count : unit_counts) partitions.push_back(make_partition(count, rank, size));
  if (node != nullptr) {
    VAX_CHECK(node->rank() == rank && node->size() == size, "rank ", rank, " of ", size,
              " of the group is rank ", node->rank(), " of ", node->size(), " of the node");
    units = make_node_units(*node, partitions, type);
  } else if (size == 1) {
    for (const Partition& partition : partitions)
      units.push_back(at::zeros({partition.shard_count}, tensor_options));
  }
  for (size_t i = 0; i < partitions.size(); ++i) {
    const int64_t count = partitions[i].shard_count;
    shards.push_back(units.empty() ? at::zeros({count}, tensor_options)
                                   : units[i].narrow(0, rank * count, count));
  }
}

}  // namespace vax::dist
