// Writes checkpoints beside the training, and ends the run when that is asked for.
//
// A checkpoint of step N is made in four parts, and training goes on between them:
//   1. begin      after step N every rank copies its shards (this and agreeing on it is the stall)
//   2. write      a thread of every rank writes the copy to its own file
//   3. collect    at the first step boundary where all have finished, rank 0 learns what was
//                 written
//   4. publish    a thread of rank 0 writes index.h5 and manifest.json and renames the directory
// Threads never communicate: what ranks have to agree on is agreed at step boundaries, in one small
// all_reduce. A part that fails on any rank gives up this checkpoint alone: what was written of it
// is removed, the ones before stay, training goes on. Invariant that is easy to break: every rank
// makes the same decision from the agreed numbers only, never from what it alone has seen.
#pragma once

#include <atomic>
#include <filesystem>
#include <future>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "io/checkpoint_file.h"
#include "train/checkpoint_options.h"
#include "train/run_outputs.h"
#include "train/run_state.h"
#include "train/stop_requests.h"

namespace vax::train {

// A stop was asked for and the checkpoint that it needs could not be written. Thrown on all ranks.
class CheckpointFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CheckpointerInputs {
  const CheckpointOptions& options;
  const dist::Communicator& world;
  TrainingEngine& engine;
  bool adapter_only = true;    // see state_arrays()
  std::filesystem::path root;  // where the checkpoints lie
  // Everything but units, files, position.step and the method's state.
  io::CheckpointManifest description;
  RequestFiles requests;
  RunOutputs* outputs = nullptr;  // rank 0 only
};

class Checkpointer {
 public:
  explicit Checkpointer(CheckpointerInputs inputs);
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;
  // Gives up what is under way; not collective.
  ~Checkpointer();

  // After a step: begins a checkpoint when one is due or asked for, moves the one under way on.
  // True when the run shall stop here: its checkpoint is complete then. THROWS CheckpointFailed.
  // COLLECTIVE.
  bool after_step(int64_t step, bool is_last);
  // Waits for what is under way. COLLECTIVE. BLOCKS host.
  void finish();

  // Of the newest checkpoint that this object has published.
  const std::optional<std::filesystem::path>& newest() const { return newest_; }
  // Of the copies that this rank writes: kept in memory from the first checkpoint on, and what that
  // will be on the fullest rank.
  int64_t snapshot_bytes() const;
  int64_t planned_bytes() const { return most_bytes_; }

 private:
  enum class Phase { kIdle, kWriting, kPublishing };
  // What all ranks know at a step boundary.
  struct Agreed {
    bool stop, save, busy;
  };
  // How publishing went; rank 0 alone fills it.
  struct Published {
    int64_t num_bytes = 0;
    std::string error;    // empty: it is there
    std::string warning;  // what went wrong afterwards
  };

  // What the other ranks have to know of one rank's file, or why it is not there.
  struct OwnFile {
    struct Slice {
      size_t array, index;  // of in_.arrays, within the array
      int64_t offset_bytes;
      static auto wire_fields(auto& self) {
        return std::tie(self.array, self.index, self.offset_bytes);
      }
    };
    std::string error;
    io::CheckpointFile file;  // without a name where the rank has nothing to write
    std::vector<Slice> slices;
    static auto wire_fields(auto& self) {
      return std::tie(self.error, self.file.name, self.file.num_bytes, self.file.sha256,
                      self.slices);
    }
  };

  bool writes(const StateArray& array) const;  // this rank, that one
  Agreed agree();
  void begin(int64_t step);
  std::string prepare_directory() const;
  void take_snapshot();
  io::WrittenFile write_own_file() const;
  void advance(bool busy);
  void collect();
  OwnFile describe_own_file();
  static std::string join_errors(const std::vector<OwnFile>& ranks);
  io::CheckpointManifest complete_manifest(const std::vector<OwnFile>& ranks) const;
  Published publish(io::CheckpointManifest manifest) const;
  void conclude();
  void give_up(const std::string& reason);
  bool own_part_is_running() const;

  CheckpointerInputs in_;
  std::vector<StateArray> arrays_;    // the same on all ranks
  int64_t total_bytes_ = 0;           // of a checkpoint, at most
  int64_t most_bytes_ = 0;            // that one rank writes
  std::vector<size_t> own_;           // indices of the arrays that this rank writes
  MethodState method_state_;          // of the checkpoint under way
  std::vector<at::Tensor> snapshot_;  // of those, [num_elements]; kept for the next one

  Phase phase_ = Phase::kIdle;
  int64_t step_ = 0;  // of the checkpoint under way
  double stall_s_ = 0;
  std::optional<std::filesystem::path> newest_;
  std::string last_error_;  // why the last one failed; the same on all ranks
  std::atomic<bool> cancelled_ = false;
  // Last: their destructors wait for the threads, which use the members above.
  std::future<io::WrittenFile> written_;
  std::future<Published> published_;
};

}  // namespace vax::train
