// Prompt templates: how an instruction, its optional input and the answer become one text. A
// template is cut at {response}: what stands before it is the prompt (given to the model), the rest
// is the answer (trained on). Spaces directly before {response} belong to the answer, because BPE
// joins a space with the word behind it; a prompt that ended in the space would be cut into other
// ids alone than with an answer. Placeholders inside a record's text are text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/records.h"

namespace vax::data {

struct RenderedPrompt {
  std::string prompt;
  std::string answer;
};

// The names that are built in: alpaca, llama2-chat, vicuna, plain.
std::vector<std::string> template_names();

class PromptTemplate {
 public:
  // alpaca       the form of Stanford Alpaca, with and without an input
  // llama2-chat  "[INST] {instruction}[\n{input}] [/INST] {response} " (Llama-2's, no system text)
  // vicuna       v1.1: "A chat between ... questions.
  //              USER: {instruction}[\n{input}] ASSISTANT: {response}" (in one line)
  // plain        "{instruction}[ {input}] {response}"
  // PATH         a UTF-8 file with {instruction}, {response} once and, if rows have inputs,
  //              {input}; one line end at its very end is not part of the template
  // THROWS ConfigError (data.template) for another name, a file that cannot be used, or a missing
  // placeholder.
  static PromptTemplate named(const std::string& name_or_path);

  // THROWS ConfigError when the record has an input and the template has no place for it.
  RenderedPrompt render(const Record& record) const;

 private:
  enum class Part { kLiteral, kInstruction, kInput };
  struct Span {
    Part part = Part::kLiteral;
    std::string literal;
  };
  struct Form {
    std::vector<Span> prompt;
    std::vector<Span> answer_prefix;  // before and after the response
    std::vector<Span> answer_suffix;
  };

  PromptTemplate(std::string name, std::string_view with_input, std::string_view without_input);
  static std::vector<Span> parse_spans(std::string_view text);
  static Form parse_form(const std::string& name, std::string_view text);
  static std::string fill(const std::vector<Span>& spans, const Record& record);

  std::string name_;
  Form with_input_;
  Form without_input_;
  bool takes_input_ = true;
};

}  // namespace vax::data
