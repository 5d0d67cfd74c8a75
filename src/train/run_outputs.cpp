#include "train/run_outputs.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"

namespace vax::train {
namespace {

// run.h5 may lag behind run.jsonl by this much.
constexpr double kFlushInterval_s = 30;

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

std::filesystem::path created(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    throw DataError(cat("output.dir: cannot create ", directory.string(), ": ", error.message()));
  return directory;
}

}  // namespace

RunOutputs::RunOutputs(const std::filesystem::path& directory, const std::string& config_text,
                       const io::StartRecord& start, int64_t log_interval)
    : log_(created(directory) / "run.jsonl"),
      file_(directory / "run.h5", {.config = config_text, .program_version = start.version}),
      log_interval_(log_interval),
      is_terminal_(::isatty(STDERR_FILENO) == 1) {
  publish_text(directory / "config.cfg", config_text);
  log_.write(start);
}

void RunOutputs::step(const io::StepRecord& record, int64_t num_steps) {
  log_.write(record);
  file_.append(record);
  if (since_flush_.elapsed_s() > kFlushInterval_s) {
    file_.flush();
    since_flush_.restart();
  }
  smoothed_step_s_ =
      smoothed_step_s_ == 0 ? record.step_s : 0.9 * smoothed_step_s_ + 0.1 * record.step_s;
  if (record.step % log_interval_ == 0 || record.step == num_steps)
    show_progress(record, num_steps);
}

void RunOutputs::show_progress(const io::StepRecord& record, int64_t num_steps) {
  std::string line = format("step %ld/%ld  loss %.4f", static_cast<long>(record.step),
                            static_cast<long>(num_steps), record.loss);
  if (record.hidden_grad_norm)
    line += format("  clean %.4f  |G| %.2e", record.clean_loss, *record.hidden_grad_norm);
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

void RunOutputs::drift(const io::DriftRecord& record) {
  log_.write(record);
  file_.append(record);
}

void RunOutputs::memory(const io::MemoryRecord& record) {
  log_.write(record);
  file_.append(record);
}

void RunOutputs::end(const std::string& status, int64_t steps) {
  log_.write(io::EndRecord{.status = status, .steps = steps, .seconds = watch_.elapsed_s()});
  file_.close();
}

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
