// Private to this folder: the only header that shows MPI. One move-only owner per kind of MPI
// handle and the check that turns MPI's error codes into CommError. Every communicator gets
// MPI_ERRORS_RETURN when it is made, else a failure would end the process before it is reported.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include "dist/comm/collectives.h"

namespace vax::dist {

// THROWS CommError unless `code` is MPI_SUCCESS: operation, MPI's text, rank r/n of `comm`, place.
// `call` is the source text of the call; what follows its opening parenthesis is not shown.
void check_mpi(int code, const char* call, MPI_Comm comm,
               std::source_location where = std::source_location::current());

// VAX_MPI(comm, MPI_Barrier(comm)): calls and checks. `comm` names the ranks in the message.
#define VAX_MPI(comm, call) ::vax::dist::check_mpi((call), #call, (comm))

class MpiCommunicator {
 public:
  MpiCommunicator() = default;
  // Takes over `comm`, which the caller has made.
  explicit MpiCommunicator(MPI_Comm comm);
  MpiCommunicator(MpiCommunicator&& other) noexcept
      : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}
  MpiCommunicator& operator=(MpiCommunicator&& other) noexcept {
    if (this != &other) {
      free();
      comm_ = std::exchange(other.comm_, MPI_COMM_NULL);
    }
    return *this;
  }
  ~MpiCommunicator() { free(); }

  static MpiCommunicator duplicate_of(MPI_Comm comm);  // COLLECTIVE over comm

  MPI_Comm get() const { return comm_; }
  int rank() const;
  int size() const;
  // Its ranks as ranks of the world, in its order. Not collective.
  std::vector<int> world_ranks() const;

 private:
  void free() noexcept;
  MPI_Comm comm_ = MPI_COMM_NULL;
};
static_assert(std::is_nothrow_move_constructible_v<MpiCommunicator>);
static_assert(std::is_nothrow_move_assignable_v<MpiCommunicator>);

// A committed derived datatype. MPI keeps it alive for operations in flight.
class MpiDatatype {
 public:
  // `count` elements back to back; consecutive items of this type start `extent_bytes` apart.
  static MpiDatatype block(int count, MPI_Datatype element, int64_t extent_bytes, MPI_Comm comm);

  MpiDatatype(MpiDatatype&& other) noexcept
      : type_(std::exchange(other.type_, MPI_DATATYPE_NULL)) {}
  MpiDatatype& operator=(MpiDatatype&& other) noexcept {
    if (this != &other) {
      free();
      type_ = std::exchange(other.type_, MPI_DATATYPE_NULL);
    }
    return *this;
  }
  ~MpiDatatype() { free(); }

  MPI_Datatype get() const { return type_; }

 private:
  explicit MpiDatatype(MPI_Datatype type) : type_(type) {}
  void free() noexcept;
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};
static_assert(std::is_nothrow_move_constructible_v<MpiDatatype>);
static_assert(std::is_nothrow_move_assignable_v<MpiDatatype>);

// bf16 moves as 16-bit integers: MPI 3.1 has no such type, and moving needs no arithmetic.
MPI_Datatype mpi_type(DataType type);
MPI_Op mpi_op(ReduceOp op);

// True between MPI_Init and MPI_Finalize.
bool mpi_is_live() noexcept;

}  // namespace vax::dist
