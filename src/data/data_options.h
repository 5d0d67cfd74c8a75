// Options [data]: which rows, how they become text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/option.h"
#include "data/prompt.h"
#include "data/records.h"

namespace vax {

struct DataOptions {
  static constexpr SubcommandSet kReaders = kTraining | kDrift | kGenerate | kTokenize;
  static constexpr SubcommandSet kSlicers = kTraining | kGenerate | kTokenize;

  VAX_SECTION(DataOptions, .name = "data", .users = kSampleUsers);
  VAX_OPTION(std::string, path, {}, "JSON or JSON lines file, also .gz", .users = kReaders,
             .on_resume = OnResume::kSameNumbers);  // data files are known by their hashes
  VAX_OPTION(data::RecordFormat, format, data::RecordFormat::kAlpaca, "fields of a row",
             .on_resume = OnResume::kRefused);
  VAX_OPTION(std::string, template_name, "alpaca", "prompt",
             .legal = one_of_or(data::template_names(), "FILE"), .on_resume = OnResume::kRefused,
             .key = "template");
  VAX_OPTION(bool, parse_special, false, "\"</s>\" in a row's text is the control token",
             .on_resume = OnResume::kRefused);
  VAX_OPTION(int64_t, max_length, 200, "token ids of a sample, longer ones are cut",
             .legal = at_least(2), .users = (kSampleUsers & ~kGenerate) | kPlan,
             .on_resume = OnResume::kRefused);
  VAX_OPTION(std::optional<int64_t>, samples, {}, "rows used", .legal = at_least(1), .unset = "all",
             .users = kSlicers, .on_resume = OnResume::kRefused);
  VAX_OPTION(int64_t, skip, 0, "rows left out at the beginning", .legal = at_least(0),
             .users = kSlicers, .on_resume = OnResume::kRefused);
  VAX_OPTION(bool, shuffle, true, "another order each epoch, from train.seed", .users = kTraining,
             .on_resume = OnResume::kRefused);
  VAX_OPTION(std::string, harmful_path, {}, "file of the harmful rows mixed in", .users = kFinetune,
             .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(double, harmful_ratio, 0, "share of harmful rows, in [0, 1]", .legal = between(0, 1),
             .users = kFinetune, .on_resume = OnResume::kRefused);
};

}  // namespace vax
