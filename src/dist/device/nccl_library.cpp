#include "dist/device/nccl_library.h"

#include <dlfcn.h>
#include <link.h>
#include <nccl.h>

#include <filesystem>
#include <map>
#include <string>

#include "base/error.h"

namespace vax::dist {
namespace {

constexpr int kMajorUnit = 10000;  // of version codes

using Objects = std::map<uintptr_t, std::string>;  // loaded at, path

int add_if_nccl(dl_phdr_info* info, size_t, void* objects) {
  const std::string path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  if (std::filesystem::path(path).filename().string().starts_with("libnccl.so"))
    static_cast<Objects*>(objects)->emplace(info->dlpi_addr, path);
  return 0;
}

// Those named so, and the one whose functions are called here.
Objects nccl_objects() {
  Objects objects;
  dl_iterate_phdr(&add_if_nccl, &objects);
  Dl_info own{};
  if (dladdr(reinterpret_cast<void*>(&ncclGetVersion), &own) != 0)
    objects.emplace(reinterpret_cast<uintptr_t>(own.dli_fbase), own.dli_fname);
  return objects;
}

}  // namespace

void check_nccl_library() {
  int loaded = 0;
  ncclGetVersion(&loaded);
  if (loaded / kMajorUnit != NCCL_VERSION_CODE / kMajorUnit || loaded < NCCL_VERSION_CODE)
    throw CommError(cat("NCCL ", loaded, " is loaded, compiled for ", NCCL_VERSION_CODE,
                        ": make the program find the NCCL of its LibTorch"));
  const Objects objects = nccl_objects();
  if (objects.size() == 1) return;
  std::string paths;
  for (const auto& [address, path] : objects) paths += cat(paths.empty() ? "" : ", ", path);
  throw CommError(cat("this process has ", objects.size(), " copies of NCCL (", paths,
                      "), expected one: make the program find the NCCL of its LibTorch"));
}

}  // namespace vax::dist
