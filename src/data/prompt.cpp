#include "data/prompt.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/option_value.h"
#include "data/text_file.h"

namespace vax::data {
namespace {

constexpr std::string_view kInstructionMark = "{instruction}";
constexpr std::string_view kInputMark = "{input}";
constexpr std::string_view kResponseMark = "{response}";

// Source: stanford_alpaca's PROMPT_DICT.
constexpr std::string_view kAlpacaWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:{response}";
constexpr std::string_view kAlpaca =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:{response}";
// Source: the chat format of Llama-2's reference generation code, one turn, no system text.
constexpr std::string_view kLlama2ChatWithInput =
    "[INST] {instruction}\n{input} [/INST] {response} ";
constexpr std::string_view kLlama2Chat = "[INST] {instruction} [/INST] {response} ";
// Source: FastChat's conversation template vicuna_v1.1.
constexpr std::string_view kVicunaWithInput =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
    "USER: {instruction}\n{input} ASSISTANT: {response}";
constexpr std::string_view kVicuna =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
    "USER: {instruction} ASSISTANT: {response}";
constexpr std::string_view kPlainWithInput = "{instruction} {input} {response}";
constexpr std::string_view kPlain = "{instruction} {response}";

struct BuiltIn {
  std::string_view name, with_input, without_input;
};
constexpr std::array kBuiltIn = {BuiltIn{"alpaca", kAlpacaWithInput, kAlpaca},
                                 BuiltIn{"llama2-chat", kLlama2ChatWithInput, kLlama2Chat},
                                 BuiltIn{"vicuna", kVicunaWithInput, kVicuna},
                                 BuiltIn{"plain", kPlainWithInput, kPlain}};

constexpr uint64_t kLongestFile = uint64_t{1} << 20;  // bytes of a template file

std::string read_template(const std::string& path) {
  try {
    std::string text = read_text_file(path, kLongestFile).text;
    if (text.ends_with('\n')) text.pop_back();
    return text;
  } catch (const DataError& e) {
    throw ConfigError(cat("data.template: ", e.what()));
  }
}

}  // namespace

std::vector<std::string> template_names() {
  std::vector<std::string> names;
  for (const BuiltIn& built_in : kBuiltIn) names.emplace_back(built_in.name);
  return names;
}

PromptTemplate PromptTemplate::named(const std::string& name) {
  for (const BuiltIn& built_in : kBuiltIn)
    if (built_in.name == name) return {name, built_in.with_input, built_in.without_input};
  std::error_code ignored;  // a file that cannot be looked at is one that cannot be used
  if (!std::filesystem::exists(name, ignored))
    throw ConfigError(cat("data.template: expected ", join(template_names(), ", "),
                          " or an existing file, found '", name, "'"));
  const std::string text = read_template(name);
  return {name, text, text};
}

PromptTemplate::PromptTemplate(std::string name, std::string_view with_input,
                               std::string_view without_input)
    : name_(std::move(name)),
      with_input_(parse_form(name_, with_input)),
      without_input_(parse_form(name_, without_input)),
      takes_input_(with_input.find(kInputMark) != std::string_view::npos) {}

PromptTemplate::Form PromptTemplate::parse_form(const std::string& name, std::string_view text) {
  const size_t response = text.find(kResponseMark);
  for (const std::string_view mark : {kInstructionMark, kResponseMark})
    if (text.find(mark) == std::string_view::npos)
      throw ConfigError(
          cat("data.template: ", name, ": expected the placeholder ", mark, ", found none"));
  const std::string_view rest = text.substr(response + kResponseMark.size());
  if (rest.find(kResponseMark) != std::string_view::npos)
    throw ConfigError(cat("data.template: ", name, ": expected ", kResponseMark, " once, found it ",
                          "more often"));
  const std::string_view before = text.substr(0, response);
  const size_t last_visible = before.find_last_not_of(' ');
  const size_t prompt_end = last_visible == std::string_view::npos ? 0 : last_visible + 1;
  return {.prompt = parse_spans(before.substr(0, prompt_end)),
          .answer_prefix = parse_spans(before.substr(prompt_end)),
          .answer_suffix = parse_spans(rest)};
}

std::vector<PromptTemplate::Span> PromptTemplate::parse_spans(std::string_view text) {
  std::vector<Span> spans;
  while (!text.empty()) {
    const size_t instruction = text.find(kInstructionMark);
    const size_t input = text.find(kInputMark);
    const size_t mark = std::min(instruction, input);
    if (mark != 0) spans.push_back({.literal = std::string(text.substr(0, mark))});
    if (mark == std::string_view::npos) break;
    const bool is_input = mark == input;
    spans.push_back({.part = is_input ? Part::kInput : Part::kInstruction, .literal = {}});
    text.remove_prefix(mark + (is_input ? kInputMark : kInstructionMark).size());
  }
  return spans;
}

std::string PromptTemplate::fill(const std::vector<Span>& spans, const Record& record) {
  std::string text;
  for (const Span& span : spans) {
    switch (span.part) {
      case Part::kLiteral:
        text += span.literal;
        break;
      case Part::kInstruction:
        text += record.instruction;
        break;
      case Part::kInput:
        text += record.input;
        break;
    }
  }
  return text;
}

RenderedPrompt PromptTemplate::render(const Record& record) const {
  const bool has_input = !record.input.empty();
  if (has_input && !takes_input_)
    throw ConfigError(
        cat("data.template: ", name_, " has no {input}, but row ", record.row, " has one"));
  const Form& form = has_input ? with_input_ : without_input_;
  return {.prompt = fill(form.prompt, record),
          .answer =
              fill(form.answer_prefix, record) + record.output + fill(form.answer_suffix, record)};
}

}  // namespace vax::data
