#include "io/hdf5_dataset.h"

#include <hdf5_hl.h>

#include <algorithm>

#include "base/error.h"

namespace vax::io {
namespace {

std::vector<hsize_t> extents(std::span<const int64_t> shape) {
  return {shape.begin(), shape.end()};
}

Hdf5Space simple_space(const std::vector<hsize_t>& dims, const hsize_t* max_dims,
                       const std::string& name) {
  return Hdf5Space(
      VAX_HDF5(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), max_dims), name));
}

void write_new_attribute(hid_t object, const std::string& name, const Hdf5Type& type,
                         const Hdf5Space& space, const void* value) {
  const Hdf5Attribute attribute(VAX_HDF5(
      H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), name));
  VAX_HDF5(H5Awrite(attribute.get(), type.get(), value), name);
}

}  // namespace

Hdf5Properties unlocked_access() {
  Hdf5Properties access(VAX_HDF5(H5Pcreate(H5P_FILE_ACCESS), "file access properties"));
#if H5_VERSION_GE(1, 10, 7)
  VAX_HDF5(H5Pset_file_locking(access.get(), false, true), "file access properties");
#endif
  return access;
}

Hdf5File create_file(const std::filesystem::path& path) {
  return Hdf5File(VAX_HDF5(
      H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, unlocked_access().get()), path.string()));
}

Hdf5Type bf16_type() {
  Hdf5Type type(VAX_HDF5(H5Tcopy(H5T_IEEE_F32LE), "bf16 type"));
  // Sign at bit 15, 8 exponent bits from bit 7, 7 mantissa bits from bit 0. The fields move before
  // the size shrinks: the library refuses a size that cuts fields off.
  VAX_HDF5(H5Tset_fields(type.get(), 15, 7, 8, 0, 7), "bf16 type");
  VAX_HDF5(H5Tset_size(type.get(), 2), "bf16 type");
  VAX_HDF5(H5Tset_ebias(type.get(), 127), "bf16 type");
  return type;
}

Hdf5Type text_type() {
  Hdf5Type type(VAX_HDF5(H5Tcopy(H5T_C_S1), "text type"));
  VAX_HDF5(H5Tset_size(type.get(), H5T_VARIABLE), "text type");
  VAX_HDF5(H5Tset_cset(type.get(), H5T_CSET_UTF8), "text type");
  return type;
}

Hdf5Group create_group(hid_t parent, const std::string& name) {
  return Hdf5Group(
      VAX_HDF5(H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), name));
}

void write_attribute(hid_t object, const std::string& name, const std::string& value) {
  const char* text = value.c_str();
  const Hdf5Space space(VAX_HDF5(H5Screate(H5S_SCALAR), name));
  write_new_attribute(object, name, text_type(), space, &text);
}

void write_attribute(hid_t object, const std::string& name, int64_t value) {
  const Hdf5Space space(VAX_HDF5(H5Screate(H5S_SCALAR), name));
  const Hdf5Type type(VAX_HDF5(H5Tcopy(H5T_STD_I64LE), name));
  write_new_attribute(object, name, type, space, &value);
}

void write_attribute(hid_t object, const std::string& name,
                     const std::vector<std::string>& values) {
  std::vector<const char*> texts;
  for (const std::string& value : values) texts.push_back(value.c_str());
  const Hdf5Space space = simple_space({values.size()}, nullptr, name);
  write_new_attribute(object, name, text_type(), space, texts.data());
}

Hdf5Dataset create_growing(hid_t parent, const std::string& name, hid_t file_type,
                           std::span<const int64_t> row_shape, int64_t rows_per_chunk) {
  std::vector<hsize_t> dims = {0};
  std::vector<hsize_t> max_dims = {H5S_UNLIMITED};
  std::vector<hsize_t> chunk = {static_cast<hsize_t>(rows_per_chunk)};
  for (const int64_t extent : row_shape) {
    VAX_CHECK(extent > 0, name, ": extent ", extent);
    for (auto* list : {&dims, &max_dims, &chunk}) list->push_back(static_cast<hsize_t>(extent));
  }
  const Hdf5Space space = simple_space(dims, max_dims.data(), name);
  const Hdf5Properties create(VAX_HDF5(H5Pcreate(H5P_DATASET_CREATE), name));
  VAX_HDF5(H5Pset_chunk(create.get(), static_cast<int>(chunk.size()), chunk.data()), name);
  return Hdf5Dataset(VAX_HDF5(H5Dcreate2(parent, name.c_str(), file_type, space.get(), H5P_DEFAULT,
                                         create.get(), H5P_DEFAULT),
                              name));
}

Hdf5Dataset create_filled(hid_t parent, const std::string& name, hid_t file_type, hid_t memory_type,
                          std::span<const int64_t> shape, const void* data) {
  const Hdf5Space space = simple_space(extents(shape), nullptr, name);
  Hdf5Dataset dataset(VAX_HDF5(H5Dcreate2(parent, name.c_str(), file_type, space.get(), H5P_DEFAULT,
                                          H5P_DEFAULT, H5P_DEFAULT),
                               name));
  VAX_HDF5(H5Dwrite(dataset.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), name);
  return dataset;
}

void append_rows(const Hdf5Dataset& dataset, const std::string& name, hid_t memory_type,
                 int64_t num_rows, const void* rows) {
  const Hdf5Space before(VAX_HDF5(H5Dget_space(dataset.get()), name));
  const int rank = VAX_HDF5(H5Sget_simple_extent_ndims(before.get()), name);
  std::vector<hsize_t> dims(static_cast<size_t>(rank));
  VAX_HDF5(H5Sget_simple_extent_dims(before.get(), dims.data(), nullptr), name);

  std::vector<hsize_t> start(dims.size(), 0);
  std::vector<hsize_t> count = dims;
  start[0] = dims[0];
  count[0] = static_cast<hsize_t>(num_rows);
  dims[0] += count[0];
  VAX_HDF5(H5Dset_extent(dataset.get(), dims.data()), name);
  const Hdf5Space after(VAX_HDF5(H5Dget_space(dataset.get()), name));
  VAX_HDF5(H5Sselect_hyperslab(after.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(),
                               nullptr),
           name);
  const Hdf5Space memory = simple_space(count, nullptr, name);
  VAX_HDF5(H5Dwrite(dataset.get(), memory_type, memory.get(), after.get(), H5P_DEFAULT, rows),
           name);
}

void make_scale(const Hdf5Dataset& scale, const std::string& name) {
  VAX_HDF5(H5DSset_scale(scale.get(), name.c_str()), name);
}

void attach_scale(const Hdf5Dataset& dataset, const Hdf5Dataset& scale, unsigned axis,
                  const std::string& name) {
  VAX_HDF5(H5DSattach_scale(dataset.get(), scale.get(), axis), name);
}

void describe(const Hdf5Dataset& dataset, const std::string& units, const std::string& long_name) {
  write_attribute(dataset.get(), "units", units);
  write_attribute(dataset.get(), "long_name", long_name);
}

}  // namespace vax::io
