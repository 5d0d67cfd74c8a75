#include "dist/communicator.h"

#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "dist/mpi_collectives.h"
#include "dist/mpi_handle.h"

namespace vax::dist {

struct Communicator::Handle {
  MpiCommunicator comm;
  std::shared_ptr<ProgressThread> progress;  // null with Progress::kPoll
};

Communicator::Communicator(std::unique_ptr<Handle> handle) : handle_(std::move(handle)) {}
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

Communicator Communicator::world(Progress progress) {
  VAX_CHECK(mpi_is_live(), "MPI is not initialised: make the Environment first");
  auto handle =
      std::make_unique<Handle>(Handle{MpiCommunicator::duplicate_of(MPI_COMM_WORLD), nullptr});
  // One rank communicates with nobody.
  if (progress == Progress::kThread && handle->comm.size() > 1)
    handle->progress = std::make_shared<ProgressThread>();
  return Communicator(std::move(handle));
}

int Communicator::rank() const { return handle_->comm.rank(); }
int Communicator::size() const { return handle_->comm.size(); }

Communicator Communicator::split(int color) const {
  VAX_CHECK(color >= 0, "split by color ", color);
  const MPI_Comm comm = handle_->comm.get();
  MPI_Comm part = MPI_COMM_NULL;
  VAX_MPI(comm, MPI_Comm_split(comm, color, rank(), &part));
  return Communicator(std::make_unique<Handle>(Handle{MpiCommunicator(part), handle_->progress}));
}

Communicator Communicator::split_by_node() const {
  const MPI_Comm comm = handle_->comm.get();
  MPI_Comm part = MPI_COMM_NULL;
  VAX_MPI(comm, MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part));
  return Communicator(std::make_unique<Handle>(Handle{MpiCommunicator(part), handle_->progress}));
}

Communicator Communicator::duplicate() const {
  return Communicator(std::make_unique<Handle>(
      Handle{MpiCommunicator::duplicate_of(handle_->comm.get()), handle_->progress}));
}

std::unique_ptr<Collectives> Communicator::make_collectives(int64_t max_elements_per_call) const {
  if (size() == 1) return make_self_collectives();
  return make_mpi_collectives(MpiCommunicator::duplicate_of(handle_->comm.get()),
                              max_elements_per_call, handle_->progress);
}

std::vector<std::string> Communicator::all_gather_text(const std::string& text) const {
  const MPI_Comm comm = handle_->comm.get();
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
  int64_t length = static_cast<int64_t>(text.size());
  VAX_MPI(comm, MPI_Bcast(&length, 1, MPI_INT64_T, root, comm));
  text.resize(static_cast<size_t>(length));
  VAX_MPI(comm, MPI_Bcast(text.data(), narrow<int>(length), MPI_CHAR, root, comm));
  return text;
}

}  // namespace vax::dist
