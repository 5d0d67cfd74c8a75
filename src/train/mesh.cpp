#include "train/mesh.h"

#include "base/error.h"
#include "base/narrow.h"

namespace vax::train {

double Mesh::blocked_s() const {
  double sum = 0;
  for (const auto* group : {&world, &self, &frozen, &trainable, &reduce, &replicas})
    if (*group) sum += (*group)->statistics().blocked_s;
  return sum;
}

Mesh make_mesh(const dist::Communicator& world, std::optional<int64_t> group_size) {
  const int size = narrow<int>(group_size.value_or(world.size()));
  if (size < 1 || world.size() % size != 0)
    throw ConfigError(cat("shard.group_size: expected a divisor of the number of ranks = ",
                          world.size(), ", found ", size));
  const dist::Communicator shard_group = world.split(world.rank() / size);
  const dist::Communicator replica_group = world.split(world.rank() % size);
  return {.world = world.make_collectives(),
          .self = dist::make_self_collectives(),
          .frozen = shard_group.make_collectives(),
          .trainable = shard_group.make_collectives(),
          .reduce = shard_group.make_collectives(),
          .replicas = replica_group.make_collectives()};
}

}  // namespace vax::train
