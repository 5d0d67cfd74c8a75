// Collective operations on raw buffers. One interface, three implementations: self (one rank), MPI
// (host memory), NCCL (device memory). Every operation is COLLECTIVE over the group: every rank
// calls the same operations in the same order with the same counts.
//
// Operations return a Work at once; buffers belong to the operation until wait() has returned.
// A Work's destructor waits: a pending operation is never dropped. MPI makes progress only inside
// calls: overlap needs a progress thread (Progress::kThread) or test() now and then. One thread at
// a time per group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace vax::dist {

enum class DataType { kFloat32, kFloat64, kBFloat16, kInt32, kInt64, kUInt8 };
enum class ReduceOp { kSum, kMax, kMin };

size_t size_of(DataType type);  // bytes of one element
const char* name_of(DataType type);

// Where a device operation is ordered; ignored by host implementations.
struct Stream {
  void* handle = nullptr;  // cudaStream_t
};

// Completion of one operation. Move-only; an empty Work is complete.
class Work {
 public:
  struct State {
    virtual ~State() = default;
    virtual bool test() = 0;  // makes progress; true once complete. THROWS CommError
    virtual void wait() = 0;  // BLOCKS host (MPI) or orders the stream (NCCL). THROWS CommError
  };

  Work() = default;
  explicit Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
  Work(Work&&) noexcept = default;
  Work& operator=(Work&& other);  // waits for what it replaces
  ~Work();                        // waits; an error is logged

  bool test();  // true once complete
  void wait();
  bool pending() const { return state_ != nullptr; }

 private:
  std::unique_ptr<State> state_;
};
static_assert(std::is_nothrow_move_constructible_v<Work>);

// What went through a group since its creation. Bytes are those that this rank's algorithm-free
// lower bound sends: all_gather and reduce_scatter (n-1)/n of the whole buffer, all_reduce twice
// that, broadcast the buffer (nothing in a group of one).
struct CollectiveStatistics {
  int64_t num_calls = 0;
  int64_t num_bytes = 0;
  double blocked_s = 0;  // host time inside wait() and blocking calls: exposed communication
};

class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name() const = 0;  // "self" | "mpi" | "nccl"

  // recv has size() * count elements; rank r's part is [r * count, (r + 1) * count). In place when
  // send == recv + rank() * count.
  virtual Work all_gather(const void* send, void* recv, int64_t count, DataType type,
                          Stream stream = {}) = 0;
  // send has size() * count elements, recv gets this rank's part of the reduction. send and recv
  // must not overlap; send may be overwritten. kFloat32 and kFloat64; NCCL also kBFloat16.
  virtual Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                              Stream stream = {}) = 0;
  // In place. Bit-identical result on every rank. kBFloat16 with NCCL only. Where a decision hangs
  // on NaN, reduce a flag: kMax and kMin may return the largest or smallest other value.
  virtual Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op,
                          Stream stream = {}) = 0;
  virtual Work broadcast(void* data, int64_t count, DataType type, int root,
                         Stream stream = {}) = 0;
  virtual void barrier() = 0;  // BLOCKS host

  virtual CollectiveStatistics statistics() const = 0;
};

// One rank: operations copy or do nothing.
std::unique_ptr<Collectives> make_self_collectives();

}  // namespace vax::dist
