#include "dist/comm/communicator.h"

#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "dist/comm/device_registry.h"
#include "dist/comm/message_channel.h"
#include "dist/comm/mpi_backend.h"
#include "dist/comm/mpi_handle.h"

namespace vax::dist {

// What one process has once for all communicators that come from one world, for as long as
// anything uses it.
struct Communicator::Process {
  std::shared_ptr<CallLog> calls;
  std::shared_ptr<DeviceRegistry> devices;
  std::shared_ptr<ProgressThread> progress;  // null with Progress::kPoll, or with one rank
};

struct Communicator::Handle {
  Handle(MpiCommunicator communicator, Process the_process, const std::string& purpose)
      : comm(std::move(communicator)),
        process(std::move(the_process)),
        group(make_group(purpose)) {}

  // Null with one rank: it waits for nobody.
  std::shared_ptr<CallGroup> make_group(const std::string& purpose) const {
    return comm.size() > 1 ? process.calls->add_group(purpose, comm.world_ranks()) : nullptr;
  }
  // A blocking call; recorded until what this returns goes.
  Call blocking(const char* operation) const { return Call::blocking(group, operation); }

  MpiCommunicator comm;
  Process process;
  std::shared_ptr<CallGroup> group;  // of the calls that are made here
};

Communicator::Communicator(std::unique_ptr<Handle> handle) : handle_(std::move(handle)) {}
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

Communicator Communicator::world(Progress progress) {
  VAX_CHECK(mpi_is_live(), "MPI is not initialised: make the Environment first");
  MpiCommunicator comm = MpiCommunicator::duplicate_of(MPI_COMM_WORLD);
  Process process{.calls = CallLog::make(comm.rank())};
  process.devices = std::make_shared<DeviceRegistry>(process.calls, comm.rank());
  // One rank communicates with nobody.
  if (progress == Progress::kThread && comm.size() > 1)
    process.progress = std::make_shared<ProgressThread>();
  return Communicator(std::make_unique<Handle>(std::move(comm), std::move(process), "world calls"));
}

int Communicator::rank() const { return handle_->comm.rank(); }
int Communicator::size() const { return handle_->comm.size(); }
const std::shared_ptr<CallLog>& Communicator::calls() const { return handle_->process.calls; }
const std::shared_ptr<DeviceRegistry>& Communicator::devices() const {
  return handle_->process.devices;
}

Communicator Communicator::split(int color) const {
  VAX_CHECK(color >= 0, "split by color ", color);
  const MPI_Comm comm = handle_->comm.get();
  MPI_Comm part = MPI_COMM_NULL;
  {
    const Call call = handle_->blocking("split");
    VAX_MPI(comm, MPI_Comm_split(comm, color, rank(), &part));
  }
  return Communicator(
      std::make_unique<Handle>(MpiCommunicator(part), handle_->process, "part calls"));
}

Communicator Communicator::split_by_node() const {
  const MPI_Comm comm = handle_->comm.get();
  MPI_Comm part = MPI_COMM_NULL;
  {
    const Call call = handle_->blocking("split_by_node");
    VAX_MPI(comm, MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part));
  }
  return Communicator(
      std::make_unique<Handle>(MpiCommunicator(part), handle_->process, "node calls"));
}

Communicator Communicator::duplicate() const {
  Call call = handle_->blocking("duplicate");
  MpiCommunicator copy = MpiCommunicator::duplicate_of(handle_->comm.get());
  call.done();
  const std::string purpose = handle_->group ? handle_->group->key().name : "";
  return Communicator(std::make_unique<Handle>(std::move(copy), handle_->process, purpose));
}

std::unique_ptr<Collectives> Communicator::make_collectives(const std::string& purpose,
                                                            int64_t max_elements_per_call) const {
  if (size() == 1) return make_self_collectives();
  Call call = handle_->blocking("duplicate");
  MpiCommunicator copy = MpiCommunicator::duplicate_of(handle_->comm.get());
  call.done();
  return std::make_unique<Collectives>(
      make_mpi_backend(std::move(copy), max_elements_per_call, handle_->process.progress),
      handle_->make_group(purpose));
}

std::shared_ptr<CallGroup> Communicator::make_call_group(const std::string& purpose) const {
  return handle_->make_group(purpose);
}

std::unique_ptr<MessageChannel> Communicator::make_message_channel(
    const std::string& purpose) const {
  return std::make_unique<MessageChannel>(MpiCommunicator::duplicate_of(handle_->comm.get()),
                                          purpose);
}

std::vector<std::string> Communicator::all_gather_text(const std::string& text) const {
  const MPI_Comm comm = handle_->comm.get();
  const Call call = handle_->blocking("all_gather_text");
  const size_t num_ranks = static_cast<size_t>(size());
  // Lengths travel in 64 bits and are added up before anything is narrowed: all ranks throw or
  // none.
  const int64_t length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(num_ranks);
  VAX_MPI(comm, MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm));
  const int total = narrow<int>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
  const std::vector<int> counts(lengths.begin(), lengths.end());
  std::vector<int> offsets(num_ranks);
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  std::string all(static_cast<size_t>(total), '\0');
  VAX_MPI(comm, MPI_Allgatherv(text.data(), static_cast<int>(length), MPI_CHAR, all.data(),
                               counts.data(), offsets.data(), MPI_CHAR, comm));
  std::vector<std::string> texts;
  for (size_t r = 0; r < num_ranks; ++r)
    texts.push_back(all.substr(static_cast<size_t>(offsets[r]), static_cast<size_t>(counts[r])));
  return texts;
}

std::string Communicator::broadcast_text(std::string text, int root) const {
  VAX_CHECK(root >= 0 && root < size(), "broadcast from rank ", root, " of ", size());
  const MPI_Comm comm = handle_->comm.get();
  const Call call = handle_->blocking("broadcast_text");
  int64_t length = static_cast<int64_t>(text.size());
  VAX_MPI(comm, MPI_Bcast(&length, 1, MPI_INT64_T, root, comm));
  text.resize(static_cast<size_t>(length));
  VAX_MPI(comm, MPI_Bcast(text.data(), narrow<int>(length), MPI_CHAR, root, comm));
  return text;
}

}  // namespace vax::dist
