#include "memory.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace standin {
namespace {

constexpr size_t kReserve = size_t{16} << 30;
constexpr size_t kBlock = 512;   // blocks begin at its multiples
constexpr size_t kBehind = 512;  // bytes behind a block's end that nobody may write
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kUnset = 0xff;

struct Block {
  size_t num_bytes = 0, whole_bytes = 0;
};

// Never destroyed: threads of streams may outlive main().
struct State {
  std::mutex mutex;  // guards what follows
  std::map<uintptr_t, size_t> pages;
  std::map<uintptr_t, Block> blocks;
  std::multimap<size_t, uintptr_t> free_blocks;  // by whole_bytes
  uintptr_t reserve = 0;
  size_t used_bytes = 0, open_bytes = 0;  // of the reserve
  DeviceBytes bytes;
  int num_threads = 0;  // that run device code
  bool is_protected = false;

  bool is_open() const { return !is_protected || num_threads > 0; }
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

thread_local int depth = 0;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void set_access(uintptr_t memory, size_t num_bytes, bool open) {
  if (num_bytes == 0) return;
  if (::mprotect(reinterpret_cast<void*>(memory), num_bytes,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
    die("device memory cannot be protected");
}

// REQUIRES the lock.
void set_access(State& s, bool open) {
  set_access(s.reserve, s.open_bytes, open);
  for (const auto& [begin, num_bytes] : s.pages) set_access(begin, num_bytes, open);
}

bool lies_in(const std::map<uintptr_t, size_t>& stretches, uintptr_t begin, size_t num_bytes) {
  const auto next = stretches.upper_bound(begin);
  if (next == stretches.begin()) return false;
  const auto& [first, length] = *std::prev(next);
  return begin + num_bytes <= first + length;
}

bool lies_in_reserve(const State& s, uintptr_t begin, size_t num_bytes) {
  return begin >= s.reserve && begin + num_bytes <= s.reserve + s.used_bytes;
}

// REQUIRES the lock.
uintptr_t take_block(State& s, size_t whole_bytes) {
  if (const auto found = s.free_blocks.find(whole_bytes); found != s.free_blocks.end()) {
    const uintptr_t begin = found->second;
    s.free_blocks.erase(found);
    return begin;
  }
  if (s.reserve == 0) {
    void* const memory = ::mmap(nullptr, kReserve + kHugePage, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 0;
    s.reserve = round_up(reinterpret_cast<uintptr_t>(memory), kHugePage);
    // Access changes with every operation, page by page. Without huge pages it works, slowly.
    ::madvise(reinterpret_cast<void*>(s.reserve), kReserve, MADV_HUGEPAGE);
  }
  if (s.used_bytes + whole_bytes > kReserve) return 0;
  const uintptr_t begin = s.reserve + s.used_bytes;
  s.used_bytes += whole_bytes;
  if (s.used_bytes > s.open_bytes) {
    const size_t open = round_up(s.used_bytes, kHugePage);
    set_access(s.reserve + s.open_bytes, open - s.open_bytes, s.is_open());
    s.open_bytes = open;
  }
  return begin;
}

// Only calls that a handler may make.
void tell_of_access(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const State& s = state();
  if (address >= s.reserve && address < s.reserve + kReserve) {
    constexpr char kText[] = "stand-in of a device: code of the host touches device memory\n";
    if (::write(STDERR_FILENO, kText, sizeof(kText) - 1) < 0) ::_exit(1);
    void* frames[32];
    ::backtrace_symbols_fd(frames, ::backtrace(frames, 32), STDERR_FILENO);
  }
  ::signal(SIGSEGV, SIG_DFL);  // the access is made again, and ends the process
}

}  // namespace

void die(const std::string& message) {
  std::fprintf(stderr, "stand-in of a device: %s\n", message.c_str());
  std::abort();
}

void add_device_pages(void* memory, size_t num_bytes) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  s.pages[begin] = num_bytes;
  set_access(begin, num_bytes, s.is_open());
}

void remove_device_pages(void* memory) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto found = s.pages.find(reinterpret_cast<uintptr_t>(memory));
  if (found == s.pages.end()) die("pages are removed that are not there");
  set_access(found->first, found->second, true);
  s.pages.erase(found);
}

void* allocate_device(size_t num_bytes) {
  if (num_bytes == 0) return nullptr;
  const DeviceCode device;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const size_t whole_bytes = round_up(num_bytes, kBlock) + kBehind;
  const uintptr_t begin = take_block(s, whole_bytes);
  if (begin == 0) return nullptr;
  s.blocks[begin] = {.num_bytes = num_bytes, .whole_bytes = whole_bytes};
  s.bytes.held += static_cast<int64_t>(num_bytes);
  s.bytes.peak = std::max(s.bytes.peak, s.bytes.held);
  void* const memory = reinterpret_cast<void*>(begin);
  std::memset(memory, kUnset, whole_bytes);
  return memory;
}

void free_device(void* memory) {
  if (memory == nullptr) return;
  const DeviceCode device;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto found = s.blocks.find(reinterpret_cast<uintptr_t>(memory));
  if (found == s.blocks.end()) die("device memory is freed that is not allocated");
  const Block block = found->second;
  const auto* const bytes = static_cast<const unsigned char*>(memory);
  if (std::any_of(bytes + block.num_bytes, bytes + block.whole_bytes,
                  [](unsigned char byte) { return byte != kUnset; }))
    die("somebody has written behind the end of device memory");
  std::memset(memory, kUnset, block.num_bytes);
  s.bytes.held -= static_cast<int64_t>(block.num_bytes);
  s.free_blocks.emplace(block.whole_bytes, found->first);
  s.blocks.erase(found);
}

DeviceBytes device_bytes() {
  const std::lock_guard lock(state().mutex);
  return state().bytes;
}

void reset_peak_device_bytes() {
  const std::lock_guard lock(state().mutex);
  state().bytes.peak = state().bytes.held;
}

bool is_device_memory(const void* memory, size_t num_bytes) {
  const State& s = state();
  const std::lock_guard lock(state().mutex);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  return lies_in_reserve(s, begin, num_bytes) || lies_in(s.pages, begin, num_bytes);
}

void protect_device_memory() {
  void* frame = nullptr;
  ::backtrace(&frame, 1);  // the first call allocates, which a handler must not
  struct sigaction action {};
  action.sa_sigaction = &tell_of_access;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, nullptr);
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.is_protected = true;
  set_access(s, s.is_open());
}

bool is_device_memory_protected() {
  const std::lock_guard lock(state().mutex);
  return state().is_protected;
}

DeviceCode::DeviceCode() {
  if (depth++ > 0) return;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.num_threads++ == 0 && s.is_protected) set_access(s, true);
}

DeviceCode::~DeviceCode() {
  if (--depth > 0) return;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (--s.num_threads == 0 && s.is_protected) set_access(s, false);
}

}  // namespace standin
