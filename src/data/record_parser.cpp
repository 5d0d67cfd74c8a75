#include "data/record_parser.h"

#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::data {
namespace {

using nlohmann::json;

constexpr int kDeepest = 64;           // nested arrays and objects; records need three
constexpr size_t kLongestNames = 200;  // bytes of keys in a message

// What the parser has read so far. It takes a token's characters one by one and at most one more,
// so the line of the last character is the line of the token that an event is about.
struct Progress {
  int64_t line = 1;
  bool at_line_end = false;

  void read(char c) {
    if (at_line_end) ++line;
    at_line_end = c == '\n';
  }
};

// The input iterator through which nlohmann::json reads.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, Progress* progress) : at_(at), progress_(progress) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    progress_->read(*at_++);
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) {
    return a.at_ == b.at_;
  }
  friend bool operator!=(const CountingIterator& a, const CountingIterator& b) { return !(a == b); }

 private:
  const char* at_;
  Progress* progress_;
};

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

// Receives the parser's events; the member functions that nlohmann's interface names are its.
class RecordBuilder {
 public:
  RecordBuilder(bool in_array, const TextPlace& place, const ReadOptions& options,
                const Progress& progress, std::vector<Record>& records)
      : outer_(in_array ? 1 : 0),
        place_(place),
        options_(options),
        progress_(progress),
        records_(records) {}

  bool null() { return value("null"); }
  bool boolean(bool) { return value("a boolean"); }
  bool number_integer(json::number_integer_t) { return value("a number"); }
  bool number_unsigned(json::number_unsigned_t) { return value("a number"); }
  bool number_float(json::number_float_t, const std::string&) { return value("a number"); }
  bool binary(json::binary_t&) { return value("binary data"); }

  bool string(std::string& text) {
    if (words_ != nullptr && depth_ == outer_ + 2) {
      (record_.*words_).push_back(std::move(text));
      return true;
    }
    const Field* field = known_field();
    if (field == nullptr || field->text == nullptr) return value("a string");
    record_.*(field->text) = std::move(text);
    return true;
  }

  bool start_object(size_t) {
    if (depth_ == outer_) {
      record_ = Record();
      record_.row = narrow<int64_t>(records_.size());
    } else {
      value("an object");
    }
    descend();
    keys_.emplace_back();
    return true;
  }

  bool key(std::string& name) {
    if (!keys_.back().insert(name).second)
      fail(cat("the key \"", name.substr(0, kLongestNames), "\" stands twice"));
    if (depth_ == outer_ + 1) key_ = name;
    return true;
  }

  bool end_object() {
    if (--depth_ == outer_) finish_record();
    keys_.pop_back();
    return true;
  }

  bool start_array(size_t) {
    if (depth_ > 0 || outer_ == 0) {
      const Field* field = known_field();
      if (field != nullptr && field->words != nullptr)
        words_ = field->words;
      else
        value("an array");
    }
    descend();
    return true;
  }

  bool end_array() {
    if (--depth_ == outer_ + 1) words_ = nullptr;
    return true;
  }

  bool parse_error(size_t, const std::string&, const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 8: syntax error while ...":
    // the line is counted here, for lines of a JSONL file too; the rest is cut to a message's size.
    std::string reason = error.what();
    const size_t column = reason.find(": ");
    if (column != std::string::npos) reason.erase(0, column + 2);
    constexpr size_t kLongest = 300;
    if (reason.size() > kLongest) reason = reason.substr(0, kLongest) + "...";
    throw DataError(cat(where(), ": malformed JSON: ", reason));
  }

 private:
  std::string where() const {
    return cat(place_.path, ":", place_.first_line + progress_.line - 1);
  }

  [[noreturn]] void fail(const std::string& reason) const {
    throw DataError(cat(where(), ": row ", records_.size(), ": ", reason));
  }

  void descend() {
    if (++depth_ > kDeepest)
      fail(cat("arrays and objects are nested more than ", kDeepest, " deep"));
  }

  // The field of a record that the event is the value of; null = not one that is read.
  const Field* known_field() const {
    if (depth_ != outer_ + 1 || keys_.empty()) return nullptr;
    for (const Field& field : kFields)
      if (field.name == key_ && field.format == options_.format) return &field;
    return nullptr;
  }

  // A value that is not what a known field takes: an error where one is expected, else ignored.
  bool value(std::string_view found) {
    if (depth_ == 0 && outer_ == 1)
      throw DataError(cat(where(), ": expected a JSON array of objects, found ", found,
                          " (a file with one object a line is named .jsonl)"));
    if (depth_ == outer_) fail(cat("expected an object, found ", found));
    if (words_ != nullptr && depth_ == outer_ + 2)
      fail(cat("\"", key_, "\": expected strings, found ", found));
    if (const Field* field = known_field())
      fail(cat("\"", field->name, "\": expected ",
               field->text != nullptr ? "a string" : "an array of strings", ", found ", found));
    return true;
  }

  void require(std::string_view name, bool non_empty) const {
    const auto& keys = keys_.back();
    if (!keys.contains(std::string(name))) {
      std::string found;
      for (const std::string& key : keys)
        if (found.size() < kLongestNames) found += cat(found.empty() ? "" : ", ", key);
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
  const Progress& progress_;
  std::vector<Record>& records_;

  int depth_ = 0;
  Record record_;
  std::string key_;                                    // of the record's field that is being read
  std::vector<std::set<std::string>> keys_;            // of every open object
  std::vector<std::string> Record::*words_ = nullptr;  // the list that is being read
};

void parse(bool in_array, std::string_view text, const TextPlace& place, const ReadOptions& options,
           std::vector<Record>& records) {
  Progress progress;
  RecordBuilder builder(in_array, place, options, progress, records);
  json::sax_parse(CountingIterator(text.data(), &progress),
                  CountingIterator(text.data() + text.size(), &progress), &builder);
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
