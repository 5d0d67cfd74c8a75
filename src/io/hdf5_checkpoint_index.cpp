// index.h5 as virtual datasets: a parameter's elements lie in one or several slices, which are
// one-dimensional datasets of the rank files; each run of consecutive elements maps to boxes of the
// parameter's shape.
#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/narrow.h"
#include "io/checkpoint_layout.h"
#include "io/hdf5_dataset.h"

namespace vax::io {
namespace {

// A box of a parameter: consecutive in memory, so that it equals a run of elements.
struct Box {
  std::vector<hsize_t> start, extent;
  hsize_t first = 0;  // element of the parameter, row-major
  hsize_t count = 0;
};

// Cuts the elements [first, last) of `shape` into boxes, in order: in two dimensions the rest of
// the first row, the rows that are whole, the beginning of the last one. `axis`: extents before it
// have been fixed in `box`, whose first element is `box.first`.
void cut_into_boxes(const std::vector<hsize_t>& shape, size_t axis, hsize_t first, hsize_t last,
                    const Box& box, std::vector<Box>& boxes) {
  const hsize_t inner = std::reduce(shape.begin() + static_cast<ptrdiff_t>(axis) + 1, shape.end(),
                                    hsize_t{1}, std::multiplies<>());
  while (first < last) {
    const bool whole_row = first % inner == 0 && last - first >= inner;
    const hsize_t rows = whole_row ? (last - first) / inner : 1;
    const hsize_t end =
        whole_row ? first + rows * inner : std::min(last, (first / inner + 1) * inner);
    Box part = box;
    part.start[axis] = first / inner;
    part.extent[axis] = rows;
    part.first += first / inner * inner;
    if (whole_row) {
      part.count = rows * inner;
      boxes.push_back(part);
    } else {
      cut_into_boxes(shape, axis + 1, first % inner, first % inner + (end - first), part, boxes);
    }
    first = end;
  }
}

std::vector<Box> boxes_of(const std::vector<hsize_t>& shape, hsize_t first, hsize_t last) {
  Box whole;
  whole.start.assign(shape.size(), 0);
  whole.extent = shape;
  std::vector<Box> boxes;
  cut_into_boxes(shape, 0, first, last, whole, boxes);
  return boxes;
}

struct Array {
  const CheckpointManifest& manifest;
  const CheckpointUnit& unit;
  const CheckpointArray& array;
};

// Maps [first, last) of `member` onto slice `index` of the unit.
void map_slice(const Hdf5Properties& create, const Hdf5Space& space, const Array& of,
               const CheckpointMember& member, int64_t index, int64_t first, int64_t last) {
  const int64_t slice_begin = index * of.unit.slice_count;
  const auto slice_count =
      narrow<hsize_t>(std::min(of.unit.slice_count, of.unit.count - slice_begin));
  const CheckpointSlice& slice = of.array.slices.at(narrow<size_t>(index));
  const std::string& file = of.manifest.files.at(narrow<size_t>(slice.file)).name;
  const std::string dataset = slice_dataset(of.unit, of.array);
  const Hdf5Space source(VAX_HDF5(H5Screate_simple(1, &slice_count, nullptr), dataset));
  const std::vector<hsize_t> shape(member.shape.begin(), member.shape.end());
  for (const Box& box : boxes_of(shape, narrow<hsize_t>(first), narrow<hsize_t>(last))) {
    const hsize_t start = narrow<hsize_t>(member.offset - slice_begin + narrow<int64_t>(box.first));
    VAX_HDF5(
        H5Sselect_hyperslab(source.get(), H5S_SELECT_SET, &start, nullptr, &box.count, nullptr),
        dataset);
    VAX_HDF5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, box.start.data(), nullptr,
                                 box.extent.data(), nullptr),
             member.name);
    // Without a directory the file is looked for beside the index, wherever both are moved to.
    VAX_HDF5(H5Pset_virtual(create.get(), space.get(), file.c_str(), dataset.c_str(), source.get()),
             member.name);
  }
}

void create_virtual_dataset(hid_t group, const Array& of, const CheckpointMember& member) {
  const std::vector<hsize_t> shape(member.shape.begin(), member.shape.end());
  const Hdf5Space space(VAX_HDF5(
      H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), member.name));
  const Hdf5Properties create(VAX_HDF5(H5Pcreate(H5P_DATASET_CREATE), member.name));
  VAX_HDF5(H5Pset_obj_track_times(create.get(), false), member.name);
  const int64_t end = member.offset + std::reduce(member.shape.begin(), member.shape.end(),
                                                  int64_t{1}, std::multiplies<>());
  for (int64_t at = member.offset; at < end;) {
    const int64_t index = at / of.unit.slice_count;
    const int64_t next = std::min(end, (index + 1) * of.unit.slice_count);
    map_slice(create, space, of, member, index, at - member.offset, next - member.offset);
    at = next;
  }
  VAX_HDF5(H5Sselect_all(space.get()), member.name);
  const Hdf5Type type = of.array.dtype == DType::kBF16
                            ? bf16_type()
                            : Hdf5Type(VAX_HDF5(H5Tcopy(H5T_IEEE_F32LE), member.name));
  const Hdf5Dataset dataset(VAX_HDF5(H5Dcreate2(group, member.name.c_str(), type.get(), space.get(),
                                                H5P_DEFAULT, create.get(), H5P_DEFAULT),
                                     member.name));
}

void fill_index(hid_t file, const CheckpointManifest& manifest) {
  write_attribute(file, "schema_version", CheckpointManifest::kSchemaVersion);
  write_attribute(file, "step", manifest.position.step);
  write_attribute(file, "program_version", manifest.program_version);
  write_attribute(file, "config", manifest.config);
  const Hdf5Group optimizer = create_group(file, "optimizer");
  std::map<std::string, Hdf5Group> groups;  // by kind
  for (const std::string_view kind : {kParameters, kExpAvg, kExpAvgSq})
    groups.emplace(kind, create_group(file, std::string(kind)));
  std::optional<Hdf5Group> method;
  for (const CheckpointUnit& unit : manifest.units)
    for (const CheckpointArray& array : unit.arrays) {
      if (!groups.contains(array.kind)) {
        if (!method) method = create_group(file, "method");
        groups.emplace(array.kind, create_group(file, array.kind));
      }
      for (const CheckpointMember& member : unit.members)
        create_virtual_dataset(groups.at(array.kind).get(), {manifest, unit, array}, member);
    }
}

}  // namespace

std::vector<std::byte> index_bytes(const CheckpointManifest& manifest, const std::string& name) {
  return file_image(name, [&](hid_t file) { fill_index(file, manifest); });
}

}  // namespace vax::io
