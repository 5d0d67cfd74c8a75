// The rendered templates, letter by letter: a changed space changes the ids of every sample.
#include "data/prompt.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;

Record make_record(std::string instruction, std::string input, std::string output) {
  Record record;
  record.row = 3;
  record.instruction = std::move(instruction);
  record.input = std::move(input);
  record.output = std::move(output);
  return record;
}

const Record kBare = make_record("Say hi.", "", "Hi!");
const Record kWithInput = make_record("Add.", "1 2", "3");

void expect_rendered(const std::string& name, const Record& record, const std::string& prompt,
                     const std::string& answer) {
  const RenderedPrompt text = PromptTemplate::named(name).render(record);
  EXPECT_EQ(text.prompt, prompt) << name;
  EXPECT_EQ(text.answer, answer) << name;
}

TEST(PromptTemplate, Alpaca) {
  expect_rendered("alpaca", kBare,
                  "Below is an instruction that describes a task. Write a response that "
                  "appropriately completes the request.\n\n### Instruction:\nSay hi.\n\n"
                  "### Response:",
                  "Hi!");
  expect_rendered("alpaca", kWithInput,
                  "Below is an instruction that describes a task, paired with an input that "
                  "provides further context. Write a response that appropriately completes the "
                  "request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:",
                  "3");
}

TEST(PromptTemplate, Llama2Chat) {
  expect_rendered("llama2-chat", kBare, "[INST] Say hi. [/INST]", " Hi! ");
  expect_rendered("llama2-chat", kWithInput, "[INST] Add.\n1 2 [/INST]", " 3 ");
}

TEST(PromptTemplate, Vicuna) {
  const std::string system =
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
      "helpful, detailed, and polite answers to the user's questions.";
  expect_rendered("vicuna", kBare, system + " USER: Say hi. ASSISTANT:", " Hi!");
  expect_rendered("vicuna", kWithInput, system + " USER: Add.\n1 2 ASSISTANT:", " 3");
}

TEST(PromptTemplate, PlainJoiningSpaceBelongsToTheAnswer) {
  expect_rendered("plain", kBare, "Say hi.", " Hi!");
  expect_rendered("plain", kWithInput, "Add. 1 2", " 3");
  expect_rendered("plain", make_record("a", "", ""), "a", " ");
}

class TemplateFile : public ::testing::Test {
 protected:
  std::string write(std::string_view text) const {
    return directory_.write("chat.txt", text).string();
  }
  test::TemporaryDirectory directory_;
};

TEST_F(TemplateFile, IsCutAtTheResponse) {
  const std::string path = write("Q: {instruction} ({input})\nA:  {response} ##\n");
  expect_rendered(path, kWithInput, "Q: Add. (1 2)\nA:", "  3 ##");
  expect_rendered(path, kBare, "Q: Say hi. ()\nA:", "  Hi! ##");
}

TEST_F(TemplateFile, OnlyOneLineEndAtTheEndIsDropped) {
  expect_rendered(write("{instruction}\n{response}\n\n"), kBare, "Say hi.\n", "Hi!\n");
  expect_rendered(write("{instruction}\n{response}"), kBare, "Say hi.\n", "Hi!");
}

TEST_F(TemplateFile, PlaceholdersInARecordAreText) {
  const std::string path = write("{instruction}|{input}|{response}|{instruction}");
  expect_rendered(path, make_record("{input}", "{response}", "{instruction}"),
                  "{input}|{response}|", "{instruction}|{input}");
}

TEST_F(TemplateFile, OtherBracesAreText) {
  expect_rendered(write("{\"q\": {x}} {instruction}{response}"), kBare, "{\"q\": {x}} Say hi.",
                  "Hi!");
}

TEST_F(TemplateFile, MissingAndDoublePlaceholdersAreConfigurationErrors) {
  const auto load = [&](std::string_view text) { PromptTemplate::named(write(text)); };
  expect_error<ConfigError>([&] { load("{instruction}"); },
                            {"data.template", "chat.txt", "{response}", "found none"});
  expect_error<ConfigError>([&] { load("{response}"); }, {"{instruction}", "found none"});
  expect_error<ConfigError>([&] { load(""); }, {"found none"});
  expect_error<ConfigError>([&] { load("{instruction}{response}{response}"); },
                            {"{response} once"});
}

TEST_F(TemplateFile, AnInputWithoutAPlaceIsNotDroppedSilently) {
  const auto prompt = PromptTemplate::named(write("{instruction}\n{response}"));
  EXPECT_EQ(prompt.render(kBare).prompt, "Say hi.\n");
  expect_error<ConfigError>([&] { prompt.render(kWithInput); },
                            {"chat.txt has no {input}", "row 3"});
}

TEST_F(TemplateFile, FilesThatCannotBeUsed) {
  expect_error<ConfigError>([] { PromptTemplate::named("alpacca"); },
                            {"data.template", "alpaca, llama2-chat, vicuna, plain", "'alpacca'"});
  expect_error<ConfigError>([&] { PromptTemplate::named(directory_.path().string()); },
                            {"data.template", "directory"});
  expect_error<ConfigError>([&] { PromptTemplate::named(write("{instruction}{response}\xFF")); },
                            {"data.template", "chat.txt:1", "UTF-8"});
}

}  // namespace
}  // namespace vax::data
