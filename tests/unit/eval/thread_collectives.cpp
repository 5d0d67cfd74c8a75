#include "thread_collectives.h"

#include <cstring>
#include <exception>
#include <thread>

#include "base/error.h"
#include "dist/comm/backend.h"

namespace vax::eval::testing {
namespace {

// What the ranks of a group share. A rank publishes its buffer, all wait, each reads the others',
// all wait again before any buffer may change.
struct Group {
  explicit Group(int group_size) : size(group_size), buffers(group_size), barrier(group_size) {}

  int size;
  std::vector<const void*> buffers;
  std::barrier<> barrier;
};

template <typename T>
void reduce(const std::vector<const void*>& buffers, dist::ReduceOp op, std::vector<T>& result) {
  for (size_t rank = 0; rank < buffers.size(); ++rank)
    for (size_t i = 0; i < result.size(); ++i) {
      const T value = static_cast<const T*>(buffers[rank])[i];
      if (rank == 0)
        result[i] = value;
      else
        result[i] = op == dist::ReduceOp::kSum ? result[i] + value : std::max(result[i], value);
    }
}

class ThreadBackend final : public dist::Backend {
 public:
  ThreadBackend(Group& group, int rank) : group_(group), rank_(rank) {}

  dist::GroupTraits traits() const override {
    return {.name = "thread", .rank = rank_, .size = group_.size};
  }
  dist::Work start(dist::Operation operation) override {
    using Kind = dist::Operation::Kind;
    if (operation.kind == Kind::kAllGather) return all_gather(operation);
    if (operation.kind == Kind::kAllReduce) return all_reduce(operation);
    throw std::logic_error("only all_gather and all_reduce are part of these collectives");
  }
  void barrier(dist::Call) override { group_.barrier.arrive_and_wait(); }

 private:
  dist::Work all_gather(const dist::Operation& operation) {
    const size_t num_bytes = static_cast<size_t>(operation.count) * dist::size_of(operation.type);
    share(operation.send);
    for (size_t rank = 0; rank < group_.buffers.size(); ++rank)
      std::memcpy(static_cast<char*>(operation.recv) + rank * num_bytes, group_.buffers[rank],
                  num_bytes);
    group_.barrier.arrive_and_wait();
    return {};
  }
  dist::Work all_reduce(const dist::Operation& operation) {
    if (operation.type == dist::DataType::kFloat64)
      return reduce_as<double>(operation.recv, operation.count, operation.op);
    VAX_CHECK(operation.type == dist::DataType::kInt32);
    return reduce_as<int32_t>(operation.recv, operation.count, operation.op);
  }
  void share(const void* buffer) {
    group_.buffers[static_cast<size_t>(rank_)] = buffer;
    group_.barrier.arrive_and_wait();
  }
  template <typename T>
  dist::Work reduce_as(void* data, int64_t count, dist::ReduceOp op) {
    std::vector<T> result(static_cast<size_t>(count));
    share(data);
    reduce(group_.buffers, op, result);
    group_.barrier.arrive_and_wait();
    std::memcpy(data, result.data(), result.size() * sizeof(T));
    return {};
  }

  Group& group_;
  int rank_;
};

}  // namespace

void run_ranks(int size, const std::function<void(dist::Collectives&)>& body) {
  Group group(size);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] {
        try {
          dist::Collectives collectives(std::make_unique<ThreadBackend>(group, rank), nullptr);
          body(collectives);
        } catch (...) {
          errors[static_cast<size_t>(rank)] = std::current_exception();
        }
      });
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace vax::eval::testing
