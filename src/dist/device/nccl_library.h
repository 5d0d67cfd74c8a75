// Private to this folder: which NCCL this process has. LibTorch brings one of its own, and NCCL
// keeps state per copy: two in one process, or headers that are newer than the library, fail in
// ways that are hard to read.
#pragma once

namespace vax::dist {

// THROWS CommError: the NCCL that is loaded is another major version or older than what this was
// compiled for, or there are several.
void check_nccl_library();

}  // namespace vax::dist
