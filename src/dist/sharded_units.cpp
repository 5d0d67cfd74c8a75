// Slots hold gathered units; `slot_of` and Slot::unit say which, and agree at all times. A slot
// with a pending gather already belongs to its unit. Two ways lead to a slot: the step's schedule,
// whose entries are carried out up to the use that is asked for, and, without one, on demand with
// the least recently used slot giving way. Both depend only on the order of calls, never on timing.
#include "dist/sharded_units.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::dist {
namespace {

constexpr int kNoSlot = -1;
constexpr uintptr_t kSlotAlignment = 64;

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

int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

}  // namespace

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

struct ShardedUnits::Impl {
  struct Slot {
    at::Tensor buffer;  // [elements of the largest unit that it is for], gather_dtype
    int unit = kNoUnit;
    int64_t last_use = 0;
    Work gathering;
  };

  Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts,
       const ShardedUnitsOptions& the_options);
  void allocate_slots();
  int64_t padded_count(int unit) const { return partitions[unit].shard_count * group.size(); }
  bool without_slot(int unit) const { return borrows_shards || partitions[unit].count == 0; }

  void start_gather(int unit, int slot);
  void drop(int unit);
  int slot_on_demand(int unit);
  int slot_by_schedule(int unit);
  void carry_out(const ScheduleEntry& entry);
  void end_schedule_if_done();
  void poll() noexcept;
  int num_held() const { return static_cast<int>(std::count(held.begin(), held.end(), true)); }

  Collectives& group;
  const ShardedUnitsOptions options;
  const bool borrows_shards;  // acquire() returns views of the shards
  bool own_slots = false;     // slot i is for unit i only and has its size
  std::vector<Partition> partitions;
  std::vector<at::Tensor> shards;
  std::vector<Slot> slots;
  std::vector<int> slot_of;  // of each unit
  std::vector<bool> held;    // of each unit
  int64_t num_uses = 0;
  std::optional<Schedule> schedule;
  ptrdiff_t next_entry = 0;
  std::exception_ptr failure;  // of a poll(), reported by the next acquire()
};

ShardedUnits::Impl::Impl(Collectives& collectives, const std::vector<int64_t>& unit_counts,
                         const ShardedUnitsOptions& the_options)
    : group(collectives),
      options(the_options),
      borrows_shards(collectives.size() == 1 &&
                     the_options.shard_dtype == the_options.gather_dtype),
      slot_of(unit_counts.size(), kNoSlot),
      held(unit_counts.size(), false) {
  data_type(options.shard_dtype);
  data_type(options.gather_dtype);
  VAX_CHECK(options.prefetch >= 0 && options.residency_gib >= 0, "prefetch ", options.prefetch,
            ", residency ", options.residency_gib, " GiB");
  for (const int64_t count : unit_counts) {
    partitions.push_back(make_partition(count, group.rank(), group.size()));
    shards.push_back(at::zeros({partitions.back().shard_count}, options.shard_dtype));
  }
  if (!borrows_shards) allocate_slots();
}

void ShardedUnits::Impl::allocate_slots() {
  int64_t largest = 0, all = 0;
  for (int unit = 0; unit < static_cast<int>(partitions.size()); ++unit) {
    largest = std::max(largest, padded_count(unit));
    all += padded_count(unit);
  }
  if (all == 0) return;
  const double element_bytes = static_cast<double>(at::elementSize(options.gather_dtype));
  const double budget = options.residency_gib * 0x1p30 / element_bytes;  // elements
  const int in_use = std::max(2, 1 + options.prefetch);
  own_slots = options.replicate || group.size() == 1 ||
              static_cast<double>(all - in_use * largest) <= budget;
  slots.resize(own_slots ? partitions.size()
                         : static_cast<size_t>(in_use + budget / static_cast<double>(largest)));
  for (size_t i = 0; i < slots.size(); ++i) {
    const int64_t count = own_slots ? padded_count(static_cast<int>(i)) : largest;
    slots[i].buffer = at::empty({count}, options.gather_dtype);
    VAX_CHECK(reinterpret_cast<uintptr_t>(slots[i].buffer.data_ptr()) % kSlotAlignment == 0,
              "the allocator does not align to ", kSlotAlignment, " bytes");
  }
}

// Own shard into its place (cast on the way), then the others around it.
void ShardedUnits::Impl::start_gather(int unit, int slot_index) {
  Slot& slot = slots[slot_index];
  VAX_CHECK(padded_count(unit) <= slot.buffer.numel(), "unit ", unit, " does not fit slot ",
            slot_index);
  if (slot.unit != kNoUnit) drop(slot.unit);
  const int64_t shard_count = partitions[unit].shard_count;
  const at::Tensor own = slot.buffer.narrow(0, group.rank() * shard_count, shard_count);
  own.copy_(shards[unit]);
  slot.gathering = group.all_gather(own.data_ptr(), slot.buffer.data_ptr(), shard_count,
                                    data_type(options.gather_dtype));
  slot.unit = unit;
  slot_of[unit] = slot_index;
}

void ShardedUnits::Impl::drop(int unit) {
  Slot& slot = slots[slot_of[unit]];
  VAX_CHECK(!held[unit], "unit ", unit, " would lose its slot while in use");
  slot.gathering.wait();
  slot.unit = kNoUnit;
  slot_of[unit] = kNoSlot;
}

int ShardedUnits::Impl::slot_on_demand(int unit) {
  if (slot_of[unit] != kNoSlot) return slot_of[unit];
  int best = kNoSlot;
  for (int slot = 0; slot < static_cast<int>(slots.size()) && !own_slots; ++slot) {
    if (slots[slot].unit != kNoUnit && held[slots[slot].unit]) continue;
    if (best == kNoSlot || slots[slot].last_use < slots[best].last_use) best = slot;
  }
  if (own_slots) best = unit;
  VAX_CHECK(best != kNoSlot, "unit ", unit, " is acquired while other units hold all ",
            slots.size(), " slots");
  start_gather(unit, best);
  return best;
}

