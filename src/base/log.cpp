#include "base/log.h"

#include <unistd.h>

#include <atomic>

namespace vax::log {
namespace {

// The one piece of process-wide state of the library: who speaks. Set once, after MPI_Init.
std::atomic<int> current_rank{0};
std::atomic<int> current_world_size{1};

void write_line(const std::string& level, const std::string& line) {
  const int world_size = current_world_size;
  std::string text = level;
  if (world_size > 1 && !level.empty())
    text = cat("[rank ", current_rank.load(), "/", world_size, "] ", level);
  text += line;
  text += '\n';
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data() + written, text.size() - written);
    if (n <= 0) return;
    written += static_cast<size_t>(n);
  }
}

}  // namespace

void set_rank(int rank, int world_size) {
  current_rank = rank;
  current_world_size = world_size;
}

void info(const std::string& line) {
  if (current_rank == 0) write_line("", line);
}
void warning(const std::string& line) { write_line("warning: ", line); }
void error(const std::string& line) { write_line("error: ", line); }

}  // namespace vax::log
