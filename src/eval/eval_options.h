// Options [eval]: which figures, from which files.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/choice.h"
#include "eval/tasks.h"

namespace vax {

enum class JudgeKind { kMatch, kKeywords };
constexpr auto words_of(JudgeKind) {
  return std::to_array<std::string_view>({"match", "keywords"});
}

struct EvalOptions {
  std::string harmful_path;
  std::string task_path;
  eval::Task task = eval::Task::kLabel;
  std::string alignment_path;
  std::string benign_path;
  JudgeKind judge = JudgeKind::kMatch;
  std::string judge_path;
  int64_t max_new_tokens = 128;
  std::optional<int64_t> samples;  // per file; all
  int64_t batch = 16;
};

}  // namespace vax
