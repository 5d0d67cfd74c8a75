// From a record to token ids and labels. Prompt + answer + eos are tokenised as ONE text with bos
// in front (cutting them apart first would give other ids where they meet), and labels begin after
// as many ids as the prompt alone has.
#pragma once

#include <cstdint>
#include <vector>

#include "data/prompt.h"
#include "data/records.h"
#include "data/tokenizer.h"

namespace vax::data {

struct Sample {
  std::vector<int64_t> ids;  // at least one
  // First index whose id counts as a label, at least 1: nothing predicts the first id. May lie
  // beyond the end when the prompt alone fills the sample.
  int64_t label_begin = 1;
  bool cut = false;  // did not fit max_length; its last id is then not eos

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_labels() const { return label_begin < size() ? size() - label_begin : 0; }
};

struct SampleOptions {
  RecordFormat format = RecordFormat::kAlpaca;
  bool parse_special = false;
  int64_t max_length = 200;  // ids
};

// Format text: the text alone, every id but the first is a label; the template is not used.
// THROWS DataError when the tokenizer has no eos, ConfigError as PromptTemplate::render().
// REQUIRES max_length >= 1.
Sample make_sample(const Tokenizer& tokenizer, const PromptTemplate& prompt_template,
                   const Record& record, const SampleOptions& options);

// Ids of a record's prompt with bos in front, not cut: what generation starts from. For format text
// the prompt is the text itself.
std::vector<int64_t> make_prompt(const Tokenizer& tokenizer, const PromptTemplate& prompt_template,
                                 const Record& record, const SampleOptions& options);

}  // namespace vax::data
