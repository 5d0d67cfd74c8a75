#include "thread_collectives.h"

#include <cstring>
#include <exception>
#include <thread>

#include "base/error.h"

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

class ThreadCollectives final : public dist::Collectives {
 public:
  ThreadCollectives(Group& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.size; }
  std::string name() const override { return "thread"; }

  dist::Work all_gather(const void* send, void* recv, int64_t count, dist::DataType type,
                        dist::Stream) override {
    const size_t num_bytes = static_cast<size_t>(count) * dist::size_of(type);
    share(send);
    for (size_t rank = 0; rank < group_.buffers.size(); ++rank)
      std::memcpy(static_cast<char*>(recv) + rank * num_bytes, group_.buffers[rank], num_bytes);
    group_.barrier.arrive_and_wait();
    return {};
  }
  dist::Work all_reduce(void* data, int64_t count, dist::DataType type, dist::ReduceOp op,
                        dist::Stream) override {
    if (type == dist::DataType::kFloat64) return reduce_as<double>(data, count, op);
    VAX_CHECK(type == dist::DataType::kInt32);
    return reduce_as<int32_t>(data, count, op);
  }
  void barrier() override { group_.barrier.arrive_and_wait(); }

  dist::Work reduce_scatter(void*, void*, int64_t, dist::DataType, dist::ReduceOp,
                            dist::Stream) override {
    throw std::logic_error("reduce_scatter is not part of these collectives");
  }
  dist::Work broadcast(void*, int64_t, dist::DataType, int, dist::Stream) override {
    throw std::logic_error("broadcast is not part of these collectives");
  }
  dist::CollectiveStatistics statistics() const override { return {}; }

 private:
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
          ThreadCollectives collectives(group, rank);
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
