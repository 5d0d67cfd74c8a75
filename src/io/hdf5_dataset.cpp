#include "io/hdf5_dataset.h"

#include <hdf5_hl.h>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::io {
namespace {

std::vector<hsize_t> extents(std::span<const int64_t> shape) {
  return {shape.begin(), shape.end()};
}

Hdf5Space simple_space(const std::vector<hsize_t>& dims, const std::string& name) {
  return Hdf5Space(
      VAX_HDF5(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), name));
}

void write_new_attribute(hid_t object, const std::string& name, const Hdf5Type& type,
                         const Hdf5Space& space, const void* value) {
  const Hdf5Attribute attribute(VAX_HDF5(
      H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), name));
  VAX_HDF5(H5Awrite(attribute.get(), type.get(), value), name);
}

// A file that lives in memory and goes nowhere when it is closed.
Hdf5Properties memory_access(const std::string& name) {
  constexpr size_t kGrowthBytes = size_t{1} << 20;
  Hdf5Properties access(VAX_HDF5(H5Pcreate(H5P_FILE_ACCESS), name));
  VAX_HDF5(H5Pset_fapl_core(access.get(), kGrowthBytes, false), name);
  // Virtual datasets need the format of 1.10; h5py of any recent version reads it.
  VAX_HDF5(H5Pset_libver_bounds(access.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110), name);
  return access;
}

std::vector<std::byte> image_of(const Hdf5File& file, const std::string& name) {
  VAX_HDF5(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), name);
  const ssize_t num_bytes = VAX_HDF5(H5Fget_file_image(file.get(), nullptr, 0), name);
  std::vector<std::byte> bytes(narrow<size_t>(num_bytes));
  VAX_HDF5(H5Fget_file_image(file.get(), bytes.data(), bytes.size()), name);
  return bytes;
}

}  // namespace

Hdf5Properties unlocked_access() {
  Hdf5Properties access(VAX_HDF5(H5Pcreate(H5P_FILE_ACCESS), "file access properties"));
#if H5_VERSION_GE(1, 10, 7)
  VAX_HDF5(H5Pset_file_locking(access.get(), false, true), "file access properties");
#endif
  return access;
}

std::vector<std::byte> file_image(const std::string& name,
                                  const std::function<void(hid_t file)>& fill) {
  const Hdf5Lock lock;
  try {
    // Not the name of a file: the driver would read one that is there.
    const std::string unused = name + " in memory";
    Hdf5File file(VAX_HDF5(
        H5Fcreate(unused.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, memory_access(name).get()), name));
    fill(file.get());
    std::vector<std::byte> bytes = image_of(file, name);
    file.close(name);
    return bytes;
  } catch (const DataError& e) {
    throw WriteError(e.what());
  }
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
  const Hdf5Space space = simple_space({values.size()}, name);
  write_new_attribute(object, name, text_type(), space, texts.data());
}

Hdf5Dataset create_filled(hid_t parent, const std::string& name, hid_t file_type, hid_t memory_type,
                          std::span<const int64_t> shape, const void* data) {
  const Hdf5Space space = simple_space(extents(shape), name);
  Hdf5Dataset dataset(VAX_HDF5(H5Dcreate2(parent, name.c_str(), file_type, space.get(), H5P_DEFAULT,
                                          H5P_DEFAULT, H5P_DEFAULT),
                               name));
  VAX_HDF5(H5Dwrite(dataset.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), name);
  return dataset;
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
