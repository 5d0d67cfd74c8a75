#include "app/resuming.h"

#include <map>

#include "app/config_difference.h"
#include "app/resolved_config.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint_directory.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/resume.h"
#include "train/stop_requests.h"

namespace vax::app {
namespace {

namespace fs = std::filesystem;

std::string shown(const std::string& value) { return value.empty() ? "nothing" : value; }

std::vector<std::string> check_settings(const OptionTable& table,
                                        const io::CheckpointManifest& manifest,
                                        const Options& options) {
  const std::string now = to_ini(table, options);
  // "# vaccine align"
  const auto subcommand = [](const std::string& text) { return text.substr(0, text.find('\n')); };
  if (subcommand(manifest.config) != subcommand(now))
    throw ConfigError(cat("the checkpoint's configuration begins with '",
                          subcommand(manifest.config), "', this run's with '", subcommand(now),
                          "'"));
  std::vector<std::string> warnings;
  for (const ConfigDifference& found : config_differences(table, manifest.config, now)) {
    const std::string text = cat(found.name, ": the checkpoint's run had ", shown(found.before),
                                 ", this one has ", shown(found.now));
    if (found.is_fixed)
      throw ConfigError(cat(text,
                            ": a run cannot change it. Give the same value, or start anew in "
                            "another output.dir"));
    warnings.push_back(text + "; going on with the new value");
  }
  return warnings;
}

void check_data(const io::CheckpointManifest& manifest, const data::Dataset& dataset) {
  std::map<std::string, std::string> before;
  for (const io::DataFileRecord& file : manifest.data) before[file.role] = file.sha256;
  for (const data::DataSource& source : dataset.sources) {
    const std::string& then = before[source.role];
    if (then == source.sha256) continue;
    throw ConfigError(cat(source.path, " (", source.role,
                          "): expected the file that the checkpoint's run read, with SHA-256 ",
                          shown(then), ", found ", source.sha256));
  }
}

bool lies_in(const fs::path& checkpoint, const fs::path& root) {
  std::error_code ignored;
  const fs::path path = checkpoint.has_filename() ? checkpoint : checkpoint.parent_path();
  return fs::equivalent(fs::absolute(path).parent_path(), root, ignored);
}

// A new log beside old checkpoints would make the next resume go on from another run.
void check_no_checkpoints(const Options& options) {
  const fs::path root = checkpoint_root(options);
  const std::vector<io::CheckpointEntry> present = io::list_checkpoints(root);
  if (present.empty() || options.get<OutputOptions>().overwrite) return;
  throw ConfigError(cat("output.dir: ", root.string(), " holds ", present.size(),
                        " checkpoints of an earlier run, the newest ",
                        present.front().path.filename().string(),
                        ": go on from it with --checkpoint.resume auto, choose another output.dir, "
                        "or remove them"));
}

// A run that begins anew would replace the result, and at once the log, of one that has come to its
// end.
void check_no_result(const Options& options) {
  const fs::path directory = options.get<OutputOptions>().dir;
  std::error_code ignored;  // then it is not there
  for (const char* name : {"adapter", "model"}) {
    const fs::path result = directory / name;
    const fs::file_status found = fs::status(result, ignored);
    if (!fs::exists(found) || (fs::is_directory(found) && options.get<OutputOptions>().overwrite))
      continue;
    // One of the other kind is a run's beside its log; else the base model may lie there.
    const bool is_of_this_kind = (options.get<AdapterOptions>().type == AdapterType::kLora) ==
                                 (result.filename() == "adapter");
    if (!is_of_this_kind && !fs::exists(directory / "run.jsonl", ignored)) continue;
    throw ConfigError(cat("output.dir = ", options.get<OutputOptions>().dir,
                          ": expected no finished run, found ", result.string(),
                          ": choose another output.dir, or replace the run by --output.overwrite "
                          "true"));
  }
}

// config.cfg is a likely name for a user's own file.
void check_own_config(const Options& options) {
  const fs::path path = fs::path(options.get<OutputOptions>().dir) / "config.cfg";
  std::error_code ignored;
  if (!fs::exists(path, ignored) || read_file(path).starts_with("# vaccine ")) return;
  throw ConfigError(cat("output.dir = ", options.get<OutputOptions>().dir,
                        ": expected no config.cfg but a run's, found ", path.string(),
                        ", which would be lost: choose another output.dir, or move it"));
}

}  // namespace

fs::path checkpoint_root(const Options& options) {
  return fs::path(options.get<OutputOptions>().dir) / "checkpoints";
}

ResumePoint choose_resume_point(const Session& session) {
  const Options& options = session.options;
  const std::string& resume = options.get<CheckpointOptions>().resume;
  const fs::path root = checkpoint_root(options);
  ResumePoint point;
  if (resume != "none" && resume != "auto") point.is_foreign = !lies_in(resume, root);
  together(session.world, [&] {
    check_own_config(options);
    if (resume != "none" && !point.is_foreign) return;
    check_no_checkpoints(options);
    check_no_result(options);
  });
  try {
    if (resume == "auto") {
      train::FoundCheckpoint found = train::find_newest_checkpoint(session.world, root);
      point.checkpoint = std::move(found.reader);
      point.rejected = std::move(found.rejected);
    } else if (resume != "none") {
      point.checkpoint = train::open_checkpoint(session.world, resume);
    }
  } catch (const DataError& e) {
    throw AgreedError(cat("checkpoint.resume = ", resume, ": ", e.what()), kBadInput);
  }
  together(session.world, [&] {
    if (!point.checkpoint) check_no_result(options);
  });
  return point;
}

std::vector<std::string> check_same_run(const OptionTable& table,
                                        const io::CheckpointManifest& manifest,
                                        const Options& options, const data::Dataset& dataset) {
  check_data(manifest, dataset);
  return check_settings(table, manifest, options);
}

void clear_way(const ResumePoint& point, const Options& options) {
  const fs::path root = checkpoint_root(options);
  io::remove_unfinished(root);
  remove_temporaries(options.get<OutputOptions>().dir);
  if (train::RequestFiles(options.get<OutputOptions>().dir).forget())
    log::info("removed an earlier request to stop or save from output.dir");
  for (const io::RejectedCheckpoint& rejected : point.rejected)
    log::warning(cat("moved to ", io::set_aside(rejected.path, "rejected").string()));
  for (const io::CheckpointEntry& entry : io::list_checkpoints(root))
    if (entry.step > point.steps_done())
      log::warning(cat("moved to ", io::set_aside(entry.path, "superseded").string(),
                       ": the run goes on from step ", point.steps_done()));
  if (point.is_foreign) fs::remove(fs::path(options.get<OutputOptions>().dir) / "run.jsonl");
}

}  // namespace vax::app
