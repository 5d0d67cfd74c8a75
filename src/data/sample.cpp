#include "data/sample.h"

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::data {
namespace {

std::vector<int64_t> encode_with_bos(const Tokenizer& tokenizer, const std::string& text,
                                     bool parse_special) {
  std::vector<int64_t> ids = tokenizer.encode(text, parse_special);
  if (tokenizer.add_bos()) ids.insert(ids.begin(), tokenizer.bos_id());
  return ids;
}

}  // namespace

Sample make_sample(const Tokenizer& tokenizer, const PromptTemplate& prompt_template,
                   const Record& record, const SampleOptions& options) {
  VAX_CHECK(options.max_length >= 1, "max_length is ", options.max_length);
  if (tokenizer.eos_id() < 0)
    throw DataError("the tokenizer has no end-of-sequence piece, but samples end with it");
  Sample sample;
  if (options.format == RecordFormat::kText) {
    sample.ids = encode_with_bos(tokenizer, record.text, options.parse_special);
  } else {
    const RenderedPrompt text = prompt_template.render(record);
    sample.ids = encode_with_bos(tokenizer, text.prompt + text.answer, options.parse_special);
    const auto prompt = encode_with_bos(tokenizer, text.prompt, options.parse_special);
    sample.label_begin = std::max<int64_t>(1, narrow<int64_t>(prompt.size()));
  }
  sample.ids.push_back(tokenizer.eos_id());
  sample.cut = sample.size() > options.max_length;
  if (sample.cut) sample.ids.resize(narrow<size_t>(options.max_length));
  return sample;
}

std::vector<int64_t> make_prompt(const Tokenizer& tokenizer, const PromptTemplate& prompt_template,
                                 const Record& record, const SampleOptions& options) {
  const bool is_text = options.format == RecordFormat::kText;
  const std::string prompt = is_text ? record.text : prompt_template.render(record).prompt;
  return encode_with_bos(tokenizer, prompt, options.parse_special);
}

}  // namespace vax::data
