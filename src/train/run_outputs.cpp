#include "train/run_outputs.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "io/run_rebuild.h"

namespace vax::train {
namespace {

// run.h5 lags behind run.jsonl by this much. A long run's is large, and each time it is written as
// a whole: the interval then grows so that training loses no more than this share of the time to
// it.
constexpr double kUpdateInterval_s = 30;
constexpr double kUpdateShare = 0.01;

std::string format(const char* pattern, auto... values) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, pattern, values...);
  return buffer;
}

std::string duration_text(double seconds) {
  const auto s = static_cast<long>(seconds);
  if (s < 60) return format("%lds", s);
  if (s < 3600) return format("%ldm%02lds", s / 60, s % 60);
  return format("%ldh%02ldm", s / 3600, s / 60 % 60);
}

void create(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    throw DataError(cat("output.dir: cannot create ", directory.string(), ": ", error.message()));
}

io::RunLog new_log(const RunDescription& run) {
  create(run.directory);
  io::RunLog log(run.directory / "run.jsonl", run.figures);
  std::error_code ignored;  // what stands in the way is reported when the file is written
  std::filesystem::remove(run.directory / "run.h5", ignored);  // of another run
  io::StartRecord start = run.start;
  start.config_text = run.config_text;
  log.write(start);
  return log;
}

io::RunLog open_log(const RunDescription& run) {
  if (!run.resume) return new_log(run);
  std::optional<io::RunLog> old =
      io::RunLog::reopen(run.directory / "run.jsonl", run.figures, run.resume->step);
  io::RunLog log = old ? std::move(*old) : new_log(run);
  io::ResumeRecord resume = *run.resume;
  resume.config_text = run.config_text;
  log.write(resume);
  return log;
}

}  // namespace

RunOutputs::RunOutputs(const RunDescription& run)
    : directory_(run.directory),
      figures_(run.figures),
      log_(open_log(run)),
      file_(io::replay_run_log(directory_ / "run.jsonl", figures_, directory_ / "run.h5")),
      log_interval_(run.log_interval),
      is_terminal_(::isatty(STDERR_FILENO) == 1) {
  publish_text(directory_ / "config.cfg", run.config_text);
  update_file();
}

RunOutputs::~RunOutputs() {
  try {
    if (!is_file_up_to_date_) update_file();
  } catch (const std::exception& e) {
    log::error(e.what());
  }
}

// A failure leaves run.h5 as it was and costs a warning, one until it works again.
void RunOutputs::update_file() {
  const Stopwatch watch;
  try {
    file_.flush();
    is_file_up_to_date_ = true;
    is_file_in_trouble_ = false;
  } catch (const std::runtime_error& e) {
    if (!std::exchange(is_file_in_trouble_, true))
      log::warning(cat(e.what(), "; run.jsonl has everything, and `vaccine rebuild --output.dir ",
                       directory_.string(), "` makes run.h5 of it"));
  }
  update_s_ = watch.elapsed_s();
  since_update_.restart();
}

template <typename Record>
void RunOutputs::add(const Record& record) {
  log_.write(record);
  file_.append(record);
  is_file_up_to_date_ = false;
}

void RunOutputs::step(const io::StepRecord& record, int64_t num_steps) {
  add(record);
  if (since_update_.elapsed_s() > std::max(kUpdateInterval_s, update_s_ / kUpdateShare))
    update_file();
  smoothed_step_s_ =
      smoothed_step_s_ == 0 ? record.step_s : 0.9 * smoothed_step_s_ + 0.1 * record.step_s;
  if (record.step % log_interval_ == 0 || record.step == num_steps)
    show_progress(record, num_steps);
}

std::string RunOutputs::figures_text(const io::StepRecord& record) const {
  std::string text;
  size_t next = 0;
  for (const io::Figure& figure : figures_) {
    if (figure.kind != io::Figure::Kind::kNumber) continue;
    const std::optional<double>& value = record.figures[next++];
    if (value && !figure.label.empty()) text += format("  %s %.2e", figure.label.c_str(), *value);
  }
  return text;
}

void RunOutputs::show_progress(const io::StepRecord& record, int64_t num_steps) {
  std::string line = format("step %ld/%ld  loss %.4f", static_cast<long>(record.step),
                            static_cast<long>(num_steps), record.loss);
  if (const std::string figures = figures_text(record); !figures.empty())
    line += format("  clean %.4f", record.clean_loss) + figures;
  line += format("  lr %.2e  %.0f tokens/s  comm %.0f%%  %.2f GiB", record.lr,
                 static_cast<double>(record.tokens) / record.step_s,
                 100 * record.comm_s / record.step_s,
                 static_cast<double>(record.memory_bytes) / (1 << 30));
  line += "  " + duration_text(smoothed_step_s_ * static_cast<double>(num_steps - record.step)) +
          " left";
  if (!is_terminal_) {
    log::info(line);
    return;
  }
  std::fprintf(stderr, "\r\033[K%s%s", line.c_str(), record.step == num_steps ? "\n" : "");
  std::fflush(stderr);
}

void RunOutputs::drift(const io::DriftRecord& record) { add(record); }

void RunOutputs::memory(const io::MemoryRecord& record) { add(record); }

void RunOutputs::checkpoint(const io::CheckpointRecord& record) { log_.write(record); }

void RunOutputs::end(const std::string& status, int64_t steps) {
  log_.write(io::EndRecord{.status = status, .steps = steps, .seconds = watch_.elapsed_s()});
  update_file();
}

void RunOutputs::sync() { log_.sync(); }

// getrusage() would also count what the process was before exec: the launcher's memory.
int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key; std::getline(status, key))
    if (int64_t kibibytes = 0; key == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace vax::train
