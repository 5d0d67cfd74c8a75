#include "train/checkpointer.h"

#include <ATen/ATen.h>

#include <chrono>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "base/narrow.h"
#include "base/signal_mask.h"
#include "base/stopwatch.h"
#include "io/checkpoint_directory.h"
#include "ops/device/runtime.h"
#include "ops/device/transfer.h"

namespace vax::train {
namespace {

namespace fs = std::filesystem;

// Runs `body` on a thread. Where none can be had, the result is a WriteError.
template <typename Body>
auto run_beside(Body body) -> std::future<decltype(body())> {
  const SignalMask mask;
  try {
    return std::async(std::launch::async, std::move(body));
  } catch (const std::system_error& e) {
    std::promise<decltype(body())> failed;
    failed.set_exception(std::make_exception_ptr(
        WriteError(cat("no thread can be started that writes a checkpoint: ", e.what()))));
    return failed.get_future();
  }
}

template <typename T>
bool is_running(const std::future<T>& future) {
  return future.valid() && future.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

std::string rank_file_name(int rank) {
  std::string digits = std::to_string(rank);
  if (digits.size() < 5) digits.insert(0, 5 - digits.size(), '0');
  return cat("rank-", digits, ".h5");
}

io::CheckpointUnit describe_unit(const StateArray& array) {
  io::CheckpointUnit unit{.plane = std::string(array.plane),
                          .name = array.unit->name,
                          .count = array.partition.count,
                          .slice_count = array.partition.shard_count};
  for (const FlatGroup& group : array.unit->groups)
    for (const FlatMember& member : group.members)
      unit.members.push_back({.name = member.name, .shape = member.shape, .offset = member.offset});
  return unit;
}

io::CheckpointArray describe_array(const StateArray& array) {
  const dist::Partition& part = array.partition;
  return {.kind = std::string(array.kind),
          .dtype = array.shard.scalar_type() == at::kBFloat16 ? io::DType::kBF16 : io::DType::kF32,
          .slices = std::vector<io::CheckpointSlice>(
              static_cast<size_t>((part.count + part.shard_count - 1) / part.shard_count))};
}

int64_t bytes_of(const StateArray& array) {
  return array.num_elements() * static_cast<int64_t>(array.shard.element_size());
}

}  // namespace

Checkpointer::Checkpointer(CheckpointerInputs inputs)
    : in_(std::move(inputs)), arrays_(state_arrays(in_.engine, in_.adapter_only)) {
  dist::Collectives& world = *in_.engine.mesh().world;
  // Frozen weights are written by the shard group that rank 0 is in: others have copies.
  for (size_t i = 0; i < arrays_.size(); ++i) {
    if (!writes(arrays_[i])) continue;
    own_.push_back(i);
    most_bytes_ += bytes_of(arrays_[i]);
  }
  total_bytes_ = most_bytes_ + io::rank_file_overhead_bytes(own_.size());
  world.all_reduce(&most_bytes_, 1, dist::DataType::kInt64, dist::ReduceOp::kMax).wait();
  world.all_reduce(&total_bytes_, 1, dist::DataType::kInt64, dist::ReduceOp::kSum).wait();
}

Checkpointer::~Checkpointer() { cancelled_ = true; }

// Replicas of trainable units have the same slices: they take turns, unit by unit.
bool Checkpointer::writes(const StateArray& array) const {
  if (array.num_elements() == 0) return false;
  if (array.plane == "frozen") return in_.engine.mesh().is_first_of_frozen;
  const dist::Collectives& replicas = *in_.engine.mesh().replicas;
  return array.unit_index % replicas.size() == replicas.rank();
}

int64_t Checkpointer::snapshot_bytes() const {
  int64_t sum = 0;
  for (const at::Tensor& copy : snapshot_) sum += static_cast<int64_t>(copy.nbytes());
  return sum;
}

bool Checkpointer::after_step(int64_t step, bool is_last) {
  const Agreed agreed = agree();
  const bool stops = agreed.stop && !is_last;
  const bool is_due = in_.options.interval > 0 && step % in_.options.interval == 0;
  advance(agreed.busy);
  if (!stops && !is_due && !agreed.save) return false;
  begin(step);
  if (!stops) return false;
  finish();
  if (newest_ && io::step_of_checkpoint(*newest_) == step) return true;
  throw CheckpointFailed(cat(
      "asked to stop after step ", step, ", but its checkpoint could not be written: ", last_error_,
      "; ", newest_ ? cat("the newest one is ", newest_->string()) : "this run has written none"));
}

void Checkpointer::finish() {
  while (phase_ != Phase::kIdle) {
    if (own_part_is_running()) {
      if (written_.valid()) written_.wait();
      if (published_.valid()) published_.wait();
    }
    advance(agree().busy);
  }
}

bool Checkpointer::own_part_is_running() const {
  return is_running(written_) || is_running(published_);
}

// The only communication at a step boundary where nothing happens.
Checkpointer::Agreed Checkpointer::agree() {
  const bool is_root = in_.world.rank() == 0;
  int64_t flags[3] = {StopSignals::received() || (is_root && in_.requests.stop_requested()),
                      is_root && in_.requests.save_requested(), own_part_is_running()};
  in_.engine.mesh()
      .world->all_reduce(flags, 3, dist::DataType::kInt64, dist::ReduceOp::kMax)
      .wait();
  return {.stop = flags[0] != 0, .save = flags[1] != 0, .busy = flags[2] != 0};
}

void Checkpointer::begin(int64_t step) {
  const Stopwatch watch;
  finish();
  step_ = step;
  const std::string error =
      in_.world.broadcast_text(in_.world.rank() == 0 ? prepare_directory() : std::string(), 0);
  if (!error.empty()) return give_up(error);
  take_snapshot();
  method_state_ = in_.engine.method().state();
  phase_ = Phase::kWriting;
  if (!own_.empty()) written_ = run_beside([this] { return write_own_file(); });
  stall_s_ = watch.elapsed_s();
}

// Rank 0 alone. Returns what went wrong.
std::string Checkpointer::prepare_directory() const {
  try {
    io::require_free_space(in_.root, total_bytes_);
    io::create_writing_directory(in_.root, step_);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

namespace {

at::Tensor host_buffer_like(const at::Tensor& content) {
  if (content.device().is_cpu()) return at::empty_like(content);
  return ops::device::pinned_empty(content.sizes(), content.scalar_type());
}

}  // namespace

void Checkpointer::take_snapshot() {
  for (size_t i = 0; i < own_.size(); ++i) {
    const StateArray& array = arrays_[own_[i]];
    const at::Tensor content = array.shard.narrow(0, 0, array.num_elements());
    if (snapshot_.size() == i) snapshot_.push_back(host_buffer_like(content));
    ops::device::wait_for(content);
    snapshot_[i].copy_(content);
  }
}

io::WrittenFile Checkpointer::write_own_file() const {
  std::vector<io::SliceToWrite> slices;
  for (size_t i = 0; i < own_.size(); ++i) {
    const StateArray& array = arrays_[own_[i]];
    const io::CheckpointArray described = describe_array(array);
    slices.push_back({.dataset = io::slice_dataset(describe_unit(array), described),
                      .dtype = described.dtype,
                      .bytes = {static_cast<const std::byte*>(snapshot_[i].const_data_ptr()),
                                snapshot_[i].nbytes()}});
  }
  return io::write_rank_file(io::writing_path(in_.root, step_) / rank_file_name(in_.world.rank()),
                             slices, [this] { return cancelled_.load(); });
}

void Checkpointer::advance(bool busy) {
  if (phase_ == Phase::kIdle || busy) return;
  if (phase_ == Phase::kWriting) return collect();
  conclude();
}

Checkpointer::OwnFile Checkpointer::describe_own_file() {
  OwnFile own;
  if (!written_.valid()) return own;
  try {
    const io::WrittenFile written = written_.get();
    own.file = written.file;
    for (size_t i = 0; i < own_.size(); ++i)
      own.slices.push_back({.array = own_[i],
                            .index = narrow<size_t>(arrays_[own_[i]].slice),
                            .offset_bytes = written.offset_bytes[i]});
  } catch (const std::exception& e) {
    own.error = e.what();
  }
  return own;
}

// Why ranks have no file, of the first few: a full disk is every rank's. Empty when all have
// theirs.
std::string Checkpointer::join_errors(const std::vector<OwnFile>& ranks) {
  constexpr int kMostShown = 3;
  std::string errors;
  int num_errors = 0;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].error.empty() || ++num_errors > kMostShown) continue;
    errors += cat(errors.empty() ? "" : "; ", "rank ", r, ": ", ranks[r].error);
  }
  if (num_errors > kMostShown) errors += cat("; and ", num_errors - kMostShown, " more ranks");
  return errors;
}

void Checkpointer::collect() {
  const std::vector<OwnFile> ranks = in_.world.all_gather_values(describe_own_file());
  if (const std::string errors = join_errors(ranks); !errors.empty()) return give_up(errors);
  phase_ = Phase::kPublishing;
  if (in_.world.rank() != 0) return;
  // A checkpoint on the disk is never ahead of the log there.
  in_.outputs->sync();
  published_ = run_beside([this, manifest = complete_manifest(ranks)]() mutable {
    return publish(std::move(manifest));
  });
}

io::CheckpointManifest Checkpointer::complete_manifest(const std::vector<OwnFile>& ranks) const {
  io::CheckpointManifest manifest = in_.description;
  manifest.position.step = step_;
  manifest.method_state = method_state_;
  // Arrays of one unit follow each other.
  std::vector<std::pair<size_t, size_t>> places;
  for (const StateArray& array : arrays_) {
    const bool is_new = manifest.units.empty() || manifest.units.back().plane != array.plane ||
                        manifest.units.back().name != array.unit->name;
    if (is_new) manifest.units.push_back(describe_unit(array));
    manifest.units.back().arrays.push_back(describe_array(array));
    places.emplace_back(manifest.units.size() - 1, manifest.units.back().arrays.size() - 1);
  }
  for (const OwnFile& rank : ranks) {
    if (rank.file.name.empty()) continue;
    const auto file = static_cast<int64_t>(manifest.files.size());
    manifest.files.push_back(rank.file);
    for (const OwnFile::Slice& slice : rank.slices) {
      const auto [unit, array] = places.at(slice.array);
      manifest.units[unit].arrays[array].slices.at(slice.index) = {
          .file = file, .offset_bytes = slice.offset_bytes};
    }
  }
  return manifest;
}

// On a thread of rank 0.
Checkpointer::Published Checkpointer::publish(io::CheckpointManifest manifest) const {
  try {
    const fs::path directory = io::writing_path(in_.root, step_);
    manifest.files.push_back(io::write_index(directory, manifest));
    io::write_manifest(directory, manifest);
    io::publish_checkpoint(in_.root, step_);
  } catch (const std::exception& e) {
    return {.error = e.what()};
  }
  Published published{.num_bytes = manifest.num_bytes()};
  try {
    io::prune_checkpoints(in_.root, in_.options.keep);
  } catch (const std::exception& e) {
    published.warning = e.what();
  }
  return published;
}

void Checkpointer::conclude() {
  const bool is_root = in_.world.rank() == 0;
  Published published;
  try {
    if (is_root) published = published_.get();
  } catch (const WriteError& e) {
    published.error = e.what();
  }
  const std::string error = in_.world.broadcast_text(published.error, 0);
  if (!error.empty()) return give_up(error);
  phase_ = Phase::kIdle;
  newest_ = io::checkpoint_path(in_.root, step_);
  if (!is_root) return;
  in_.outputs->checkpoint({.step = step_,
                           .path = newest_->string(),
                           .bytes = published.num_bytes,
                           .stall_s = stall_s_});
  log::info(cat("checkpoint ", newest_->string()));
  if (!published.warning.empty())
    log::warning(cat("older checkpoints could not be removed: ", published.warning));
}

void Checkpointer::give_up(const std::string& reason) {
  phase_ = Phase::kIdle;
  last_error_ = reason;
  if (in_.world.rank() != 0) return;
  std::error_code ignored;
  fs::remove_all(io::writing_path(in_.root, step_), ignored);
  log::warning(cat("no checkpoint of step ", step_, ": ", reason, "; training goes on",
                   newest_ ? cat(", the newest one is ", newest_->string()) : ""));
}

}  // namespace vax::train
