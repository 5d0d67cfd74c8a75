// Disks that are full and limits on file sizes, at every point of writing a checkpoint: a
// WriteError that names the path and the bytes, nothing left behind, and a process whose next
// checkpoint succeeds. The full disk is a tmpfs in a mount namespace of a child process; where
// neither root nor a user namespace may mount, only limits are tested, and the output says so.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "base/atomic_file.h"
#include "io/checkpoint_directory.h"
#include "io/checkpoint_reader.h"
#include "io_test_support.h"
#include "sample_checkpoint.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;
using testing::ScratchDirectory;

constexpr int kNoMount = 77;

// Runs `body` in a child process that ends through exit(), so that exit handlers run; the child's
// exit code is kNoMount when `body` says so, 1 when an expectation failed, 0 otherwise.
int run_in_child(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  VAX_CHECK(child >= 0);
  if (child == 0) {
    int code = 1;
    try {
      code = body();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "child: %s\n", e.what());
    }
    std::exit(::testing::Test::HasFailure() ? 1 : code);
  }
  int status = 0;
  VAX_CHECK(::waitpid(child, &status, 0) == child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

void write_proc(const char* path, const std::string& text) { std::ofstream(path) << text; }

// As root of a namespace where the process is not root otherwise.
bool leave_user_namespace() {
  const uid_t user = ::getuid();
  const gid_t group = ::getgid();
  if (::unshare(CLONE_NEWUSER) != 0) return false;
  write_proc("/proc/self/setgroups", "deny");
  write_proc("/proc/self/uid_map", cat("0 ", user, " 1"));
  write_proc("/proc/self/gid_map", cat("0 ", group, " 1"));
  return true;
}

// Only this process sees the mount; it goes when the process ends.
bool mount_small_disk(const fs::path& path, const std::string& options) {
  fs::create_directories(path);
  return (::geteuid() == 0 || leave_user_namespace()) && ::unshare(CLONE_NEWNS) == 0 &&
         ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
}

void set_file_limit(rlim_t num_bytes) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  VAX_CHECK(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  limit.rlim_cur = num_bytes;
  VAX_CHECK(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

std::vector<SliceToWrite> two_slices(const std::vector<std::byte>& data) {
  return {{"/trainable/parameters/a", DType::kF32, data},
          {"/trainable/parameters/b", DType::kF32, data}};
}

// A manifest whose index takes about 10 kB.
CheckpointManifest manifest_for_index() {
  CheckpointManifest manifest = testing::sample_manifest();
  manifest.files = {{"rank-00000.h5", 4096, std::string(64, '0')}};
  for (CheckpointUnit& unit : manifest.units) {
    unit.slice_count = unit.count;
    for (CheckpointArray& array : unit.arrays) array.slices = {{0, 0}};
  }
  return manifest;
}

TEST(CheckpointLimits, EverySizeFailsCleanlyUntilOneSucceeds) {
  EXPECT_EQ(0, run_in_child([] {
              const ScratchDirectory scratch;
              const std::vector<std::byte> data(100000);
              const auto slices = two_slices(data);
              const WrittenFile whole = write_rank_file(scratch / "r.h5", slices, nullptr);
              const std::string expected = read_file(scratch / "r.h5");
              fs::remove(scratch / "r.h5");
              int failures = 0, successes = 0;
              for (rlim_t limit = 0; successes == 0; limit += 7001) {
                set_file_limit(limit);
                try {
                  write_rank_file(scratch / "r.h5", slices, nullptr);
                  ++successes;
                  EXPECT_GE(limit, expected.size());
                } catch (const WriteError& e) {
                  ++failures;
                  EXPECT_NE(std::string(e.what()).find("r.h5: cannot write"), std::string::npos);
                  EXPECT_TRUE(testing::list_directory(scratch.path()).empty());
                }
              }
              EXPECT_GT(failures, 20);
              EXPECT_EQ(read_file(scratch / "r.h5"), expected);
              set_file_limit(RLIM_INFINITY);
              const WrittenFile again = write_rank_file(scratch / "r2.h5", slices, nullptr);
              EXPECT_EQ(again.file.sha256, whole.file.sha256);
              return 0;
            }));
}

TEST(CheckpointLimits, IndexAndManifest) {
  EXPECT_EQ(0, run_in_child([] {
              const ScratchDirectory scratch;
              const CheckpointManifest manifest = manifest_for_index();
              for (const rlim_t limit : {0, 50, 1000}) {
                set_file_limit(limit);
                testing::expect_error<WriteError>([&] { write_index(scratch.path(), manifest); },
                                                  {"index.h5: cannot write"});
                testing::expect_error<WriteError>([&] { write_manifest(scratch.path(), manifest); },
                                                  {"manifest.json: cannot write"});
                EXPECT_TRUE(testing::list_directory(scratch.path()).empty());
              }
              set_file_limit(RLIM_INFINITY);
              testing::write_sample_checkpoint(scratch / "c", 2);
              CheckpointReader::open(scratch / "c").verify_file(2);
              return 0;
            }));
}

TEST(CheckpointLimits, DirectoriesThatCannotBeWritten) {
  testing::expect_error<WriteError>(
      [] { write_rank_file("nowhere/r.h5", two_slices(std::vector<std::byte>(8)), nullptr); },
      {"nowhere/r.h5", "No such file"});
  testing::expect_error<WriteError>([] { write_index("nowhere", manifest_for_index()); },
                                    {"nowhere/index.h5"});
}

// Fills the disk down to `free_bytes`.
void leave_free(const fs::path& disk, uintmax_t free_bytes) {
  fs::remove(disk / "filler");
  const uintmax_t now = fs::space(disk).available;
  std::ofstream(disk / "filler") << std::string(now > free_bytes ? now - free_bytes : 0, 'x');
}

int fill_disk_and_write(const fs::path& disk) {
  if (!mount_small_disk(disk, "size=1m")) return kNoMount;
  const std::vector<std::byte> data(100000);
  const auto slices = two_slices(data);
  const fs::path path = disk / "r.h5";
  int failures = 0;
  for (uintmax_t free_bytes = 0; free_bytes < 200000; free_bytes += 8192) {
    leave_free(disk, free_bytes);
    testing::expect_error<WriteError>([&] { write_rank_file(path, slices, nullptr); },
                                      {"r.h5: cannot write", "bytes free)", "No space left"});
    EXPECT_EQ(testing::list_directory(disk), std::vector<std::string>{"filler"});
    ++failures;
  }
  EXPECT_GT(failures, 20);
  leave_free(disk, 0);
  testing::expect_error<WriteError>([&] { write_index(disk, manifest_for_index()); }, {"index.h5"});
  testing::expect_error<WriteError>([&] { write_manifest(disk, manifest_for_index()); },
                                    {"manifest.json"});
  testing::expect_error<WriteError>([&] { require_free_space(disk, 4096); }, {"4096 bytes needed"});
  leave_free(disk, 900000);
  testing::write_sample_checkpoint(disk / "c", 3);
  CheckpointReader::open(disk / "c").verify_file(0);
  return 0;
}

TEST(CheckpointFullDisk, EveryFillingFailsCleanlyUntilThereIsSpace) {
  const ScratchDirectory scratch;
  const int code = run_in_child([&] { return fill_disk_and_write(scratch / "disk"); });
  if (code == kNoMount)
    std::printf("mounting is not permitted here: only limits on file sizes were tested\n");
  else
    EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace vax::io
