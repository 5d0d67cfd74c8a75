// vaccine tokenize: ids of the lines of standard input, or the samples of data.path as rendered.
// One rank does the work; text is at most as large as a line.
#include <iostream>
#include <string>

#include "app/session.h"
#include "base/error.h"
#include "base/json_text.h"
#include "data/data_options.h"
#include "data/dataset.h"
#include "data/prompt.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "train/model_options.h"

namespace vax::app {
namespace {

// One line of the result. THROWS WriteError, so that nothing goes on for a reader that has gone.
void print(const JsonText& line) {
  if (!(std::cout << line.text() << '\n')) throw WriteError("cannot write to standard output");
}

void tokenize_lines(const DataOptions& options, const data::Tokenizer& tokenizer) {
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    if (data::find_invalid_utf8(line))
      throw DataError(cat("standard input:", number, ": not valid UTF-8"));
    std::vector<int64_t> ids = tokenizer.encode(line, options.parse_special);
    if (tokenizer.add_bos()) ids.insert(ids.begin(), tokenizer.bos_id());
    print(ids);
  }
}

// A row of data.path: its text, ids, and labels with null where nothing is predicted.
void show_samples(const DataOptions& options, const data::Tokenizer& tokenizer) {
  const data::RecordFormat format = options.format;
  const data::PromptTemplate prompt_template = data::PromptTemplate::named(options.template_name);
  const data::RecordFile file = data::read_records(options.path, {.format = format});
  const int64_t end =
      options.samples ? options.skip + *options.samples : static_cast<int64_t>(file.records.size());
  for (const data::Record& record : file.records) {
    if (record.row < options.skip || record.row >= end) continue;
    const data::Sample sample = data::make_sample(tokenizer, prompt_template, record,
                                                  {.format = format,
                                                   .parse_special = options.parse_special,
                                                   .max_length = options.max_length});
    JsonText shown({{"row", record.row}, {"ids", sample.ids}});
    if (format == data::RecordFormat::kText) {
      shown.add("text", record.text);
    } else {
      const data::RenderedPrompt rendered = prompt_template.render(record);
      shown.add("prompt", rendered.prompt);
      shown.add("answer", rendered.answer);
    }
    JsonText labels = JsonText::array();
    for (int64_t i = 0; i < sample.size(); ++i)
      labels.add(i < sample.label_begin ? JsonText() : sample.ids[static_cast<size_t>(i)]);
    shown.add("labels", labels);
    shown.add("cut", sample.cut);
    print(shown);
  }
}

}  // namespace

void run_tokenize(const Session& session) {
  together(session.world, [&] {
    if (!session.is_root()) return;
    const data::Tokenizer tokenizer =
        data::Tokenizer::load(session.options.get<ModelOptions>().path);
    const DataOptions& options = session.options.get<DataOptions>();
    if (options.path.empty())
      tokenize_lines(options, tokenizer);
    else
      show_samples(options, tokenizer);
    if (!std::cout.flush()) throw WriteError("cannot write to standard output");
  });
}

}  // namespace vax::app
