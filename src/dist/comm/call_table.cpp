#include "dist/comm/call_table.h"

#include <charconv>
#include <sstream>

#include "base/error.h"

namespace vax::dist {
namespace {

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  for (size_t begin = 0; begin <= line.size();) {
    const size_t end = std::min(line.find('\t', begin), line.size());
    fields.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return fields;
}

// Reads the fields of one line in order.
class Fields {
 public:
  explicit Fields(const std::string& line) : line_(line), fields_(fields_of(line)) {}

  std::string text() {
    if (next_ == fields_.size()) fail("has too few fields");
    return fields_[next_++];
  }
  template <typename Number>
  Number number() {
    const std::string field = text();
    Number value{};
    const char* const end = field.data() + field.size();
    const auto [stop, error] = std::from_chars(field.data(), end, value);
    if (error != std::errc() || stop != end) fail("has a field that is no number");
    return value;
  }
  bool at_end() const { return next_ == fields_.size(); }
  [[noreturn]] void fail(const char* what) const {
    throw DataError(cat("table of calls: line \"", line_, "\" ", what));
  }

 private:
  const std::string& line_;
  std::vector<std::string> fields_;
  size_t next_ = 0;
};

void append_call(std::ostream& out, const CallSummary& call) {
  out << "call\t" << call.sequence << '\t' << call.operation << '\t' << call.count << '\t'
      << call.num_bytes << '\t' << call.place << '\t' << (call.is_done ? 1 : 0) << '\t'
      << call.waiting_s << '\n';
}

void append_group(std::ostream& out, const GroupTable& group) {
  out << "group\t" << group.key.name << '\t' << group.key.ordinal << '\t' << group.started << '\t'
      << group.done;
  for (const int member : group.key.members) out << '\t' << member;
  out << '\n';
  for (const CallSummary& call : group.calls) append_call(out, call);
}

CallSummary read_call(Fields& fields) {
  CallSummary call;
  call.sequence = fields.number<int64_t>();
  call.operation = fields.text();
  call.count = fields.number<int64_t>();
  call.num_bytes = fields.number<int64_t>();
  call.place = fields.text();
  call.is_done = fields.number<int>() != 0;
  call.waiting_s = fields.number<double>();
  return call;
}

GroupTable read_group(Fields& fields) {
  GroupTable group;
  group.key.name = fields.text();
  group.key.ordinal = fields.number<int64_t>();
  group.started = fields.number<int64_t>();
  group.done = fields.number<int64_t>();
  while (!fields.at_end()) group.key.members.push_back(fields.number<int>());
  return group;
}

}  // namespace

std::string to_text(const RankTable& table) {
  std::ostringstream out;
  out << "rank\t" << table.rank << '\t' << table.place << '\n';
  for (const GroupTable& group : table.groups) append_group(out, group);
  return out.str();
}

RankTable table_from_text(const std::string& text) {
  RankTable table;
  std::istringstream in(text);
  bool has_rank = false;
  for (std::string line; std::getline(in, line);) {
    Fields fields(line);
    const std::string kind = fields.text();
    if (kind == "rank" && !has_rank) {
      table.rank = fields.number<int>();
      table.place = fields.text();
      has_rank = true;
    } else if (kind == "group" && has_rank) {
      table.groups.push_back(read_group(fields));
    } else if (kind == "call" && !table.groups.empty()) {
      table.groups.back().calls.push_back(read_call(fields));
    } else {
      fields.fail("is not expected here");
    }
  }
  if (!has_rank) throw DataError("table of calls: no rank");
  return table;
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    const bool is_run = end - i > 2;
    if (!is_run) end = i + 1;
    text += cat(text.empty() ? "" : " ", ranks[i]);
    if (is_run) text += cat("-", ranks[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace vax::dist
