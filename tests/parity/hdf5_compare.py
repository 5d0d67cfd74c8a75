"""Whether two HDF5 files say the same, object by object."""

import h5py
import numpy as np

# References to other objects: h5py shows them as addresses, which may differ. What they say is
# compared as the names of the scales of each axis.
REFERENCES = {"DIMENSION_LIST", "REFERENCE_LIST"}


def contents(file):
    """Name -> group or dataset, the file itself included."""
    found = {"/": file}
    file.visititems(found.__setitem__)
    return found


def assert_same_attributes(name, one, other):
    assert sorted(one.attrs) == sorted(other.attrs), f"{name}: {[*one.attrs]}, {[*other.attrs]}"
    for key in set(one.attrs) - REFERENCES:
        np.testing.assert_array_equal(one.attrs[key], other.attrs[key], f"{name}: {key}")


def assert_same_dataset(name, one, other):
    def form(dataset):
        return dataset.shape, dataset.maxshape, dataset.dtype, dataset.chunks
    assert form(one) == form(other), f"{name}: {form(one)}, {form(other)}"
    if one.dtype.kind == "O":
        assert one[:].tolist() == other[:].tolist(), name
    else:  # NaN equals NaN, 0 differs from -0
        assert one[()].tobytes() == other[()].tobytes(), name
    assert [axis.keys() for axis in one.dims] == [axis.keys() for axis in other.dims], name


def assert_same_hdf5(first, second):
    """Every object, type, byte and attribute of two open files; returns the objects' names."""
    firsts, seconds = contents(first), contents(second)
    assert sorted(firsts) == sorted(seconds), f"{sorted(firsts)}, {sorted(seconds)}"
    for name, one in firsts.items():
        assert_same_attributes(name, one, seconds[name])
        if isinstance(one, h5py.Dataset):
            assert_same_dataset(name, one, seconds[name])
    return list(firsts)
