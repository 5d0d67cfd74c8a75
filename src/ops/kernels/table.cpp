// Choice of the kernel table at run time.
#include "ops/kernels/table.h"

#include <cstdlib>

#include "base/error.h"
#include "ops/kernels/targets.h"

namespace vax::ops {

#if defined(__x86_64__)
namespace {

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace
#endif

const KernelTable* find_kernels(std::string_view name) {
  if (name == "generic") return &generic::table();
#if defined(__x86_64__)
  if (name == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return &avx2::table();
  }
  if (name == "avx512" && has_avx512()) return &avx512::table();
  if (name == "avx512bf16" && has_avx512() && __builtin_cpu_supports("avx512bf16")) {
    return &avx512bf16::table();
  }
#endif
  return nullptr;
}

const KernelTable& choose_kernels(const char* name) {
  if (name != nullptr && *name != '\0') {
    const KernelTable* table = find_kernels(name);
    if (table == nullptr) {
      throw ConfigError(
          cat("VAX_CPU_TARGET=", name, ": expected generic, avx2, avx512 or ",
              "avx512bf16, and one that this processor supports; unset it to use the best"));
    }
    return *table;
  }
  for (const char* candidate : {"avx512bf16", "avx512", "avx2"}) {
    if (const KernelTable* table = find_kernels(candidate)) return *table;
  }
  return generic::table();
}

const KernelTable& kernels() {
  static const KernelTable& chosen = choose_kernels(std::getenv("VAX_CPU_TARGET"));
  return chosen;
}

}  // namespace vax::ops
