// Reads run.h5 with the C library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/hdf5_dataset.h"

namespace vax::io::testing {

// Opened objects of one file, for reading.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path)
      : file_(VAX_HDF5(H5Fopen(path.c_str(), H5F_ACC_RDONLY, unlocked_access().get()),
                       path.string())) {}

  Hdf5Dataset dataset(const std::string& name) const {
    return Hdf5Dataset(VAX_HDF5(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), name));
  }
  bool has(const std::string& name) const {
    return H5Lexists(file_.get(), name.c_str(), H5P_DEFAULT) > 0;
  }
  std::vector<hsize_t> shape(const std::string& name) const {
    const Hdf5Space space(VAX_HDF5(H5Dget_space(dataset(name).get()), name));
    std::vector<hsize_t> dims(static_cast<size_t>(H5Sget_simple_extent_ndims(space.get())));
    VAX_HDF5(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), name);
    return dims;
  }
  std::vector<double> numbers(const std::string& name) const {
    size_t count = 1;
    for (const hsize_t extent : shape(name)) count *= extent;
    std::vector<double> values(count);
    VAX_HDF5(H5Dread(dataset(name).get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                     values.data()),
             name);
    return values;
  }
  // One field of the compound table.
  std::vector<double> column(const std::string& field) const {
    const Hdf5Type row(VAX_HDF5(H5Tcreate(H5T_COMPOUND, 8), field));
    VAX_HDF5(H5Tinsert(row.get(), field.c_str(), 0, H5T_NATIVE_DOUBLE), field);
    std::vector<double> values(shape("metrics/train").at(0));
    VAX_HDF5(H5Dread(dataset("metrics/train").get(), row.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT,
                     values.data()),
             field);
    return values;
  }

  std::string text_attribute(const char* name) const {
    const Hdf5Attribute attribute(VAX_HDF5(H5Aopen(file_.get(), name, H5P_DEFAULT), name));
    char* value = nullptr;
    VAX_HDF5(H5Aread(attribute.get(), text_type().get(), &value), name);
    const std::string text = value;
    H5free_memory(value);
    return text;
  }

 private:
  Hdf5Lock lock_;
  Hdf5File file_;
};

}  // namespace vax::io::testing
