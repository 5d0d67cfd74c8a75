// One rank of a communicator of the stand-in, and how collectives are done. The ranks of a
// communicator share one block of memory, made by the rank that makes the unique id and found
// through its file descriptor in /proc: nothing is left behind by jobs that are killed. A
// collective is done in rounds: every rank copies a stretch of its data into its part of the block,
// all meet, every rank takes what it needs, all meet again. Sums are made in the order of the
// ranks.
#pragma once

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>

namespace standin {

constexpr int kMaxRanks = 8;
constexpr size_t kStretchBytes = 64 * 1024;
constexpr std::chrono::microseconds kLook{20};
enum class Kind { kAllGather, kReduceScatter, kAllReduce, kBroadcast };

struct Operation {
  Kind kind;
  const void* send;
  void* recv;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op;
  int root;
};

// In the ranks' common memory; it begins as zeros.
struct Block {
  std::atomic<int> arrived, round;
  struct Rank {
    Kind kind;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    alignas(64) std::byte data[kStretchBytes];
  } ranks[kMaxRanks];
};

// One rank of a communicator; shared by its handle and by what is under way.
class Member {
 public:
  Member(int the_rank, int the_size) : rank_(the_rank), size_(the_size) {}
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  ~Member();

  void init(const std::string& path);
  void run(const Operation& operation, ncclResult_t failure);
  bool meet();  // false: aborted
  void fail(ncclResult_t result) {
    ncclResult_t none = ncclSuccess;
    if (!error_.compare_exchange_strong(none, result)) return;
  }
  // The kernel of a collective that does not come to its end.
  void spin_until_aborted() const;
  ncclResult_t state() const {
    const ncclResult_t error = error_;
    return error != ncclSuccess ? error : in_progress ? ncclInProgress : ncclSuccess;
  }

  std::atomic<bool> in_progress = true, aborted = false, has_run = false, finalized = false;
  std::atomic<int> under_way = 0;  // on streams

 private:
  // Elements of each rank's part that are exchanged at once.
  struct Stretch {
    size_t count, num_bytes, offset_bytes, part_bytes;
  };
  void exchange(const Operation& operation);
  void send(const Operation& operation, const Stretch& stretch);
  void receive(const Operation& operation, const Stretch& stretch);
  size_t num_sent(const Operation& operation) const;
  std::byte* data(int rank) const { return block_->ranks[rank].data; }
  bool is_same_everywhere(const Operation& operation);

  const int rank_, size_;
  Block* block_ = nullptr;
  std::atomic<ncclResult_t> error_ = ncclSuccess;
};

}  // namespace standin
