#include <sys/resource.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/narrow.h"
#include "io/checkpoint_layout.h"
#include "io/hdf5_dataset.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

int64_t data_bytes(std::span<const SliceToWrite> slices) {
  return std::accumulate(slices.begin(), slices.end(), int64_t{0},
                         [](int64_t sum, const SliceToWrite& slice) {
                           return sum + narrow<int64_t>(slice.bytes.size());
                         });
}

// The limit of the process holds for files in memory too; there it would hit the library.
void require_file_limit(const std::string& name, int64_t num_bytes) {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  if (limit.rlim_cur < narrow<uint64_t>(num_bytes))
    throw WriteError(cat(name, ": cannot write ", num_bytes, " bytes: the limit of this process ",
                         "for the size of a file (ulimit -f) is ", limit.rlim_cur, " bytes"));
}

// No times anywhere, so that a file is a function of its contents.
Hdf5Properties without_times(hid_t property_class, const std::string& name) {
  Hdf5Properties properties(VAX_HDF5(H5Pcreate(property_class), name));
  VAX_HDF5(H5Pset_obj_track_times(properties.get(), false), name);
  return properties;
}

// Space for the data is assigned at once and never filled: nobody writes it here.
Hdf5Properties contiguous_dataset(const std::string& name) {
  Hdf5Properties create = without_times(H5P_DATASET_CREATE, name);
  VAX_HDF5(H5Pset_layout(create.get(), H5D_CONTIGUOUS), name);
  VAX_HDF5(H5Pset_alloc_time(create.get(), H5D_ALLOC_TIME_EARLY), name);
  VAX_HDF5(H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER), name);
  return create;
}

int64_t create_dataset(hid_t file, const SliceToWrite& slice, const Hdf5Properties& links,
                       const Hdf5Properties& create) {
  const std::string& name = slice.dataset;
  const hsize_t count = slice.bytes.size() / static_cast<uint64_t>(dtype_size(slice.dtype));
  const Hdf5Space space(VAX_HDF5(H5Screate_simple(1, &count, nullptr), name));
  const Hdf5Type type =
      slice.dtype == DType::kBF16 ? bf16_type() : Hdf5Type(VAX_HDF5(H5Tcopy(H5T_IEEE_F32LE), name));
  const Hdf5Dataset dataset(VAX_HDF5(H5Dcreate2(file, name.c_str(), type.get(), space.get(),
                                                links.get(), create.get(), H5P_DEFAULT),
                                     name));
  const haddr_t offset = H5Dget_offset(dataset.get());
  if (offset == HADDR_UNDEF) throw WriteError(cat(name, ": HDF5 assigned no space"));
  return narrow<int64_t>(offset);
}

// With the driver on stdio: the default one wants the path that a link leads to, and a file in
// memory has none.
Hdf5File create_in(const PosixFile& memory) {
  const Hdf5Properties create = without_times(H5P_FILE_CREATE, memory.name());
  const Hdf5Properties access = unlocked_access();
  VAX_HDF5(H5Pset_fapl_stdio(access.get()), memory.name());
  return Hdf5File(VAX_HDF5(
      H5Fcreate(memory.descriptor_path().c_str(), H5F_ACC_TRUNC, create.get(), access.get()),
      memory.name()));
}

std::vector<int64_t> create_datasets(const PosixFile& memory,
                                     std::span<const SliceToWrite> slices) {
  const Hdf5Lock lock;
  const Hdf5Properties create = contiguous_dataset(memory.name());
  const Hdf5Properties links(VAX_HDF5(H5Pcreate(H5P_LINK_CREATE), memory.name()));
  VAX_HDF5(H5Pset_create_intermediate_group(links.get(), 1), memory.name());
  Hdf5File file = create_in(memory);
  std::vector<int64_t> offsets;
  for (const SliceToWrite& slice : slices)
    offsets.push_back(slice.bytes.empty() ? 0 : create_dataset(file.get(), slice, links, create));
  file.close(memory.name());
  return offsets;
}

// What lies between the datasets.
std::vector<FilePiece> read_pieces(const PosixFile& memory, std::span<const SliceToWrite> slices,
                                   const std::vector<int64_t>& offsets) {
  std::vector<std::pair<int64_t, int64_t>> taken;  // [begin, end)
  for (size_t i = 0; i < slices.size(); ++i)
    if (!slices[i].bytes.empty())
      taken.emplace_back(offsets[i], offsets[i] + narrow<int64_t>(slices[i].bytes.size()));
  std::ranges::sort(taken);
  taken.emplace_back(memory.size(), memory.size());
  std::vector<FilePiece> pieces;
  int64_t at = 0;
  for (const auto& [begin, end] : taken) {
    VAX_CHECK(begin >= at, memory.name(), ": datasets overlap at byte ", begin);
    if (begin > at) {
      pieces.push_back({at, std::vector<std::byte>(narrow<size_t>(begin - at))});
      memory.read_at(at, pieces.back().bytes);
    }
    at = end;
  }
  return pieces;
}

}  // namespace

FileLayout lay_out_file(std::span<const SliceToWrite> slices, const std::string& name) {
  for (const SliceToWrite& slice : slices)
    VAX_CHECK((slice.dtype == DType::kF32 || slice.dtype == DType::kBF16) &&
                  slice.bytes.size() % static_cast<size_t>(dtype_size(slice.dtype)) == 0,
              slice.dataset, ": ", slice.bytes.size(), " bytes of ", dtype_name(slice.dtype));
  const int64_t most = data_bytes(slices) + rank_file_overhead_bytes(slices.size());
  require_file_limit(name, most);
  // Sparse: only what HDF5 writes takes memory, whatever the size of the datasets.
  const PosixFile memory = PosixFile::in_memory(name);
  try {
    FileLayout layout;
    layout.offset_bytes = create_datasets(memory, slices);
    layout.num_bytes = memory.size();
    layout.pieces = read_pieces(memory, slices, layout.offset_bytes);
    VAX_CHECK(layout.num_bytes <= most, name, ": ", layout.num_bytes, " bytes, expected at most ",
              most);
    return layout;
  } catch (const DataError& e) {
    throw WriteError(e.what());
  }
}

}  // namespace vax::io
