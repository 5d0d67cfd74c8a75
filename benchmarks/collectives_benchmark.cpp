// Time and bus bandwidth of the collectives, of what shared memory does instead on one node, and
// how much of a gather stays exposed beside computing.
//
//   OMP_NUM_THREADS=1 mpirun -n 2 build/benchmarks/collectives_benchmark
//       with [--benchmark_filter=all_gather] [--benchmark_repetitions=5] on the same line
//
// Rank 0 reports. bus_GBps is the bandwidth of nccl-tests, independent of the number of ranks n:
// bytes of the whole buffer / time, times (n-1)/n for all_gather and reduce_scatter, 2(n-1)/n for
// all_reduce, 1 for broadcast; copy_GBps is bytes copied / time. Every rank runs the same number of
// iterations, each behind a barrier; times are rank 0's, bandwidths from the median.
//   copy            memcpy, all ranks at once: what the memory allows
//   node_gather     each rank writes its slice of shared memory; barrier
//   gradients       ShardedGradients: one unit written by nobody, reduced into the shard, over
//                   messages or in shared memory
//   overlap         an all_gather beside computing that takes longer, with and without a progress
//                   thread: exposed_share = (both - computing alone) / gather alone; waited_ms is
//                   what the gather still takes when the computing is over. Times are of "both".
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/stopwatch.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/shard/sharded_units.h"
#include "dist/shard/shared_memory.h"

