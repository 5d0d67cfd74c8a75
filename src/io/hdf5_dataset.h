// Private to this folder.
// The few HDF5 operations that the program's files are made of: types, attributes, datasets and
// NetCDF-4 dimension scales. Callers hold an Hdf5Lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5_handle.h"

namespace vax::io {

// Access properties without file locking: locks fail on many NFS servers, and a reader may look at
// the file of a running job. (HDF5 before 1.10.7 cannot be told; there the environment variable
// HDF5_USE_FILE_LOCKING=FALSE does it.)
Hdf5Properties unlocked_access();

// The bytes of a new file that `fill` fills. The library writes it in memory only: a full disk is
// then the error of a system call, not a damaged state of the library. Holds the lock itself.
// THROWS WriteError; `name` is what messages call the file.
std::vector<std::byte> file_image(const std::string& name,
                                  const std::function<void(hid_t file)>& fill);

// A 16-bit float with 8 exponent bits, which readers without a bf16 type (h5py) convert to fp32.
Hdf5Type bf16_type();
// A UTF-8 string of any length.
Hdf5Type text_type();

Hdf5Group create_group(hid_t parent, const std::string& name);

// `object` in messages is `name`.
void write_attribute(hid_t object, const std::string& name, const std::string& value);
void write_attribute(hid_t object, const std::string& name, int64_t value);
void write_attribute(hid_t object, const std::string& name, const std::vector<std::string>& values);

// A dataset with contents; `data` is of `memory_type`.
Hdf5Dataset create_filled(hid_t parent, const std::string& name, hid_t file_type, hid_t memory_type,
                          std::span<const int64_t> shape, const void* data);

// Makes a one-dimensional dataset the coordinate `name`, as NetCDF-4 has it.
void make_scale(const Hdf5Dataset& scale, const std::string& name);
// Declares that axis `axis` of `dataset` runs along `scale`.
void attach_scale(const Hdf5Dataset& dataset, const Hdf5Dataset& scale, unsigned axis,
                  const std::string& name);

// What xarray and plotting programs print beside the numbers. units "1" = dimensionless.
void describe(const Hdf5Dataset& dataset, const std::string& units, const std::string& long_name);

}  // namespace vax::io
