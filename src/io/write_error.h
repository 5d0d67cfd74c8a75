// A write that the machine refused: full disk, quota, file-size limit, I/O error. It is neither the
// user's configuration nor a bad input file, so it is not a DataError: the program ends with exit
// code 1, or goes on when the file can be done without. The message has the path and the bytes.
#pragma once

#include <stdexcept>

namespace vax {

class WriteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace vax
