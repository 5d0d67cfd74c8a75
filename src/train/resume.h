// Finds the checkpoint that a run goes on from. Nothing in it is believed before it is verified.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "io/checkpoint_reader.h"
#include "io/run_records.h"

namespace vax::train {

struct FoundCheckpoint {
  std::optional<io::CheckpointReader> reader;
  std::vector<io::RejectedCheckpoint> rejected;  // newer ones, newest first
};

// The newest of root's checkpoints whose files all have their sizes and hashes; the ranks share the
// hashing. No reader when there is none. COLLECTIVE. THROWS DataError, on all ranks, when there are
// checkpoints and none verifies, naming each and why.
FoundCheckpoint find_newest_checkpoint(const dist::Communicator& world,
                                       const std::filesystem::path& root);

// One particular checkpoint, verified. COLLECTIVE. THROWS DataError, on all ranks.
io::CheckpointReader open_checkpoint(const dist::Communicator& world,
                                     const std::filesystem::path& path);

}  // namespace vax::train
