// The scheduler. Workers are fibers that run threads one after another until one of them waits;
// then the next worker takes the threads that have not begun, or a thread that need not wait any
// more goes on. One host thread runs all of a launch, so nothing here is locked.
#include "emulation.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "memory.h"
#include "stream.h"

namespace vax::emulation {

constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

namespace ctx = boost::context;

constexpr unsigned kWarp = 32;
constexpr uint64_t kMostBlocks = (uint64_t{1} << 31) - 1;  // of grid.x
constexpr unsigned kMostThreads = 1024, kMostInOtherDims = 65535;

Order order_from_environment() {
  const char* value = std::getenv("VAX_EMULATION_ORDER");
  const std::string name = value == nullptr ? "forward" : value;
  if (name == "backward") return Order::kBackward;
  if (name == "random") return Order::kRandom;
  VAX_CHECK(name == "forward", "VAX_EMULATION_ORDER is '", name,
            "', expected forward, backward or random");
  return Order::kForward;
}

Order& current_order() {
  static Order order = order_from_environment();
  return order;
}

// Puts what stands in ascending order into the order that was chosen.
template <typename T>
void arrange(std::vector<T>& values, std::mt19937& random) {
  if (current_order() == Order::kBackward) std::reverse(values.begin(), values.end());
  if (current_order() == Order::kRandom) std::shuffle(values.begin(), values.end(), random);
}

// Stacks with a guard page, kept for later blocks: making one takes system calls.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() {
    for (ctx::stack_context& stack : free_) source_.deallocate(stack);
  }
  ctx::stack_context take() {
    if (free_.empty()) return source_.allocate();
    const ctx::stack_context stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void give_back(const ctx::stack_context& stack) { free_.push_back(stack); }

 private:
  static constexpr size_t kStackBytes = size_t{128} << 10;
  ctx::protected_fixedsize_stack source_{kStackBytes};
  std::vector<ctx::stack_context> free_;
};

struct StackAllocator {
  Stacks* stacks;
  ctx::stack_context allocate() { return stacks->take(); }
  void deallocate(ctx::stack_context& stack) { stacks->give_back(stack); }
};

struct Worker {
  ctx::fiber fiber;      // where it stands while it waits
  ctx::fiber scheduler;  // where to go when it has to wait
  unsigned thread = 0;
};

// The threads of one warp that wait, and the values that they brought. Two sets of values: a thread
// may bring its next value before others have read the last ones.
struct Warp {
  std::vector<Worker*> waiting;
  uint64_t values[2][kWarp] = {};
  unsigned turn[kWarp] = {};
};

class Block {
 public:
  Block(const std::function<void()>& thread, unsigned num_threads, Stacks& stacks,
        std::mt19937& random)
      : thread_(thread), random_(random), stacks_(stacks), warps_(num_threads / kWarp) {
    order_.resize(num_threads);
    std::iota(order_.begin(), order_.end(), 0u);
    arrange(order_, random_);
  }

  void run() {
    for (;;) {
      const bool may_start = next_ < order_.size();
      if (!ready_.empty() && !(may_start && toss())) {
        current_ = ready_.front();
        ready_.pop_front();
        current_->fiber = std::move(current_->fiber).resume();
      } else if (may_start) {
        start_worker();
      } else {
        break;
      }
      if (error_) std::rethrow_exception(error_);
    }
    VAX_CHECK(num_ended_ == order_.size(), order_.size() - num_ended_, " of ", order_.size(),
              " threads of a block wait for others that have ended");
  }

  void wait_for_block() {
    waiting_.push_back(current_);
    if (waiting_.size() == order_.size()) release(waiting_);
    suspend();
  }

  const uint64_t* wait_for_warp(uint64_t value) {
    Warp& warp = warps_[current_->thread / kWarp];
    const unsigned lane = current_->thread % kWarp;
    uint64_t* values = warp.values[warp.turn[lane]++ % 2];
    values[lane] = value;
    warp.waiting.push_back(current_);
    if (warp.waiting.size() == kWarp) release(warp.waiting);
    suspend();
    return values;
  }

  void fill_shared(void* memory, size_t num_bytes) {
    if (is_shared(memory)) return;
    shared_.emplace_back(static_cast<std::byte*>(memory), num_bytes);
    std::memset(memory, 0xff, num_bytes);
  }

  bool is_shared(const void* address) const {
    const std::less_equal<> ordered;
    const auto* const at = static_cast<const std::byte*>(address);
    return std::any_of(shared_.begin(), shared_.end(), [&](std::span<const std::byte> one) {
      return ordered(one.data(), at) && !ordered(one.data() + one.size(), at);
    });
  }

 private:
  bool toss() { return current_order() == Order::kRandom && (random_() & 1) != 0; }

  void start_worker() {
    Worker* worker = workers_.emplace_back(std::make_unique<Worker>()).get();
    current_ = worker;
    worker->fiber = ctx::fiber(std::allocator_arg, StackAllocator{&stacks_},
                               [this, worker](ctx::fiber&& scheduler) {
                                 worker->scheduler = std::move(scheduler);
                                 while (next_ < order_.size()) {
                                   worker->thread = order_[next_++];
                                   set_thread(worker->thread);
                                   if (!run_thread()) break;
                                 }
                                 return std::move(worker->scheduler);
                               });
    worker->fiber = std::move(worker->fiber).resume();
  }

