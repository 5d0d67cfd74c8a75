#include "dist/comm/mpi_handle.h"

#include <array>
#include <filesystem>
#include <numeric>
#include <string>
#include <string_view>

#include "base/error.h"

namespace vax::dist {

void check_mpi(int code, const char* call, MPI_Comm comm, std::source_location where) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  int rank = -1, size = -1;
  if (comm != MPI_COMM_NULL) {
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
  }
  const std::string_view operation =
      std::string_view(call).substr(0, std::string_view(call).find('('));
  throw CommError(cat(operation, " failed on rank ", rank, "/", size, " (error ", code, ": ",
                      std::string_view(text.data(), static_cast<size_t>(length)), ") at ",
                      std::filesystem::path(where.file_name()).filename().string(), ":",
                      where.line()));
}

bool mpi_is_live() noexcept {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm) : comm_(comm) {
  VAX_MPI(comm_, MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
}

MpiCommunicator MpiCommunicator::duplicate_of(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  VAX_MPI(comm, MPI_Comm_dup(comm, &copy));
  return MpiCommunicator(copy);
}

int MpiCommunicator::rank() const {
  int rank = 0;
  VAX_MPI(comm_, MPI_Comm_rank(comm_, &rank));
  return rank;
}

int MpiCommunicator::size() const {
  int size = 0;
  VAX_MPI(comm_, MPI_Comm_size(comm_, &size));
  return size;
}

std::vector<int> MpiCommunicator::world_ranks() const {
  MPI_Group own = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  VAX_MPI(comm_, MPI_Comm_group(comm_, &own));
  VAX_MPI(comm_, MPI_Comm_group(MPI_COMM_WORLD, &world));
  std::vector<int> ranks(static_cast<size_t>(size())), world_ranks(ranks.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  VAX_MPI(comm_, MPI_Group_translate_ranks(own, size(), ranks.data(), world, world_ranks.data()));
  MPI_Group_free(&own);
  MPI_Group_free(&world);
  return world_ranks;
}

void MpiCommunicator::free() noexcept {
  if (comm_ != MPI_COMM_NULL && mpi_is_live()) MPI_Comm_free(&comm_);
  comm_ = MPI_COMM_NULL;
}

MpiDatatype MpiDatatype::block(int count, MPI_Datatype element, int64_t extent_bytes,
                               MPI_Comm comm) {
  MPI_Datatype run = MPI_DATATYPE_NULL;
  VAX_MPI(comm, MPI_Type_contiguous(count, element, &run));
  MpiDatatype contiguous(run);
  MPI_Datatype resized = MPI_DATATYPE_NULL;
  VAX_MPI(comm, MPI_Type_create_resized(contiguous.get(), 0, extent_bytes, &resized));
  MpiDatatype result(resized);
  VAX_MPI(comm, MPI_Type_commit(&result.type_));
  return result;
}

void MpiDatatype::free() noexcept {
  if (type_ != MPI_DATATYPE_NULL && mpi_is_live()) MPI_Type_free(&type_);
  type_ = MPI_DATATYPE_NULL;
}

MPI_Datatype mpi_type(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return MPI_FLOAT;
    case DataType::kFloat64:
      return MPI_DOUBLE;
    case DataType::kBFloat16:
      return MPI_UINT16_T;
    case DataType::kInt32:
      return MPI_INT32_T;
    case DataType::kInt64:
      return MPI_INT64_T;
    case DataType::kUInt8:
      return MPI_UINT8_T;
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

MPI_Op mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kMin:
      return MPI_MIN;
  }
  VAX_CHECK(false, "unknown reduction ", static_cast<int>(op));
}

}  // namespace vax::dist