// The use that comes next must be this one; checked before anything is started.
int ShardedUnits::Impl::slot_by_schedule(int unit) {
  const std::vector<ScheduleEntry>& entries = schedule->entries;
  const auto use = std::find_if(entries.begin() + next_entry, entries.end(), [](const auto& entry) {
    return entry.action == ScheduleAction::kUse;
  });
  VAX_CHECK(use != entries.end(), "units are used in another order than announced: unit ", unit,
            " after the last use of the step");
  VAX_CHECK(use->unit == unit, "units are used in another order than announced: expected unit ",
            use->unit, ", actual unit ", unit, " (entry ", next_entry, " of ", entries.size(), ")");
  for (auto entry = entries.begin() + next_entry; entry != use; ++entry) carry_out(*entry);
  next_entry = use - entries.begin() + 1;
  return slot_of[unit];
}

void ShardedUnits::Impl::carry_out(const ScheduleEntry& entry) {
  if (entry.action == ScheduleAction::kRelease)
    VAX_CHECK(!held[entry.unit], "units are used in another order than announced: unit ",
              entry.unit, " is still held when its release is due");
  if (entry.action == ScheduleAction::kFree) drop(entry.unit);
  if (entry.action == ScheduleAction::kGather) start_gather(entry.unit, entry.slot);
}

// Over once nothing but releases that have taken place is left.
void ShardedUnits::Impl::end_schedule_if_done() {
  if (!schedule) return;
  const std::vector<ScheduleEntry>& entries = schedule->entries;
  const bool done =
      std::all_of(entries.begin() + next_entry, entries.end(), [this](const ScheduleEntry& entry) {
        return entry.action == ScheduleAction::kRelease && !held[entry.unit];
      });
  if (done) schedule.reset();
}

void ShardedUnits::Impl::poll() noexcept {
  try {
    for (Slot& slot : slots) slot.gathering.test();
  } catch (...) {
    failure = std::current_exception();
  }
}

ShardedUnits::ShardedUnits(Collectives& group, std::vector<int64_t> unit_counts,
                           ShardedUnitsOptions options)
    : impl_(std::make_unique<Impl>(group, unit_counts, options)) {}
ShardedUnits::~ShardedUnits() = default;

int ShardedUnits::num_units() const { return static_cast<int>(impl_->partitions.size()); }
const Partition& ShardedUnits::partition(int unit) const { return impl_->partitions.at(unit); }
at::Tensor& ShardedUnits::shard(int unit) { return impl_->shards.at(unit); }
int ShardedUnits::num_slots() const { return static_cast<int>(impl_->slots.size()); }

void ShardedUnits::begin_step(const std::vector<UnitEvent>& events) {
  VAX_CHECK(impl_->num_held() == 0, impl_->num_held(), " units are held when a step begins");
  VAX_CHECK(!impl_->schedule, "a step begins before the uses of the last one are done: entry ",
            impl_->next_entry, " is next");
  if (impl_->slots.empty()) return;
  std::vector<UnitEvent> with_elements;
  std::vector<int64_t> counts;
  ScheduleOptions options{static_cast<int>(impl_->slots.size()), impl_->options.prefetch, {}};
  for (const Partition& partition : impl_->partitions) counts.push_back(partition.count);
  for (const UnitEvent& event : events)
    if (partition(event.unit).count > 0) with_elements.push_back(event);
  for (const Impl::Slot& slot : impl_->slots) options.residents.push_back(slot.unit);
  impl_->schedule = make_schedule(with_elements, counts, options);
  impl_->next_entry = 0;
  impl_->end_schedule_if_done();
}

at::Tensor ShardedUnits::acquire(int unit) {
  Impl& impl = *impl_;
  const Partition& unit_partition = partition(unit);
  VAX_CHECK(!impl.held[unit], "unit ", unit, " is acquired twice");
  impl.poll();
  if (impl.failure) std::rethrow_exception(std::exchange(impl.failure, nullptr));
  if (impl.without_slot(unit)) {
    impl.held[unit] = true;
    return impl.borrows_shards ? impl.shards[unit].narrow(0, 0, unit_partition.count)
                               : at::empty({0}, impl.options.gather_dtype);
  }
  const int slot_index = impl.schedule ? impl.slot_by_schedule(unit) : impl.slot_on_demand(unit);
  Impl::Slot& slot = impl.slots[slot_index];
  slot.gathering.wait();
  slot.last_use = ++impl.num_uses;
  impl.held[unit] = true;
  return slot.buffer.narrow(0, 0, unit_partition.count);
}

void ShardedUnits::release(int unit) {
  VAX_CHECK(impl_->held.at(unit), "unit ", unit, " is released without acquire");
  impl_->held[unit] = false;
  impl_->poll();
  impl_->end_schedule_if_done();
}

void ShardedUnits::refresh() {
  VAX_CHECK(impl_->num_held() == 0, impl_->num_held(), " units are held when their shards change");
  impl_->schedule.reset();
  for (const Impl::Slot& slot : impl_->slots)
    if (slot.unit != kNoUnit) impl_->drop(slot.unit);
}

int64_t ShardedUnits::shard_bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor& shard : impl_->shards) bytes += bytes_of(shard);
  return bytes;
}

int64_t ShardedUnits::slot_bytes() const {
  int64_t bytes = 0;
  for (const Impl::Slot& slot : impl_->slots) bytes += bytes_of(slot.buffer);
  return bytes;
}

}  // namespace vax::dist
