// Private to this folder.
// The few HDF5 operations that the program's files are made of: types, attributes, datasets that
// grow along their first axis, and NetCDF-4 dimension scales. Callers hold an Hdf5Lock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5_handle.h"

namespace vax::io {

// Access properties without file locking: locks fail on many NFS servers, and a reader may look at
// the file of a running job. (HDF5 before 1.10.7 cannot be told; there the environment variable
// HDF5_USE_FILE_LOCKING=FALSE does it.)
Hdf5Properties unlocked_access();

// THROWS WriteError or DataError with the path; an existing file is emptied.
Hdf5File create_file(const std::filesystem::path& path);

// A 16-bit float with 8 exponent bits, which readers without a bf16 type (h5py) convert to fp32.
Hdf5Type bf16_type();
// A UTF-8 string of any length.
Hdf5Type text_type();

Hdf5Group create_group(hid_t parent, const std::string& name);

// `object` in messages is `name`.
void write_attribute(hid_t object, const std::string& name, const std::string& value);
void write_attribute(hid_t object, const std::string& name, int64_t value);
void write_attribute(hid_t object, const std::string& name, const std::vector<std::string>& values);

// A dataset with 0 rows of shape `row_shape` (empty: scalars) that append_rows() lengthens;
// `rows_per_chunk` are stored and read together.
Hdf5Dataset create_growing(hid_t parent, const std::string& name, hid_t file_type,
                           std::span<const int64_t> row_shape, int64_t rows_per_chunk);
// A dataset of known shape with contents; `data` is of `memory_type`.
Hdf5Dataset create_filled(hid_t parent, const std::string& name, hid_t file_type, hid_t memory_type,
                          std::span<const int64_t> shape, const void* data);
// Adds `num_rows` rows at the end of the first axis.
void append_rows(const Hdf5Dataset& dataset, const std::string& name, hid_t memory_type,
                 int64_t num_rows, const void* rows);

// Makes a one-dimensional dataset the coordinate `name`, as NetCDF-4 has it.
void make_scale(const Hdf5Dataset& scale, const std::string& name);
// Declares that axis `axis` of `dataset` runs along `scale`.
void attach_scale(const Hdf5Dataset& dataset, const Hdf5Dataset& scale, unsigned axis,
                  const std::string& name);

// What xarray and plotting programs print beside the numbers. units "1" = dimensionless.
void describe(const Hdf5Dataset& dataset, const std::string& units, const std::string& long_name);

}  // namespace vax::io
