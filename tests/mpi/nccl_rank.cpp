// Not a test itself: a program whose ranks communicate over the stand-in of NCCL and one of which
// is at fault, while a watchdog looks on. tests/fault/nccl_test.py runs it and checks how it ends.
//   nccl_rank MODE DIRECTORY     DIRECTORY: for the records of the ranks
// The rank at fault is the last one. The hosts run ahead of their streams, so that all of them
// have called everything before anything hangs. Modes that end with an alarm (exit code 3):
//   absent    it never calls an all_gather and sleeps; the others wait for their streams at the end
//   first     the same for the first call of a group, which has to connect
//   ahead     the others never wait, but call on
//   compute   its compute stream hangs before what it gives to an all_gather is made
//   released  it sleeps while the others release memory that the group uses
//   staged    as absent, through staging buffers
// Modes that end with an error of the rank at fault (exit code 3):
//   fails     an operation fails on its stream while the host waits for the stream
//   polled    the same, found by the next call
//   init      the communicator cannot be made
// Mode that ends well: late: an operation is joined after the timeout, within the grace time
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/device/device_group.h"
#include "dist/watch/watchdog.h"
#include "standin/nccl/standin.h"
#include "support/compute_stream.h"

namespace {

using vax::dist::Collectives;
using vax::dist::Communicator;
using vax::dist::DataType;
using vax::dist::Transport;
using vax::testing::ComputeStream;

constexpr double kTimeout_s = 1.5, kGrace_s = 1.5;
constexpr int kUsageExit = 99, kCommExit = 3;
constexpr int64_t kCount = 1000;

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}
[[noreturn]] void sleep_for_good() {
  while (true) sleep_s(1);
}

// What every mode has: a group and memory for its operations.
struct Job {
  explicit Job(const Communicator& the_world, Transport transport = Transport::kNccl)
      : world(the_world),
        group(
            make_device_collectives(world, stream.context(), "gather", {.transport = transport})) {
    const int64_t num_bytes = kCount * (world.size() + 1) * 4;
    memory = group->allocate(num_bytes);
    if (!memory) memory = vax::testing::device_memory(num_bytes);
  }
  bool at_fault() const { return world.rank() == world.size() - 1; }
  void gather() {
    float* const data = static_cast<float*>(memory.get());
    group->all_gather(data, data + kCount, kCount, DataType::kFloat32).wait();
  }
  void steps(int num) {
    for (int step = 1; step <= num; ++step) {
      world.calls()->set_place(vax::cat("step ", step));
      gather();
    }
  }
  void synchronize() { vax::dist::synchronize(world, stream.context()); }

  const Communicator& world;
  ComputeStream stream;
  std::unique_ptr<Collectives> group;
  std::shared_ptr<void> memory;
};

void miss_last_step(Job job) {
  job.steps(2);
  job.synchronize();
  if (job.at_fault()) sleep_for_good();
  job.steps(3);
  job.world.calls()->set_place("after the steps");
  job.synchronize();
}

void absent(const Communicator& world) { miss_last_step(Job(world)); }
void staged(const Communicator& world) { miss_last_step(Job(world, Transport::kStaged)); }

void first(const Communicator& world) {
  Job job(world);
  if (job.at_fault()) sleep_for_good();
  job.steps(1);
  job.synchronize();
}

void ahead(const Communicator& world) {
  Job job(world);
  job.steps(2);
  if (job.at_fault()) sleep_for_good();
  job.steps(1000);
}

void compute(const Communicator& world) {
  Job job(world);
  job.steps(2);
  if (job.at_fault()) job.stream.run([] { sleep_for_good(); });
  job.steps(2);
  job.synchronize();
}

void released(const Communicator& world) {
  Job job(world);
  job.steps(1);
  job.synchronize();
  if (job.at_fault()) sleep_for_good();
  job.steps(1);
  job.memory.reset();
}

void fails(const Communicator& world) {
  Job job(world);
  job.steps(2);
  if (job.at_fault()) standin::fail_operation(2, ncclRemoteError);
  job.steps(4);
  job.synchronize();
}

void polled(const Communicator& world) {
  Job job(world);
  job.steps(2);
  if (job.at_fault()) standin::fail_operation(1, ncclSystemError);
  while (true) {
    job.gather();
    sleep_s(0.01);
  }
}

void init(const Communicator& world) {
  if (world.rank() == world.size() - 1) standin::fail_init(ncclSystemError);
  Job job(world);
}

void late(const Communicator& world) {
  Job job(world);
  job.steps(2);
  if (job.at_fault()) sleep_s(kTimeout_s + 0.4 * kGrace_s);
  job.steps(1);
  job.synchronize();
  sleep_s(0.5 * kTimeout_s);  // for the watchdogs to see it
}

const std::map<std::string, std::function<void(const Communicator&)>> kModes = {
    {"absent", absent}, {"first", first},       {"ahead", ahead}, {"compute", compute},
    {"staged", staged}, {"released", released}, {"fails", fails}, {"polled", polled},
    {"init", init},     {"late", late},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || !kModes.contains(argv[1])) return kUsageExit;
  try {
    const vax::dist::Environment environment(&argc, &argv);
    try {
      const Communicator world = Communicator::world();
      vax::dist::Watchdog watchdog(world, {.timeout_s = kTimeout_s, .grace_s = kGrace_s});
      watchdog.set_record_directory(argv[2]);
      kModes.at(argv[1])(world);
    } catch (const vax::CommError& error) {
      vax::log::error(error.what());
      vax::dist::Environment::abort(kCommExit);
    }
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    return 1;
  }
}
