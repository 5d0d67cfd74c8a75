// Not a test itself: a program whose rank 0 fails while the others wait for it, as main() and a
// careless main() would do it. Its tests (CMakeLists.txt) check that all ranks end, and how.
//   failing_rank caught    the error is caught inside the life of the Environment: exit code 3
//   failing_rank unwound   the exception passes the Environment's destructor: exit code 1
//   failing_rank pending   as unwound, with a collective under way that the others have joined
//   failing_rank shared    as unwound, with a block of shared memory in whose barrier the others
//                          wait, and a progress thread that has something under way
//   failing_rank launch    only starts and ends: 0, or 3 when launcher and MPI disagree
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/shard/shared_memory.h"

namespace {

constexpr int kCommErrorExit = 3;
constexpr int kNoEndExit = 99;  // the Environment let a failed rank go on

void fail_on_rank_0(bool with_pending_work) {
  const std::unique_ptr<vax::dist::Collectives> group =
      vax::dist::Communicator::world().make_collectives();
  int32_t one = 1;
  vax::dist::Work work =
      group->all_reduce(&one, 1, vax::dist::DataType::kInt32, vax::dist::ReduceOp::kSum);
  if (!with_pending_work) work.wait();
  if (group->rank() == 0) throw std::runtime_error("rank 0 fails");
  work.wait();
  group->barrier();
}

void fail_beside_shared_memory() {
  const vax::dist::Communicator world =
      vax::dist::Communicator::world(vax::dist::Progress::kThread);
  vax::dist::SharedMemory memory(world.split_by_node(), 4096);
  const std::unique_ptr<vax::dist::Collectives> group = world.make_collectives();
  int32_t one = 1;
  const vax::dist::Work work =
      group->all_reduce(&one, 1, vax::dist::DataType::kInt32, vax::dist::ReduceOp::kSum);
  if (world.rank() == 0) throw std::runtime_error("rank 0 fails");
  memory.barrier();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  try {
    const vax::dist::Environment environment(&argc, &argv);
    if (mode == "launch") return 0;
    try {
      if (mode == "shared")
        fail_beside_shared_memory();
      else
        fail_on_rank_0(mode == "pending");
    } catch (const std::exception& error) {
      if (mode != "caught") throw;
      vax::log::error(error.what());
      vax::dist::Environment::abort(kCommErrorExit);
    }
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    return dynamic_cast<const vax::CommError*>(&error) ? kCommErrorExit : kNoEndExit;
  }
}
