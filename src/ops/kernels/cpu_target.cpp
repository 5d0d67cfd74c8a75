#include "ops/kernels/cpu_target.h"

#include <cstdlib>

#include "base/error.h"

namespace vax::ops {
namespace {

constexpr const char* kNames[kNumCpuTargets] = {"generic", "avx2", "avx512", "avx512bf16"};

bool is_supported(CpuTarget target) {
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (target) {
    case CpuTarget::kGeneric:
      return true;
    case CpuTarget::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuTarget::kAvx512:
      return has_avx512;
    case CpuTarget::kAvx512Bf16:
      return has_avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return target == CpuTarget::kGeneric;
#endif
}

CpuTarget best_cpu_target() {
  int target = kNumCpuTargets - 1;
  while (!is_supported(static_cast<CpuTarget>(target))) --target;
  return static_cast<CpuTarget>(target);
}

}  // namespace

const char* name_of(CpuTarget target) { return kNames[static_cast<int>(target)]; }

std::optional<CpuTarget> find_cpu_target(std::string_view name) {
  for (int i = 0; i < kNumCpuTargets; ++i) {
    const auto target = static_cast<CpuTarget>(i);
    if (name == kNames[i] && is_supported(target)) return target;
  }
  return std::nullopt;
}

CpuTarget choose_cpu_target(const char* name) {
  if (name == nullptr || *name == '\0') return best_cpu_target();
  const std::optional<CpuTarget> target = find_cpu_target(name);
  if (!target) {
    throw ConfigError(
        cat("VAX_CPU_TARGET=", name, ": expected generic, avx2, avx512 or ",
            "avx512bf16, and one that this processor supports; unset it to use the best"));
  }
  return *target;
}

CpuTarget cpu_target() {
  static const CpuTarget chosen = choose_cpu_target(std::getenv("VAX_CPU_TARGET"));
  return chosen;
}

}  // namespace vax::ops
