#include "train/mesh.h"

#include "base/error.h"
#include "train/placement.h"

namespace vax::train {
namespace {

// The two directions of a plane's mesh, as this rank sees them.
struct Axes {
  dist::Communicator shard_group, replicas;
};

Axes full_axes(const dist::Communicator& world, const ShardOptions& shard) {
  const int size = group_size_of({}, shard, {.num_ranks = world.size()});
  return {.shard_group = world.split(world.rank() / size),
          .replicas = world.split(world.rank() % size)};
}

Axes node_axes(const dist::Communicator& world, const dist::Communicator& node) {
  return {.shard_group = node.duplicate(), .replicas = world.split(node.rank())};
}

// Replicas hold the same slices only when all nodes cut their units the same way.
void check_equal_nodes(dist::Collectives& world, const dist::Communicator& node) {
  int64_t extremes[2] = {node.size(), -int64_t{node.size()}};
  world.all_reduce(extremes, 2, dist::DataType::kInt64, dist::ReduceOp::kMax).wait();
  if (extremes[0] != -extremes[1])
    throw ConfigError(
        cat("shard.trainable = node: expected the same number of ranks on every node, "
            "found ",
            -extremes[1], " to ", extremes[0]));
}

}  // namespace

Mesh make_mesh(const dist::Communicator& world, const dist::Communicator& node,
               const ShardOptions& shard, bool probe_is_trainable,
               const dist::DeviceContext* device) {
  Mesh mesh{.world = world.make_collectives("world"), .calls = world.calls()};
  const bool frozen_on_node = placement_of(shard, false, device != nullptr).on_node;
  const bool trainable_on_node = placement_of(shard, true, device != nullptr).on_node;
  if (trainable_on_node) check_equal_nodes(*mesh.world, node);
  const Axes full = full_axes(world, shard);
  const Axes on_node = node_axes(world, node);
  const Axes& frozen = frozen_on_node ? on_node : full;
  const Axes& trainable = trainable_on_node ? on_node : full;
  const auto make = [device](const dist::Communicator& ranks, const std::string& purpose) {
    return device != nullptr ? dist::make_device_collectives(ranks, *device, purpose)
                             : ranks.make_collectives(purpose);
  };
  mesh.frozen = make(frozen.shard_group, "frozen");
  mesh.trainable = make(trainable.shard_group, "trainable");
  mesh.probe = make((probe_is_trainable ? trainable : frozen).shard_group, "probe");
  mesh.reduce = make(trainable.shard_group, "reduce");
  mesh.replicas = make(trainable.replicas, "replicas");
  // Ranks of a group are in the order of the world's.
  mesh.is_first_of_frozen = frozen.shard_group.broadcast_text(cat(world.rank()), 0) == "0";
  if (frozen_on_node) mesh.frozen_node.emplace(node.duplicate());
  if (trainable_on_node) mesh.trainable_node.emplace(node.duplicate());
  if (device != nullptr) {
    mesh.device_world = make(world, "device world");
  }
  return mesh;
}

double Mesh::blocked_s() const {
  double sum = 0;
  for (const auto* group : {&world, &frozen, &trainable, &probe, &reduce, &replicas, &device_world})
    if (*group) sum += (*group)->statistics().blocked_s;
  return sum;
}

int64_t Mesh::sent_bytes() const {
  int64_t sum = 0;
  for (const auto* group : {&world, &frozen, &trainable, &probe, &reduce, &replicas, &device_world})
    if (*group) sum += (*group)->statistics().num_bytes;
  return sum;
}

}  // namespace vax::train
