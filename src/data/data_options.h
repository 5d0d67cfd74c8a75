// Options [data]: which rows, how they become text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/records.h"

namespace vax {

struct DataOptions {
  std::string path;
  data::RecordFormat format = data::RecordFormat::kAlpaca;
  // Key "template": alpaca | llama2-chat | vicuna | plain | FILE.
  std::string template_name = "alpaca";
  bool parse_special = false;
  int64_t max_length = 200;        // ids
  std::optional<int64_t> samples;  // all
  int64_t skip = 0;
  bool shuffle = true;
  std::string harmful_path;
  double harmful_ratio = 0;
};

}  // namespace vax
