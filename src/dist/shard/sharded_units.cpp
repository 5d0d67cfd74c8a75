// Slots hold gathered units; `slot_of` and Slot::unit say which, and agree at all times. A slot
// with a pending gather already belongs to its unit. Two ways lead to a slot: the step's schedule,
// whose entries are carried out up to the use that is asked for, and, without one, on demand with
// the least recently used slot giving way. Both depend only on the order of calls, never on timing.
//
// On a device slots are written by two streams, and every hand-over is ordered by one of two rules
// of device groups: an operation starts after what the compute stream holds when it is called, and
// after wait() the compute stream goes on behind the operation.
// - slot given to another unit: drop() waits for a gather that is still pending, so the compute
//   stream, on which own shard is copied in, comes after it; the gather that follows starts after
//   this copy and so after all that has read the slot (readers are on the compute stream and were
//   put there before release());
// - shard into slot: copied on the compute stream, behind the optimizer that wrote the shard;
// - acquired unit: the compute stream has passed the gather.
// A gather ahead of its use is called before the kernels of the use before it are put on the
// compute stream, so it runs beside them. Slots come from the group's memory and are released only
// when both streams are done with them; a Slot's `gathering` goes before its buffer.
#include "dist/shard/sharded_units.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "base/error.h"
#include "dist/shard/group_buffer.h"
#include "dist/shard/shard_store.h"

namespace vax::dist {
namespace {

constexpr int kNoSlot = -1;
constexpr uintptr_t kSlotAlignment = 64;

std::vector<int64_t> counts_of(const std::vector<Partition>& partitions) {
  std::vector<int64_t> counts;
  for (const Partition& partition : partitions) counts.push_back(partition.count);
  return counts;
}

// The owner's shards are node-shared exactly when a node is given, and a view follows its owner.
ShardedUnitsOptions with_sharing(ShardedUnitsOptions options) {
  options.node_shared = options.node != nullptr;
  return options;
}

}  // namespace

struct ShardedUnits::Impl {
  struct Slot {
    at::Tensor buffer;  // [elements of the largest unit that it is for], gather_dtype
    int unit = kNoUnit;
    int64_t last_use = 0;
    Work gathering;
  };

  Impl(Collectives& collectives, std::shared_ptr<ShardStore> the_store, bool owns_shards,
       const ShardedUnitsOptions& the_options);
  void allocate_slots();
  void make_views();
  void cast_own_slices();
  const Partition& partition(int unit) const {
    return store->partitions.at(static_cast<size_t>(unit));
  }
  void check_readable(int unit) const;

  void start_gather(int unit, int slot);
  void drop(int unit);
  int slot_on_demand(int unit);
  int slot_by_schedule(int unit);
  void carry_out(const ScheduleEntry& entry);
  void end_schedule_if_done();
  void poll() noexcept;
  void rethrow_failure();
  int num_held() const { return static_cast<int>(std::count(held.begin(), held.end(), true)); }