namespace vax {
namespace {

using dist::Collectives;
using dist::DataType;

constexpr std::array<int64_t, 5> kSizes = {int64_t{64} << 10, int64_t{1} << 20, int64_t{8} << 20,
                                           int64_t{64} << 20, int64_t{256} << 20};  // bytes
constexpr int64_t kOverlapIterations = 40;
constexpr int64_t kBytesPerRun = int64_t{1} << 30;
constexpr int64_t kOverlapBytes = int64_t{64} << 20;

int64_t iterations_for(int64_t num_bytes) {
  return std::clamp<int64_t>(kBytesPerRun / num_bytes, 4, 200);
}

// Fresh pages would be counted otherwise.
std::vector<std::byte> touched(int64_t num_bytes) {
  return std::vector<std::byte>(static_cast<size_t>(num_bytes), std::byte{1});
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Runs `body` behind a barrier in every iteration; the median seconds of one, which neighbours on
// the machine disturb less than the mean that Google Benchmark prints.
double timed(benchmark::State& state, Collectives& group, const std::function<void()>& body) {
  body();  // buffers that are made at the first call, connections
  std::vector<double> all;
  for ([[maybe_unused]] auto unused : state) {
    group.barrier();
    const Stopwatch watch;
    body();
    all.push_back(watch.elapsed_s());
    state.SetIterationTime(all.back());
  }
  return median(std::move(all));
}

void report_bandwidth(benchmark::State& state, const char* name, double bytes, double seconds) {
  state.counters[name] = bytes / seconds * 1e-9;
}

struct Bench {
  const dist::Communicator& world;
  Collectives& group;
  double gather_share() const {
    return static_cast<double>(group.size() - 1) / static_cast<double>(group.size());
  }
};

void bench_copy(benchmark::State& state, const Bench& bench, int64_t num_bytes) {
  const std::vector<std::byte> from = touched(num_bytes);
  std::vector<std::byte> to = touched(num_bytes);
  const double seconds =
      timed(state, bench.group, [&] { std::memcpy(to.data(), from.data(), from.size()); });
  report_bandwidth(state, "copy_GBps", static_cast<double>(num_bytes), seconds);
}

void bench_all_gather(benchmark::State& state, const Bench& bench, int64_t num_bytes,
                      DataType type) {
  std::vector<std::byte> all = touched(num_bytes);
  const int64_t part = num_bytes / bench.group.size() / static_cast<int64_t>(size_of(type));
  std::byte* const own =
      all.data() + bench.group.rank() * part * static_cast<int64_t>(size_of(type));
  const double seconds = timed(state, bench.group,
                               [&] { bench.group.all_gather(own, all.data(), part, type).wait(); });
  report_bandwidth(state, "bus_GBps", bench.gather_share() * static_cast<double>(num_bytes),
                   seconds);
}

void bench_reduce_scatter(benchmark::State& state, const Bench& bench, int64_t num_bytes) {
  std::vector<std::byte> send = touched(num_bytes), recv = touched(num_bytes / bench.group.size());
  const int64_t part = num_bytes / bench.group.size() / 4;
  const double seconds = timed(state, bench.group, [&] {
    bench.group
        .reduce_scatter(send.data(), recv.data(), part, DataType::kFloat32, dist::ReduceOp::kSum)
        .wait();
  });
  report_bandwidth(state, "bus_GBps", bench.gather_share() * static_cast<double>(num_bytes),
                   seconds);
}

void bench_all_reduce(benchmark::State& state, const Bench& bench, int64_t num_bytes) {
  std::vector<float> data(static_cast<size_t>(num_bytes / 4), 1e-30f);
  const double seconds = timed(state, bench.group, [&] {
    bench.group.all_reduce(data.data(), num_bytes / 4, DataType::kFloat32, dist::ReduceOp::kMax)
        .wait();
  });
  report_bandwidth(state, "bus_GBps", 2 * bench.gather_share() * static_cast<double>(num_bytes),
                   seconds);
}

void bench_broadcast(benchmark::State& state, const Bench& bench, int64_t num_bytes,
                     DataType type) {
  std::vector<std::byte> data = touched(num_bytes);
  const int64_t count = num_bytes / static_cast<int64_t>(size_of(type));
  const double seconds =
      timed(state, bench.group, [&] { bench.group.broadcast(data.data(), count, type, 0).wait(); });
  report_bandwidth(state, "bus_GBps", static_cast<double>(num_bytes), seconds);
}

void bench_node_gather(benchmark::State& state, const Bench& bench, int64_t num_bytes) {
  dist::SharedMemory memory(bench.world, num_bytes);
  const int64_t part = num_bytes / bench.group.size();
  const std::vector<std::byte> own = touched(part);
  const double seconds = timed(state, bench.group, [&] {
    std::memcpy(static_cast<std::byte*>(memory.data()) + bench.group.rank() * part, own.data(),
                own.size());
    memory.barrier();
  });
  report_bandwidth(state, "bus_GBps", bench.gather_share() * static_cast<double>(num_bytes),
                   seconds);
}

void bench_gradients(benchmark::State& state, const Bench& bench, int64_t num_bytes, bool shared) {
  FlatLayout layout(1);
  layout[0].add_group(0, {{.name = "weight", .shape = {num_bytes / 4}}});
  dist::ShardedGradients gradients(bench.group, layout, at::kCPU, shared ? &bench.world : nullptr);
  for (int buffer = 0; buffer < dist::kNodeGradientBuffers; ++buffer) {
    gradients.acquire(0).flat.zero_();  // touches the pages
    gradients.release(0);
  }
  gradients.finish();
  const double seconds = timed(state, bench.group, [&] {
    gradients.zero();
    gradients.acquire(0);
    gradients.release(0);
    gradients.finish();
  });
  report_bandwidth(state, "bus_GBps", bench.gather_share() * static_cast<double>(num_bytes),
                   seconds);
}

// Arithmetic on what fits the first-level cache, so that it does not compete for memory.
void compute(int64_t rounds) {
  std::array<float, 2048> values;
  values.fill(1.5f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& value : values) value = value * 0.999f + 0.001f;
    benchmark::DoNotOptimize(values.data());
    benchmark::ClobberMemory();
  }
}

double seconds_of(const std::function<void()>& body) {
  const Stopwatch watch;
  body();
  return watch.elapsed_s();
}

// The three are timed in turn, so that slow phases of the machine meet all of them.
void bench_overlap(benchmark::State& state, dist::Progress progress) {
  const std::unique_ptr<Collectives> group = dist::Communicator::world(progress).make_collectives();
  std::vector<std::byte> all = touched(kOverlapBytes);
  const int64_t part = kOverlapBytes / group->size() / 4;
  const auto gather = [&] {
    return group->all_gather(all.data() + group->rank() * part * 4, all.data(), part,
                             DataType::kFloat32);
  };
  const auto behind_barrier = [&group](const std::function<void()>& body) {
    group->barrier();
    return seconds_of(body);
  };
  double least = 1;  // s
  for (int i = 0; i < 10; ++i) least = std::min(least, behind_barrier([&] { gather().wait(); }));
  // About four times as long as the gather, so that it could hide altogether.
  int64_t rounds = static_cast<int64_t>(4e4 * least / seconds_of([] { compute(10000); }));
  group->all_reduce(&rounds, 1, DataType::kInt64, dist::ReduceOp::kMin).wait();
  std::vector<double> alone, computing, both, waiting;
  for ([[maybe_unused]] auto unused : state) {
    alone.push_back(behind_barrier([&] { gather().wait(); }));
    computing.push_back(behind_barrier([&] { compute(rounds); }));
    both.push_back(behind_barrier([&] {
      dist::Work work = gather();
      compute(rounds);
      waiting.push_back(seconds_of([&] { work.wait(); }));
    }));
    state.SetIterationTime(both.back());
  }
  state.counters["gather_ms"] = median(alone) * 1e3;
  state.counters["compute_ms"] = median(computing) * 1e3;
  state.counters["waited_ms"] = median(waiting) * 1e3;
  state.counters["exposed_share"] = (median(both) - median(computing)) / median(alone);
}

using Body = std::function<void(benchmark::State&, int64_t)>;

void add(const std::string& name, int64_t num_bytes, int64_t iterations, const Body& body) {
  const std::string size =
      num_bytes < (1 << 20) ? cat(num_bytes >> 10, "KiB") : cat(num_bytes >> 20, "MiB");
  benchmark::RegisterBenchmark((name + "/" + size).c_str(),
                               [=](benchmark::State& state) { body(state, num_bytes); })
      ->Iterations(iterations)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

// `bench` outlives the runs.
void add_benchmarks(const Bench& bench, bool one_node) {
  for (const int64_t size : kSizes) {
    const int64_t n = iterations_for(size);
    add("copy", size, n, [&](auto& state, int64_t bytes) { bench_copy(state, bench, bytes); });
    for (const DataType type : {DataType::kFloat32, DataType::kBFloat16}) {
      add(cat("all_gather/", name_of(type)), size, n, [&bench, type](auto& state, int64_t bytes) {
        bench_all_gather(state, bench, bytes, type);
      });
      add(cat("broadcast/", name_of(type)), size, n, [&bench, type](auto& state, int64_t bytes) {
        bench_broadcast(state, bench, bytes, type);
      });
    }
    add("reduce_scatter/float32", size, n,
        [&](auto& state, int64_t bytes) { bench_reduce_scatter(state, bench, bytes); });
    add("all_reduce/float32", size, n,
        [&](auto& state, int64_t bytes) { bench_all_reduce(state, bench, bytes); });
    add("gradients/messages", size, n,
        [&](auto& state, int64_t bytes) { bench_gradients(state, bench, bytes, false); });
    if (!one_node) continue;
    add("gradients/shared_memory", size, n,
        [&](auto& state, int64_t bytes) { bench_gradients(state, bench, bytes, true); });
    add("node_gather", size, n,
        [&](auto& state, int64_t bytes) { bench_node_gather(state, bench, bytes); });
  }
  if (bench.group.size() == 1) return;  // nothing to overlap
  for (const auto progress : {dist::Progress::kPoll, dist::Progress::kThread})
    add(progress == dist::Progress::kPoll ? "overlap/poll" : "overlap/thread", kOverlapBytes,
        kOverlapIterations, [progress](auto& state, int64_t) { bench_overlap(state, progress); });
}

// What the other ranks report with.
class SilentReporter : public benchmark::BenchmarkReporter {
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const dist::Communicator world = dist::Communicator::world();
  const std::unique_ptr<Collectives> group = world.make_collectives();
  const Bench bench{world, *group};
  add_benchmarks(bench, world.split_by_node().size() == world.size());
  SilentReporter silent;
  if (world.rank() == 0)
    benchmark::RunSpecifiedBenchmarks();
  else
    benchmark::RunSpecifiedBenchmarks(&silent);
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace vax

int main(int argc, char** argv) {
  try {
    const vax::dist::Environment environment(&argc, &argv);
    try {
      return vax::run(argc, argv);
    } catch (const std::exception& error) {
      vax::log::error(error.what());
      vax::dist::Environment::abort(1);
    }
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    return 1;
  }
}