  // Returns false after an error. Not every exception is one: fibers are ended by another kind.
  bool run_thread() {
    try {
      thread_();
      ++num_ended_;
      return true;
    } catch (const std::exception&) {
      error_ = std::current_exception();
      return false;
    }
  }

  void suspend() {
    Worker* const self = current_;
    self->scheduler = std::move(self->scheduler).resume();
    set_thread(self->thread);
  }

  void release(std::vector<Worker*>& waiting) {
    std::sort(waiting.begin(), waiting.end(),
              [](const Worker* a, const Worker* b) { return a->thread < b->thread; });
    arrange(waiting, random_);
    // At the front: a warp runs ahead of the others as far as it may.
    ready_.insert(toss() ? ready_.end() : ready_.begin(), waiting.begin(), waiting.end());
    waiting.clear();
  }

  static void set_thread(unsigned thread) {
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                 thread / (blockDim.x * blockDim.y)};
  }

  const std::function<void()>& thread_;
  std::mt19937& random_;
  Stacks& stacks_;
  std::vector<unsigned> order_;  // in which threads begin
  size_t next_ = 0, num_ended_ = 0;
  std::vector<Warp> warps_;
  std::vector<Worker*> waiting_;
  std::deque<Worker*> ready_;
  std::vector<std::span<std::byte>> shared_;  // filled
  Worker* current_ = nullptr;
  std::exception_ptr error_;
  std::vector<std::unique_ptr<Worker>> workers_;  // first to go: their stacks refer to the rest
};

thread_local Block* running = nullptr;

struct Running {
  explicit Running(Block& block) { running = &block; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() { running = nullptr; }
};

void check_sizes(dim3 grid, dim3 block) {
  VAX_CHECK(grid.x <= kMostBlocks && grid.y <= kMostInOtherDims && grid.z <= kMostInOtherDims,
            "a grid of ", grid.x, " x ", grid.y, " x ", grid.z, " blocks");
  const uint64_t num_threads = uint64_t{block.x} * block.y * block.z;
  VAX_CHECK(num_threads <= kMostThreads && num_threads % kWarp == 0 && block.x % kWarp == 0,
            "a block of ", block.x, " x ", block.y, " x ", block.z, " threads");
}

void run_blocks(dim3 grid, dim3 block, const std::function<void()>& thread) {
  static thread_local Stacks stacks;
  static thread_local std::mt19937 random(1);
  gridDim = grid;
  blockDim = block;
  std::vector<unsigned> xs(grid.x);
  std::iota(xs.begin(), xs.end(), 0u);
  arrange(xs, random);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (const unsigned x : xs) {
        blockIdx = {x, y, z};
        Block one(thread, block.x * block.y * block.z, stacks, random);
        const Running scope(one);
        one.run();
      }
    }
  }
}

uint64_t top_of(const void* address) { return reinterpret_cast<uintptr_t>(address) >> 40; }

// The upper bits of addresses of this process: of the program, of small and large blocks, of the
// stack. Two small numbers side by side seldom look like that.
std::set<uint64_t> find_tops() {
  static const int in_program = 0;
  const int on_stack = 0;
  const std::vector<char> small(16), large(size_t{1} << 24);
  std::set<uint64_t> tops = {top_of(&in_program), top_of(&on_stack), top_of(small.data()),
                             top_of(large.data())};
  tops.erase(0);  // where every number lies, and programs at fixed addresses
  return tops;
}

}  // namespace

void set_order(Order order) { current_order() = order; }

void run(dim3 grid, dim3 block, std::function<void()> thread) {
  check_sizes(grid, block);
  VAX_CHECK(running == nullptr, "a kernel launches a kernel");
  standin::submit([=, thread = std::move(thread)] { run_blocks(grid, block, thread); });
}

void check_argument(const void* argument, size_t num_bytes) {
  if (!standin::is_device_memory_protected()) return;
  static const std::set<uint64_t> tops = find_tops();
  for (size_t at = 0; at + sizeof(uint64_t) <= num_bytes; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(argument) + at, sizeof(word));
    const auto* const address = reinterpret_cast<const void*>(word);
    if (!tops.contains(top_of(address))) continue;
    VAX_CHECK(standin::is_device_memory(address, 0), "a kernel is given ", address,
              ", which is not device memory");
  }
}

void sync_block() { running->wait_for_block(); }
const uint64_t* exchange(uint64_t value) { return running->wait_for_warp(value); }
void fill_shared(void* memory, size_t num_bytes) { running->fill_shared(memory, num_bytes); }
void check_global(const void* address) {
  VAX_CHECK(!running->is_shared(address), address,
            " is shared memory, written by an instruction for global memory");
}
void check_aligned(const void* address, size_t num_bytes) {
  VAX_CHECK(reinterpret_cast<uintptr_t>(address) % num_bytes == 0, address,
            " is no place for an access of ", num_bytes, " bytes");
}

}  // namespace vax::emulation
