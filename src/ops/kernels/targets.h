// The compiled kernel tables, each in the namespace of its instruction set. Call one only where the
// processor has that set (find_kernels checks it).
#pragma once

#include "ops/kernels/table.h"

namespace vax::ops {
namespace generic {
const KernelTable& table();
}
#if defined(__x86_64__)
namespace avx2 {
const KernelTable& table();
}
namespace avx512 {
const KernelTable& table();
}
namespace avx512bf16 {
const KernelTable& table();
}
#endif
}  // namespace vax::ops