  Collectives& group;
  const ShardedUnitsOptions options;
  const std::shared_ptr<ShardStore> store;
  const bool is_owner;
  const std::vector<int64_t> counts;  // elements of each unit
  const SlotPlan plan;
  std::vector<at::Tensor> cast_units;  // padded, gather_dtype, on the node; if plan.node_cast
  std::vector<at::Tensor> views;       // [count] of each unit that needs no slot; else undefined
  std::vector<Slot> slots;
  std::vector<int> slot_of;  // of each unit
  std::vector<bool> held;    // of each unit
  int64_t seen_version;      // of the store, at the last refresh
  int64_t num_uses = 0;
  std::optional<Schedule> schedule;
  ptrdiff_t next_entry = 0;
  std::exception_ptr failure;  // of a poll(), reported by the next acquire()
};

ShardedUnits::Impl::Impl(Collectives& collectives, std::shared_ptr<ShardStore> the_store,
                         bool owns_shards, const ShardedUnitsOptions& the_options)
    : group(collectives),
      options(the_options),
      store(std::move(the_store)),
      is_owner(owns_shards),
      counts(counts_of(store->partitions)),
      plan(plan_slots(counts, group.size(), options)),
      slot_of(counts.size(), kNoSlot),
      held(counts.size(), false),
      seen_version(store->version) {
  if (plan.node_cast)
    cast_units = make_node_units(*options.node, store->partitions, options.gather_dtype);
  make_views();
  allocate_slots();
  // A view that is made after the shards were written must not need a refresh.
  if (plan.node_cast && store->version > 0) cast_own_slices();
}

void ShardedUnits::Impl::make_views() {
  const std::vector<at::Tensor>& whole = plan.node_cast ? cast_units : store->units;
  const bool all = plan.views_shards || plan.node_cast;
  const at::Tensor empty =
      at::empty({0}, at::TensorOptions(options.gather_dtype).device(store->device));
  for (size_t unit = 0; unit < counts.size(); ++unit) {
    if (all)
      views.push_back(whole[unit].narrow(0, 0, counts[unit]));
    else
      views.push_back(counts[unit] == 0 ? empty : at::Tensor());
  }
}

void ShardedUnits::Impl::allocate_slots() {
  for (at::Tensor& buffer :
       make_group_buffers(group, plan.slot_counts, options.gather_dtype, store->device)) {
    slots.emplace_back().buffer = std::move(buffer);
    VAX_CHECK(reinterpret_cast<uintptr_t>(slots.back().buffer.data_ptr()) % kSlotAlignment == 0,
              "the allocator does not align to ", kSlotAlignment, " bytes");
  }
}

// REQUIRES that no rank reads the cast copy. BLOCKS host until all ranks have written their slices.
void ShardedUnits::Impl::cast_own_slices() {
  for (size_t unit = 0; unit < counts.size(); ++unit) {
    const at::Tensor& shard = store->shards[unit];
    cast_units[unit].narrow(0, store->rank * shard.numel(), shard.numel()).copy_(shard);
  }
  group.barrier();
}

void ShardedUnits::Impl::check_readable(int unit) const {
  VAX_CHECK(!held.at(static_cast<size_t>(unit)), "unit ", unit, " is acquired twice");
  VAX_CHECK(!store->updating, "unit ", unit, " is acquired between begin_update() and refresh()");
  VAX_CHECK(seen_version == store->version, "unit ", unit, " is acquired through a view that was ",
            "not refreshed after its owner: version ", seen_version, " of ", store->version);
}

// Own shard into its place (cast on the way), then the others around it.
void ShardedUnits::Impl::start_gather(int unit, int slot_index) {
  Slot& slot = slots[slot_index];
  VAX_CHECK(partition(unit).shard_count * group.size() <= slot.buffer.numel(), "unit ", unit,
            " does not fit slot ", slot_index);
  if (slot.unit != kNoUnit) drop(slot.unit);
  const int64_t shard_count = partition(unit).shard_count;
  const at::Tensor own = slot.buffer.narrow(0, group.rank() * shard_count, shard_count);
  own.copy_(store->shards[unit]);
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
  for (int slot = 0; slot < static_cast<int>(slots.size()) && !plan.own_slots; ++slot) {
    if (slots[slot].unit != kNoUnit && held[slots[slot].unit]) continue;
    if (best == kNoSlot || slots[slot].last_use < slots[best].last_use) best = slot;
  }
  if (plan.own_slots) best = unit;
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

void ShardedUnits::Impl::rethrow_failure() {
  if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
}

ShardedUnits::ShardedUnits(Collectives& group, std::vector<int64_t> unit_counts,
                           ShardedUnitsOptions options) {
  options = with_sharing(options);
  plan_slots(unit_counts, group.size(), options);  // throws before anything is allocated
  check_device(group, options.device);
  auto store = std::make_shared<ShardStore>(group.rank(), group.size(), unit_counts, options);
  impl_ = std::make_unique<Impl>(group, std::move(store), true, options);
}

ShardedUnits::ShardedUnits(Collectives& group, ShardedUnits& owner, ShardedUnitsOptions options) {
  options = with_sharing(options);
  const ShardStore& store = *owner.impl_->store;
  VAX_CHECK(options.shard_dtype == store.type, "a view of ", at::toString(store.type),
            " shards as ", at::toString(options.shard_dtype));
  VAX_CHECK(options.device == store.device, "a view on ", options.device.str(), " of shards on ",
            store.device.str());
  check_device(group, options.device);
  VAX_CHECK(group.rank() == store.rank && group.size() == store.size, "rank ", group.rank(), " of ",
            group.size(), " views the shards of rank ", store.rank, " of ", store.size);
  VAX_CHECK(options.node_shared == store.node_shared,
            "a view and its owner must both be node-shared or neither");
  impl_ = std::make_unique<Impl>(group, owner.impl_->store, false, options);
}

ShardedUnits::~ShardedUnits() {
  if (impl_) impl_->store->num_held -= impl_->num_held();
}

int ShardedUnits::num_units() const { return static_cast<int>(impl_->counts.size()); }
int ShardedUnits::num_slots() const { return static_cast<int>(impl_->slots.size()); }
const Partition& ShardedUnits::partition(int unit) const { return impl_->partition(unit); }
at::Tensor& ShardedUnits::shard(int unit) { return impl_->store->shards.at(unit); }

void ShardedUnits::begin_step(const std::vector<UnitEvent>& events) {
  VAX_CHECK(impl_->num_held() == 0, impl_->num_held(), " units are held when a step begins");
  VAX_CHECK(!impl_->schedule, "the step before has announced uses that did not take place: entry ",
            impl_->next_entry, " is next");
  if (impl_->slots.empty()) return;
  std::vector<int> residents;
  for (const Impl::Slot& slot : impl_->slots) residents.push_back(slot.unit);
  impl_->schedule = plan_step(impl_->counts, impl_->group.size(), impl_->options, impl_->plan,
                              events, std::move(residents));
  impl_->next_entry = 0;
  impl_->end_schedule_if_done();
}

at::Tensor ShardedUnits::acquire(int unit) {
  Impl& impl = *impl_;
  impl.check_readable(unit);
  impl.poll();
  impl.rethrow_failure();
  at::Tensor result = impl.views[unit];
  if (!result.defined()) {
    const int slot_index = impl.schedule ? impl.slot_by_schedule(unit) : impl.slot_on_demand(unit);
    Impl::Slot& slot = impl.slots[slot_index];
    slot.gathering.wait();
    slot.last_use = ++impl.num_uses;
    result = slot.buffer.narrow(0, 0, impl.counts[unit]);
  }
  impl.held[unit] = true;
  ++impl.store->num_held;
  return result;
}

void ShardedUnits::release(int unit) {
  VAX_CHECK(impl_->held.at(unit), "unit ", unit, " is released without acquire");
  impl_->held[unit] = false;
  --impl_->store->num_held;
  impl_->poll();
  impl_->end_schedule_if_done();
}

void ShardedUnits::begin_update() {
  ShardStore& store = *impl_->store;
  VAX_CHECK(impl_->is_owner, "shards are updated through their owner, not through a view");
  VAX_CHECK(!store.updating, "an update begins inside another");
  VAX_CHECK(store.num_held == 0, store.num_held, " units are held when their shards change");
  if (store.node_shared) impl_->group.barrier();  // others may still read what this rank writes
  store.updating = true;
}

void ShardedUnits::refresh() {
  Impl& impl = *impl_;
  ShardStore& store = *impl.store;
  VAX_CHECK(impl.num_held() == 0, impl.num_held(), " units are held when their shards change");
  VAX_CHECK(impl.is_owner || !store.updating, "a view is refreshed during its owner's update");
  VAX_CHECK(!impl.is_owner || !store.node_shared || store.updating,
            "node-shared units are refreshed without begin_update()");
  impl.schedule.reset();
  for (const Impl::Slot& slot : impl.slots)
    if (slot.unit != kNoUnit) impl.drop(slot.unit);
  if (impl.is_owner) {
    store.updating = false;
    ++store.version;
  }
  impl.seen_version = store.version;
  if (impl.plan.node_cast) {
    if (!impl.is_owner) impl.group.barrier();  // others may still read the copy
    impl.cast_own_slices();
  } else if (store.node_shared && impl.is_owner) {
    impl.group.barrier();
  }
}

int64_t ShardedUnits::shard_bytes() const {
  int64_t bytes = 0;
  if (impl_->is_owner)
    for (const at::Tensor& shard : impl_->store->shards)
      bytes += static_cast<int64_t>(shard.nbytes());
  return bytes;
}

int64_t ShardedUnits::slot_bytes() const {
  int64_t bytes = 0;
  for (const Impl::Slot& slot : impl_->slots) bytes += static_cast<int64_t>(slot.buffer.nbytes());
  for (const at::Tensor& unit : impl_->cast_units)
    bytes += static_cast<int64_t>(unit.nbytes()) / impl_->group.size();
  return bytes;
}

}  // namespace vax::dist
