// Collectives of a group of one rank. What another implementation would receive is what is sent, so
// operations copy where the buffers differ and are complete when they return.
#include <cstring>

#include "dist/comm/call_accounting.h"
#include "dist/comm/collectives.h"

namespace vax::dist {
namespace {

class SelfCollectives final : public Collectives {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string name() const override { return "self"; }

  Work all_gather(const void* send, void* recv, int64_t count, DataType type, Stream) override {
    check_count("all_gather", count);
    return copy(send, recv, count, type);
  }
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp,
                      Stream) override {
    check_host_reduce_scatter(count, type);
    return copy(send, recv, count, type);
  }
  Work all_reduce(void*, int64_t count, DataType type, ReduceOp, Stream) override {
    check_host_all_reduce(count, type);
    ++statistics_.num_calls;
    return {};
  }
  Work broadcast(void*, int64_t count, DataType, int root, Stream) override {
    check_broadcast(count, root, 1);
    ++statistics_.num_calls;
    return {};
  }
  void barrier() override { ++statistics_.num_calls; }

  CollectiveStatistics statistics() const override { return statistics_; }

 private:
  Work copy(const void* from, void* to, int64_t count, DataType type) {
    ++statistics_.num_calls;
    if (from != to && count > 0) std::memcpy(to, from, static_cast<size_t>(count) * size_of(type));
    return {};
  }

  CollectiveStatistics statistics_;
};

}  // namespace

std::unique_ptr<Collectives> make_self_collectives() { return std::make_unique<SelfCollectives>(); }

}  // namespace vax::dist
