#include "train/resume.h"

#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint_directory.h"

namespace vax::train {
namespace {

namespace fs = std::filesystem;

// Empty when the checkpoint verifies, else why not, the same text on all ranks. COLLECTIVE.
std::string try_checkpoint(const dist::Communicator& world, const fs::path& path,
                           std::optional<io::CheckpointReader>& reader) {
  std::string problem;
  try {
    reader.emplace(io::CheckpointReader::open(path));
    const size_t num_files = reader->manifest().files.size();
    for (auto file = static_cast<size_t>(world.rank()); file < num_files;
         file += static_cast<size_t>(world.size()))
      reader->verify_file(file);
  } catch (const DataError& e) {
    problem = e.what();
  }
  const std::vector<std::string> problems = world.all_gather_text(problem);
  std::string all;
  for (const std::string& text : std::set<std::string>(problems.begin(), problems.end()))
    if (!text.empty()) all += cat(all.empty() ? "" : "; ", text);
  return all;
}

// Rank 0's view: others may see an older state of a network file system. COLLECTIVE.
std::vector<fs::path> candidates(const dist::Communicator& world, const fs::path& root) {
  std::vector<std::string> names;
  if (world.rank() == 0)
    for (const io::CheckpointEntry& entry : io::list_checkpoints(root))
      names.push_back(entry.path.filename().string());
  std::vector<fs::path> paths;
  for (const std::string& name : world.broadcast_value(names, 0)) paths.push_back(root / name);
  return paths;
}

}  // namespace

FoundCheckpoint find_newest_checkpoint(const dist::Communicator& world, const fs::path& root) {
  FoundCheckpoint found;
  for (const fs::path& path : candidates(world, root)) {
    const std::string problem = try_checkpoint(world, path, found.reader);
    if (problem.empty()) return found;
    found.reader.reset();
    found.rejected.push_back({.path = path.string(), .reason = problem});
    if (world.rank() == 0) log::warning(cat("rejected ", path.string(), ": ", problem));
  }
  if (found.rejected.empty()) return found;
  std::string text = cat(root.string(), ": none of its checkpoints can be used");
  for (const io::RejectedCheckpoint& rejected : found.rejected)
    text += cat("\n  ", rejected.path, ": ", rejected.reason);
  throw DataError(text);
}

io::CheckpointReader open_checkpoint(const dist::Communicator& world, const fs::path& path) {
  std::optional<io::CheckpointReader> reader;
  const std::string problem = try_checkpoint(world, path, reader);
  if (!problem.empty()) throw DataError(cat("rejected ", path.string(), ": ", problem));
  return std::move(*reader);
}

}  // namespace vax::train
