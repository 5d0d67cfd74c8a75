#include "dist/comm/environment.h"

#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/mpi_handle.h"

namespace vax::dist {
namespace {

constexpr int kUnexpectedErrorExit = 1;
// Slurm numbers the steps that are not srun's (batch script, interactive shell) from here up.
constexpr int64_t kFirstReservedStep = 0xfffffff0;

// The variable as a non-negative number; -1 when it is absent or not one.
int64_t number_of(const char* text) {
  int64_t value = -1;
  if (text == nullptr) return -1;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  return error == std::errc() && stop == end && value >= 0 ? value : -1;
}

int slurm_step_tasks(const char* (*get)(const char*)) {
  const int64_t step = number_of(get("SLURM_STEP_ID"));
  if (step < 0 || step >= kFirstReservedStep) return 0;
  // A heterogeneous step's variables speak of one component only.
  if (get("SLURM_HET_SIZE") != nullptr) return 0;
  const int64_t of_step = number_of(get("SLURM_STEP_NUM_TASKS"));
  const int64_t tasks = of_step > 0 ? of_step : number_of(get("SLURM_NTASKS"));
  return tasks > 0 ? static_cast<int>(tasks) : 0;
}

const char* system_variable(const char* name) { return std::getenv(name); }

void init_mpi(int* argc, char*** argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) throw CommError("MPI is initialised already: one Environment per process");
  int provided = MPI_THREAD_SINGLE;
  VAX_MPI(MPI_COMM_NULL, MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided));
  for (MPI_Comm comm : {MPI_COMM_WORLD, MPI_COMM_SELF})
    VAX_MPI(comm, MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  if (provided < MPI_THREAD_MULTIPLE)
    throw CommError(cat("MPI gives thread level ", provided, ", MPI_THREAD_MULTIPLE (",
                        MPI_THREAD_MULTIPLE, ") is needed: use an MPI built with it"));
}

MpiCommunicator ranks_of_this_host() {
  MPI_Comm node = MPI_COMM_NULL;
  VAX_MPI(MPI_COMM_WORLD,
          MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  return MpiCommunicator(node);
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

int launched_tasks(const char* (*get)(const char*)) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const int64_t tasks = number_of(get(name)); tasks > 0) return static_cast<int>(tasks);
  return slurm_step_tasks(get);
}

void check_launch(int launched, int world_size) {
  if (launched > 1 && world_size == 1)
    throw CommError(cat("the launcher started ", launched,
                        " tasks, but MPI sees a single rank: start with the mpirun of the MPI that "
                        "this program is linked with, or with srun --mpi=pmix"));
  if (launched == 1 && world_size > 1)
    throw CommError(cat("the launcher started 1 task, but MPI sees ", world_size,
                        " ranks: launcher and MPI do not belong together"));
}

Environment::Environment(int* argc, char*** argv) : exceptions_before_(std::uncaught_exceptions()) {
  init_mpi(argc, argv);
  VAX_MPI(MPI_COMM_WORLD, MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  VAX_MPI(MPI_COMM_WORLD, MPI_Comm_size(MPI_COMM_WORLD, &world_size_));
  log::set_rank(rank_, world_size_);
  check_launch(launched_tasks(&system_variable), world_size_);
  const MpiCommunicator node = ranks_of_this_host();
  local_rank_ = node.rank();
  local_size_ = node.size();
  host_ = host_name();
}

Environment::~Environment() {
  if (std::uncaught_exceptions() > exceptions_before_ && world_size_ > 1) {
    log::error("an exception leaves main(): ending all ranks");
    abort(kUnexpectedErrorExit);
  }
  if (mpi_is_live()) MPI_Finalize();
}

void Environment::abort(int exit_code) {
  std::fflush(nullptr);
  if (mpi_is_live()) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace vax::dist
