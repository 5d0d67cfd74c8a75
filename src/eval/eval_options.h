// Options [eval]: which figures, from which files.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/option.h"
#include "eval/tasks.h"

namespace vax {

enum class JudgeKind { kMatch, kKeywords };
constexpr auto words_of(JudgeKind) {
  return std::to_array<std::string_view>({"match", "keywords"});
}

struct EvalOptions {
  VAX_SECTION(EvalOptions, .name = "eval", .users = kEval);
  VAX_OPTION(std::string, harmful_path, {}, "harmful prompts: harmful_score");
  VAX_OPTION(std::string, task_path, {}, "task items: accuracy");
  VAX_OPTION(eval::Task, task, eval::Task::kLabel, "how an answer is compared");
  VAX_OPTION(std::string, alignment_path, {}, "safe answers: alignment_loss");
  VAX_OPTION(std::string, benign_path, {}, "harmless prompts: over_refusal");
  VAX_OPTION(JudgeKind, judge, JudgeKind::kMatch, "who decides what is harmful");
  VAX_OPTION(std::string, judge_path, {}, "keywords: file of refusal words, one a line",
             .unset = "built in");
  VAX_OPTION(int64_t, max_new_tokens, 128, "longest answer, in token ids", .legal = at_least(1),
             .users = kEval | kGenerate);
  VAX_OPTION(std::optional<int64_t>, samples, {}, "rows of each file", .legal = at_least(1),
             .unset = "all");
  VAX_OPTION(int64_t, batch, 16, "prompts answered at a time", .legal = at_least(1),
             .users = kEval | kGenerate);
};

}  // namespace vax
