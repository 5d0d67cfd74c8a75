#include "data/record_parser.h"

#include <array>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json_events.h"
#include "base/narrow.h"

namespace vax::data {
namespace {

constexpr int kDeepest = 64;           // nested arrays and objects; records need three
constexpr size_t kLongestNames = 200;  // bytes of keys in a message

struct Field {
  std::string_view name;
  RecordFormat format;
  std::string Record::*text = nullptr;
  std::vector<std::string> Record::*words = nullptr;
};

constexpr std::array kFields{
    Field{.name = "instruction", .format = RecordFormat::kAlpaca, .text = &Record::instruction},
    Field{.name = "input", .format = RecordFormat::kAlpaca, .text = &Record::input},
    Field{.name = "output", .format = RecordFormat::kAlpaca, .text = &Record::output},
    Field{.name = "harmful_if", .format = RecordFormat::kAlpaca, .words = &Record::harmful_if},
    Field{.name = "safe_if", .format = RecordFormat::kAlpaca, .words = &Record::safe_if},
    Field{.name = "text", .format = RecordFormat::kText, .text = &Record::text},
};

class RecordBuilder : public JsonEvents {
 public:
  RecordBuilder(bool in_array, const TextPlace& place, const ReadOptions& options,
                std::vector<Record>& records)
      : outer_(in_array ? 1 : 0), place_(place), options_(options), records_(records) {}

  void null() override { value("null"); }
  void boolean(bool) override { value("a boolean"); }
  void integer(int64_t) override { value("a number"); }
  void natural(uint64_t) override { value("a number"); }
  void number(double) override { value("a number"); }

  void text(std::string& text) override {
    if (words_ != nullptr && depth_ == outer_ + 2) {
      (record_.*words_).push_back(std::move(text));
      return;
    }
    const Field* field = known_field();
    if (field == nullptr || field->text == nullptr)
      value("a string");
    else
      record_.*(field->text) = std::move(text);
  }

  void begin_object() override {
    if (depth_ == outer_) {
      record_ = Record();
      record_.row = narrow<int64_t>(records_.size());
      keys_.clear();
    } else {
      value("an object");
    }
    ++depth_;
  }

  void key(std::string& name) override {
    if (depth_ != outer_ + 1) return;
    key_ = name;
    keys_.insert(std::move(name));
  }

  void end_object() override {
    if (--depth_ == outer_) finish_record();
  }

  void begin_array() override {
    if (depth_ > 0 || outer_ == 0) {
      const Field* field = known_field();
      if (field != nullptr && field->words != nullptr)
        words_ = field->words;
      else
        value("an array");
    }
    ++depth_;
  }

  void end_array() override {
    if (--depth_ == outer_ + 1) words_ = nullptr;
  }

  [[noreturn]] void refuse(const JsonFault& fault) override {
    switch (fault.kind) {
      case JsonFault::Kind::kRepeatedKey:
        fail(cat("the key \"", fault.detail, "\" stands twice"));
      case JsonFault::Kind::kDepth:
        fail(cat("arrays and objects are nested more than ", fault.detail, " deep"));
      case JsonFault::Kind::kSyntax:
        break;
    }
    throw DataError(cat(where(), ": malformed JSON: ", fault.detail));
  }

 private:
  std::string where() const { return cat(place_.path, ":", place_.first_line + line - 1); }

  [[noreturn]] void fail(const std::string& reason) const {
    throw DataError(cat(where(), ": row ", records_.size(), ": ", reason));
  }

  // The field of a record that the event is the value of; null = not one that is read.
  const Field* known_field() const {
    if (depth_ != outer_ + 1) return nullptr;
    for (const Field& field : kFields)
      if (field.name == key_ && field.format == options_.format) return &field;
    return nullptr;
  }

  // A value that is not what a known field takes: an error where one is expected, else ignored.
  void value(std::string_view found) const {
    if (depth_ == 0 && outer_ == 1)
      throw DataError(cat(where(), ": expected a JSON array of objects, found ", found,
                          " (a file with one object a line is named .jsonl)"));
    if (depth_ == outer_) fail(cat("expected an object, found ", found));
    if (words_ != nullptr && depth_ == outer_ + 2)
      fail(cat("\"", key_, "\": expected strings, found ", found));
    if (const Field* field = known_field())
      fail(cat("\"", field->name, "\": expected ",
               field->text != nullptr ? "a string" : "an array of strings", ", found ", found));
  }

  void require(std::string_view name, bool non_empty) const {
    if (!keys_.contains(std::string(name))) {
      std::string found;
      for (const std::string& name_found : keys_)
        if (found.size() < kLongestNames) found += cat(found.empty() ? "" : ", ", name_found);
      if (found.size() > kLongestNames) found = found.substr(0, kLongestNames) + "...";
      fail(cat("the field \"", name, "\" is missing, found ", found.empty() ? "none" : found));
    }
    if (!non_empty) fail(cat("the field \"", name, "\" is empty, expected text"));
  }

  void finish_record() {
    if (options_.format == RecordFormat::kText) {
      require("text", !record_.text.empty());
    } else {
      require("instruction", !record_.instruction.empty());
      if (options_.require_output) require("output", true);
    }
    records_.push_back(std::move(record_));
  }

  const int outer_;  // depth at which records stand
  const TextPlace& place_;
  const ReadOptions& options_;
  std::vector<Record>& records_;

  int depth_ = 0;
  Record record_;
  std::string key_;                                    // of the record's field that is being read
  std::set<std::string> keys_;                         // of the record
  std::vector<std::string> Record::*words_ = nullptr;  // the list that is being read
};

void parse(bool in_array, std::string_view text, const TextPlace& place, const ReadOptions& options,
           std::vector<Record>& records) {
  RecordBuilder builder(in_array, place, options, records);
  parse_json_events(text, kDeepest, builder);
}

}  // namespace

void parse_record_array(std::string_view text, const TextPlace& place, const ReadOptions& options,
                        std::vector<Record>& records) {
  parse(true, text, place, options, records);
}

void parse_record_object(std::string_view text, const TextPlace& place, const ReadOptions& options,
                         std::vector<Record>& records) {
  parse(false, text, place, options, records);
}

}  // namespace vax::data
