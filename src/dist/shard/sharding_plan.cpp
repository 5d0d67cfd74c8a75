#include "dist/shard/sharding_plan.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::dist {
namespace {

// Steps after which what is left behind must repeat; it does after two or three.
constexpr int kMaxWarmUp = 16;

std::vector<int64_t> padded_counts(const std::vector<int64_t>& unit_counts, int group_size) {
  std::vector<int64_t> padded;
  for (const int64_t count : unit_counts)
    padded.push_back(make_partition(count, 0, group_size).shard_count * group_size);
  return padded;
}

int64_t sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

int64_t largest(const std::vector<int64_t>& counts) {
  return counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
}

// What lies in each slot after the step.
std::vector<int> residents_after(const Schedule& schedule, std::vector<int> residents) {
  residents.resize(static_cast<size_t>(schedule.num_slots), kNoUnit);
  for (const ScheduleEntry& entry : schedule.entries) {
    if (entry.action == ScheduleAction::kGather) residents[entry.slot] = entry.unit;
    if (entry.action == ScheduleAction::kFree) residents[entry.slot] = kNoUnit;
  }
  return residents;
}

int64_t gathered_bytes(const Schedule& schedule, int group_size, at::ScalarType type) {
  return gather_bytes(schedule.gathered_elements / group_size, data_type(type), group_size);
}

}  // namespace

DataType data_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DataType::kFloat32;
    case at::kDouble:
      return DataType::kFloat64;
    case at::kBFloat16:
      return DataType::kBFloat16;
    default:
      VAX_CHECK(false, "units of type ", at::toString(type), " cannot be sharded");
  }
}

Partition make_partition(int64_t count, int rank, int size) {
  VAX_CHECK(count >= 0 && size >= 1 && rank >= 0 && rank < size, "partition of ", count,
            " elements, rank ", rank, " of ", size);
  Partition partition;
  partition.count = count;
  partition.shard_count = ceil_div<int64_t>(count, size);
  partition.begin = std::min(count, rank * partition.shard_count);
  partition.end = std::min(count, partition.begin + partition.shard_count);
  return partition;
}

SlotPlan plan_slots(const std::vector<int64_t>& unit_counts, int group_size,
                    const ShardedUnitsOptions& options) {
  VAX_CHECK(options.prefetch >= 0 && options.residency_gib >= 0 && options.held_at_once >= 1,
            "prefetch ", options.prefetch, ", residency ", options.residency_gib, " GiB, ",
            options.held_at_once, " units held at once");
  const bool same_type = data_type(options.shard_dtype) == data_type(options.gather_dtype);
  const std::vector<int64_t> padded = padded_counts(unit_counts, group_size);
  SlotPlan plan;
  plan.views_shards = same_type && (group_size == 1 || options.node_shared);
  plan.node_cast = !same_type && group_size > 1 && options.node_shared;
  const int64_t all = sum(padded), one = largest(padded);
  if (plan.views_shards || plan.node_cast || all == 0) return plan;
  const double element_bytes = static_cast<double>(at::elementSize(options.gather_dtype));
  const double budget = options.residency_gib * 0x1p30 / element_bytes;  // elements
  const int in_use = std::max(options.held_at_once, 1 + options.prefetch);
  plan.own_slots =
      options.replicate || group_size == 1 || static_cast<double>(all - in_use * one) <= budget;
  if (plan.own_slots) {
    plan.slot_counts = padded;
  } else {
    const size_t kept = static_cast<size_t>(budget / static_cast<double>(one));
    plan.slot_counts.assign(static_cast<size_t>(in_use) + kept, one);
  }
  return plan;
}

Schedule plan_step(const std::vector<int64_t>& unit_counts, int group_size,
                   const ShardedUnitsOptions& options, const SlotPlan& slots,
                   const std::vector<UnitEvent>& events, std::vector<int> residents) {
  std::vector<UnitEvent> with_elements;
  for (const UnitEvent& event : events)
    if (unit_counts.at(static_cast<size_t>(event.unit)) > 0) with_elements.push_back(event);
  return make_schedule(
      with_elements, padded_counts(unit_counts, group_size),
      {static_cast<int>(slots.slot_counts.size()), options.prefetch, std::move(residents)});
}

ShardingPlan plan_units(const std::vector<int64_t>& unit_counts, int group_size,
                        const ShardedUnitsOptions& options, const std::vector<UnitEvent>& events) {
  const SlotPlan slots = plan_slots(unit_counts, group_size, options);
  const int64_t all = sum(padded_counts(unit_counts, group_size));
  const auto bytes = [](int64_t count, at::ScalarType type) {
    return count * static_cast<int64_t>(at::elementSize(type));
  };
  ShardingPlan plan;
  plan.num_slots = static_cast<int>(slots.slot_counts.size());
  plan.shard_bytes = bytes(all / group_size, options.shard_dtype);
  plan.slot_bytes =
      bytes(slots.node_cast ? all / group_size : sum(slots.slot_counts), options.gather_dtype);
  if (plan.num_slots == 0) return plan;
  plan.first = plan_step(unit_counts, group_size, options, slots, events, {});
  plan.steady = plan.first;
  std::vector<int> residents = residents_after(plan.first, {});
  for (int step = 0; step < kMaxWarmUp; ++step) {
    plan.steady = plan_step(unit_counts, group_size, options, slots, events, residents);
    std::vector<int> left = residents_after(plan.steady, residents);
    if (left == residents) break;
    residents = std::move(left);
  }
  plan.first_gathered_bytes = gathered_bytes(plan.first, group_size, options.gather_dtype);
  plan.steady_gathered_bytes = gathered_bytes(plan.steady, group_size, options.gather_dtype);
  return plan;
}

GradientPlan plan_gradients(const std::vector<int64_t>& unit_counts, int group_size,
                            bool node_shared, const std::vector<int>& releases) {
  const std::vector<int64_t> padded = padded_counts(unit_counts, group_size);
  const int64_t element = static_cast<int64_t>(sizeof(float)), one = largest(padded);
  GradientPlan plan;
  plan.shard_bytes = sum(padded) / group_size * element;
  if (group_size == 1) return plan;
  plan.buffer_bytes =
      (node_shared ? kNodeGradientBuffers * one : kGradientBuffers * (one + one / group_size)) *
      element;
  if (node_shared) return plan;
  for (const int unit : releases)
    plan.reduced_bytes += gather_bytes(padded.at(static_cast<size_t>(unit)) / group_size,
                                       DataType::kFloat32, group_size);
  return plan;
}

}  // namespace vax::dist
