#include "train/run_state.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"

namespace vax::train {
namespace {

constexpr std::string_view kTrainable = "trainable", kFrozen = "frozen";

io::DType dtype_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kBFloat16) return io::DType::kBF16;
  VAX_CHECK(tensor.scalar_type() == at::kFloat);
  return io::DType::kF32;
}

template <typename Function>
void for_each_unit(Plane& plane, const Function& function) {
  int index = 0;
  for (const FlatUnit& unit : plane.layout().units()) function(unit, index++);
}

template <typename Function>
void for_each_member(const FlatUnit& unit, const Function& function) {
  for (const FlatGroup& group : unit.groups)
    for (const FlatMember& member : group.members) function(member);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += cat(text.empty() ? "" : " x ", extent);
  return text;
}

void check_member(const io::CheckpointReader& checkpoint, const StateArray& array,
                  const FlatMember& member) {
  const std::string where = checkpoint.directory().string();
  const auto place = checkpoint.find(array.plane, array.kind, member.name);
  if (place.member->shape != member.shape)
    throw DataError(cat(where, ": ", member.name, ": expected shape ", shape_text(member.shape),
                        " of the model, found ", shape_text(place.member->shape)));
  if (place.array->dtype != dtype_of(array.shard))
    throw DataError(cat(where, ": ", member.name, ": expected type ",
                        io::dtype_name(dtype_of(array.shard)), " of this run, found ",
                        io::dtype_name(place.array->dtype)));
}

// Every parameter of the run is there; the trainable plane has no others.
void check_parameters(const io::CheckpointReader& checkpoint,
                      const std::vector<StateArray>& arrays) {
  size_t expected = 0, found = 0;
  for (const StateArray& array : arrays)
    for_each_member(*array.unit, [&](const FlatMember& member) {
      check_member(checkpoint, array, member);
      if (array.plane == kTrainable && array.kind == io::kParameters) ++expected;
    });
  for (const io::CheckpointUnit& unit : checkpoint.manifest().units)
    if (unit.plane == kTrainable) found += unit.members.size();
  if (found != expected)
    throw DataError(cat(checkpoint.directory().string(), ": expected ", expected,
                        " trainable parameters, those of this run, found ", found));
}

void read_array(const io::CheckpointReader& checkpoint, const StateArray& array) {
  const dist::Partition& part = array.partition;
  const auto element_size = static_cast<int64_t>(array.shard.element_size());
  const at::Tensor host =
      array.shard.device().is_cpu() ? array.shard : at::zeros_like(array.shard, at::kCPU);
  auto* const shard = static_cast<std::byte*>(host.data_ptr());
  for_each_member(*array.unit, [&](const FlatMember& member) {
    const int64_t begin = std::max(part.begin, member.offset);
    const int64_t end = std::min(part.end, member.offset + member.count);
    if (begin >= end) return;
    checkpoint.read(checkpoint.find(array.plane, array.kind, member.name), begin - member.offset,
                    {shard + (begin - part.begin) * element_size,
                     static_cast<size_t>((end - begin) * element_size)});
  });
  if (!host.is_same(array.shard)) array.shard.copy_(host);
}

}  // namespace

std::vector<StateArray> state_arrays(TrainingEngine& engine, bool adapter_only) {
  std::vector<StateArray> arrays;
  const auto add = [&](Plane& plane, std::string_view name, std::string kind, const FlatUnit& unit,
                       int index, const at::Tensor& shard) {
    arrays.push_back({.plane = name,
                      .kind = std::move(kind),
                      .unit = &unit,
                      .unit_index = index,
                      .partition = plane.units().partition(index),
                      .slice = plane.group().rank(),
                      .shard = shard});
  };
  Plane& trainable = engine.state().trainable();
  const std::vector<VectorDeclaration>& vectors = engine.declaration().vectors;
  for_each_unit(trainable, [&](const FlatUnit& unit, int index) {
    const ShardedAdamW::Moments moments = engine.optimizer().moments(index);
    const auto add_trainable = [&](std::string kind, const at::Tensor& shard) {
      add(trainable, kTrainable, std::move(kind), unit, index, shard);
    };
    add_trainable(std::string(io::kParameters), trainable.units().shard(index));
    add_trainable(std::string(io::kExpAvg), moments.exp_avg);
    add_trainable(std::string(io::kExpAvgSq), moments.exp_avg_sq);
    for (int i = 0; i < static_cast<int>(vectors.size()); ++i)
      if (const VectorDeclaration& vector = vectors[static_cast<size_t>(i)]; vector.is_state)
        add_trainable(io::method_kind(vector.name),
                      engine.vector(i).at(static_cast<size_t>(index)));
  });
  if (adapter_only) return arrays;
  Plane& frozen = engine.state().frozen();
  for_each_unit(frozen, [&](const FlatUnit& unit, int index) {
    add(frozen, kFrozen, std::string(io::kParameters), unit, index, frozen.units().shard(index));
  });
  return arrays;
}

void read_state(const io::CheckpointReader& checkpoint, TrainingEngine& engine) {
  const auto& units = checkpoint.manifest().units;
  const bool has_frozen = std::ranges::any_of(
      units, [](const io::CheckpointUnit& unit) { return unit.plane == kFrozen; });
  const std::vector<StateArray> arrays = state_arrays(engine, !has_frozen);
  check_parameters(checkpoint, arrays);
  engine.method().set_state(checkpoint.manifest().method_state);
  for (const StateArray& array : arrays) read_array(checkpoint, array);
  engine.optimizer().set_num_updates(checkpoint.manifest().position.step);
}

}  // namespace vax::train
