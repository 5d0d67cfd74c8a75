#include "io_test_support.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>

#include "base/error.h"

namespace vax::io::testing {

namespace fs = std::filesystem;

ScratchDirectory::ScratchDirectory() {
  std::string pattern = (fs::temp_directory_path() / "vax_io_test_XXXXXX").string();
  VAX_CHECK(::mkdtemp(pattern.data()) != nullptr, pattern);
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_text(const fs::path& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  VAX_CHECK(out.good(), path.string());
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  return bytes.append(header).append(data);
}

std::vector<std::string> list_directory(const fs::path& path) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

namespace {

std::string outcome_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const WriteError& e) {
    return std::string("WriteError: ") + e.what();
  } catch (const std::exception& e) {
    return std::string("other error: ") + e.what();
  }
  return "no error";
}

}  // namespace

std::string run_with_file_limit(int64_t num_bytes, const std::function<void()>& body) {
  std::array<int, 2> ends{};
  VAX_CHECK(::pipe(ends.data()) == 0);
  const pid_t child = ::fork();
  VAX_CHECK(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{static_cast<rlim_t>(num_bytes), static_cast<rlim_t>(num_bytes)};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string outcome = outcome_of(body);
    const bool told = ::write(ends[1], outcome.data(), outcome.size()) >= 0;
    ::_exit(told ? 0 : 1);  // no destructors of the parent's objects
  }
  ::close(ends[1]);
  std::string outcome;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(ends[0], buffer.data(), buffer.size())) > 0;)
    outcome.append(buffer.data(), static_cast<size_t>(got));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return outcome;
}

}  // namespace vax::io::testing
