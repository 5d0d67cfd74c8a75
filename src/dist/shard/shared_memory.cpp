#include "dist/shard/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::dist {
namespace {

// Left for everything else on the node when a block is judged to fit.
constexpr int64_t kReserveBytes = int64_t{256} << 20;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// What identifies the file whatever the path that leads to it.
std::string identity(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? cat(status.st_dev, ":", status.st_ino) : "";
}

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t value_in_file(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnlimited;  // "max", or no such file
}

// The value of `key` in a file of lines "key value ...".
int64_t value_of_key(const char* path, std::string_view key) {
  std::ifstream file(path);
  std::string name, rest;
  for (int64_t value = 0; file >> name >> value; std::getline(file, rest))
    if (name == key) return value;
  return 0;
}

// Bytes that the node, and a memory control group when there is one, still gives. Cached files
// make room when memory is asked for.
int64_t available_bytes() {
  const int64_t available = 1024 * value_of_key("/proc/meminfo", "MemAvailable:");
  const int64_t limit = value_in_file("/sys/fs/cgroup/memory.max");
  if (limit == kUnlimited) return available;
  const char* const stat = "/sys/fs/cgroup/memory.stat";
  return std::min(available, limit - value_in_file("/sys/fs/cgroup/memory.current") +
                                 value_of_key(stat, "inactive_file") +
                                 value_of_key(stat, "active_file"));
}

// The first error of any rank, on every rank.
std::string agreed(const Communicator& node, const std::string& error) {
  const std::vector<std::string> errors = node.all_gather_text(error);
  for (size_t rank = 0; rank < errors.size(); ++rank)
    if (!errors[rank].empty())
      return cat("rank ", rank, "/", errors.size(), " of the node: ", errors[rank]);
  return "";
}

std::string system_error(const char* call) { return cat(call, ": ", std::strerror(errno)); }

// The file of rank 0, open on every rank.
FileDescriptor open_file(const Communicator& node, int64_t num_bytes) {
  FileDescriptor file(-1);
  std::string error, path, made;
  if (node.rank() == 0) {
    file = FileDescriptor(::memfd_create("vaccine", MFD_CLOEXEC));
    if (file.get() < 0)
      error = system_error("memfd_create");
    else if (::ftruncate(file.get(), num_bytes) != 0)
      error = system_error("ftruncate");
    made = identity(file.get());
    path = cat("/proc/", ::getpid(), "/fd/", file.get());
  }
  path = node.broadcast_text(path, 0);
  made = node.broadcast_text(made, 0);
  if (node.rank() != 0) {
    file = FileDescriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (file.get() < 0)
      error = system_error(path.c_str());
    else if (identity(file.get()) != made)
      error = cat(path, " is another file here than on rank 0");
  }
  error = agreed(node, error);
  if (!error.empty())
    throw CommError(cat("shared memory of ", num_bytes, " bytes: ", error,
                        "; the ranks of a node must see each other's processes (one user, one "
                        "container); choose a placement that does not share memory otherwise"));
  return file;
}

// Takes this rank's part of the pages now: when they were taken on the first write, a node without
// memory would answer with a signal in the middle of a step.
std::string commit_part(const Communicator& node, int fd, int64_t num_bytes) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t part = round_up(ceil_div<int64_t>(num_bytes, node.size()), page);
  const int64_t begin = std::min(num_bytes, node.rank() * part);
  const int64_t end = std::min(num_bytes, begin + part);
  if (begin == end) return "";
  int code = 0;
  do {
    code = ::posix_fallocate(fd, begin, end - begin);
  } while (code == EINTR);
  return code == 0 ? "" : cat("fallocate of ", end - begin, " bytes: ", std::strerror(code));
}

// Before any page is taken: a node that runs out of memory ends processes without a message.
void check_memory(const Communicator& node, int64_t num_bytes) {
  const int64_t available = available_bytes();
  const std::string error =
      agreed(node, num_bytes > available - kReserveBytes
                       ? cat(available, " bytes are available, ", kReserveBytes, " are left free")
                       : std::string());
  if (!error.empty())
    throw ConfigError(cat("shared memory of ", num_bytes, " bytes does not fit the node: ", error,
                          "; use more nodes, a smaller type or another placement"));
}

}  // namespace

SharedMemory::SharedMemory(const Communicator& node, int64_t num_bytes)
    : ranks_(node.make_collectives("shared memory")),
      num_bytes_(num_bytes),
      mapped_bytes_(round_up<int64_t>(std::max<int64_t>(num_bytes, 1), ::sysconf(_SC_PAGESIZE))) {
  VAX_CHECK(num_bytes >= 0, "shared memory of ", num_bytes, " bytes");
  check_memory(node, num_bytes);
  const bool alone = node.size() == 1;
  FileDescriptor file = alone ? FileDescriptor(-1) : open_file(node, mapped_bytes_);
  if (!alone) {
    const std::string error = agreed(node, commit_part(node, file.get(), mapped_bytes_));
    if (!error.empty()) throw ConfigError(cat("shared memory of ", num_bytes, " bytes: ", error));
  }
  // Populated: one call instead of a fault per page in the first step.
  const int flags = MAP_POPULATE | (alone ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
  void* const mapping = ::mmap(nullptr, static_cast<size_t>(mapped_bytes_), PROT_READ | PROT_WRITE,
                               flags, file.get(), 0);
  const std::string error = agreed(node, mapping == MAP_FAILED ? system_error("mmap") : "");
  if (mapping != MAP_FAILED) data_ = mapping;
  if (!error.empty()) {
    if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(mapped_bytes_));
    throw ConfigError(cat("shared memory of ", num_bytes, " bytes: ", error));
  }
}

SharedMemory::~SharedMemory() { ::munmap(data_, static_cast<size_t>(mapped_bytes_)); }

void SharedMemory::barrier() { ranks_->barrier(); }

}  // namespace vax::dist
