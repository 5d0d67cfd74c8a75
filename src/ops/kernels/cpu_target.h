// The instruction sets that the operators' vector loops are compiled for, and the choice of one:
// the best that the processor has, once at the first use. The environment variable VAX_CPU_TARGET
// (generic | avx2 | avx512 | avx512bf16) forces one, e.g. on a mixed cluster: results are equal bit
// for bit between machines only if they use the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace vax::ops {

// The widest last.
enum class CpuTarget : uint8_t { kGeneric, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr int kNumCpuTargets = 4;

const char* name_of(CpuTarget target);

// The one in use: choose_cpu_target() of VAX_CPU_TARGET, once. THROWS as that does.
CpuTarget cpu_target();

// That of the name; the best one that the processor supports for null or "".
// THROWS ConfigError when the name is unknown or the processor lacks it.
CpuTarget choose_cpu_target(const char* name);

// That of the name; nothing when it is unknown, not compiled in or not supported here.
std::optional<CpuTarget> find_cpu_target(std::string_view name);

}  // namespace vax::ops
