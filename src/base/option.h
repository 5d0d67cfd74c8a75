// How an option is declared: one line inside its section's struct, beside whoever reads it.
//
//   struct ShardOptions {
//     VAX_SECTION(ShardOptions, .name = "shard", .users = kTraining);
//     VAX_OPTION(Placement, frozen, Placement::kFull, "where frozen weights lie");
//     VAX_OPTION(int64_t, prefetch, 1, "blocks gathered ahead of their use", .legal = at_least(0));
//   };
//
// The struct is an aggregate with the members `frozen` and `prefetch` and those defaults. From the
// same lines option_section<ShardOptions>() makes rows, of which everything that knows options by
// name is made: command line, configuration files, --help, the resolved configuration, run.jsonl,
// the check of a run that is gone on with. So the line is the only place where an option's name,
// default, legal values and meaning stand.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/option_set.h"
#include "base/option_value.h"
#include "base/subcommand_set.h"

namespace vax {

// Whether a run that goes on from a checkpoint may have another value than the run that wrote it.
enum class OnResume {
  kNamed,        // yes, but the numbers change: it is named in the log
  kRefused,      // no: the remaining steps would be on other rows or weights, or of another shape
  kSameNumbers,  // yes: where files lie, how work and weights are spread, what is written when
};

struct SectionTraits {
  std::string name;
  SubcommandSet users = 0;
  OnResume on_resume = OnResume::kNamed;
};

// What an option may say beyond member, default and meaning.
struct OptionTraits {
  Rule legal = {};          // beyond the type; an enumeration's words are legal of themselves
  std::string unset = "-";  // help's default column when the member is empty ("all")
  SubcommandSet users = 0;  // 0: the section's
  OnResume on_resume = OnResume::kNamed;  // kNamed: the section's
  std::string key = {};                   // where the member's name cannot be the option's
};

struct OptionRow {
  std::string section;  // "train"
  std::string key;      // "lr"
  std::string meaning;
  std::string unset;
  SubcommandSet used_by = 0;
  OnResume on_resume = OnResume::kNamed;
  ValueKind kind = ValueKind::kText;
  bool is_list = false;
  bool may_be_unset = false;  // an empty text is legal and means "not given"
  Rule rule;

  // False when the text is not a legal value; the member is then untouched.
  std::function<bool(Options&, std::string_view, const Rule&)> read;
  // An item each of a list, else one, or none of an empty optional.
  std::function<std::vector<std::string>(const Options&)> words;

  bool assign(Options& options, std::string_view text) const { return read(options, text, rule); }
  // "" = unset; assign() of it gives the same value.
  std::string text(const Options& options) const {
    return is_list ? join_list(words(options)) : join(words(options), "");
  }
  std::string name() const { return section + "." + key; }
  std::string expected() const { return expected_text(kind, is_list, rule); }
};

struct OptionSection {
  std::string name;
  std::vector<OptionRow> rows;  // in the order of their declaration
};

template <typename Section, typename T>
OptionRow make_option_row(T Section::*member, std::string name, std::string meaning,
                          OptionTraits traits) {
  const SectionTraits section = Section::section_traits();
  const bool may_be_unset = is_unset(Section{}.*member);
  OptionRow row{
      .section = section.name,
      .key = traits.key.empty() ? std::move(name) : std::move(traits.key),
      .meaning = std::move(meaning),
      .unset = std::move(traits.unset),
      .used_by = traits.users != 0 ? traits.users : section.users,
      .on_resume = traits.on_resume != OnResume::kNamed ? traits.on_resume : section.on_resume,
      .kind = value_kind<T>(),
      .is_list = ValueTraits<T>::is_list,
      .may_be_unset = may_be_unset,
      .rule = std::move(traits.legal),
      .read =
          [member, may_be_unset](Options& options, std::string_view text, const Rule& rule) {
            T& target = options.get<Section>().*member;
            if (!text.empty() || !may_be_unset) return read_value(text, rule, target);
            target = T{};
            return true;
          },
      .words =
          [member](const Options& options) { return value_words(options.get<Section>().*member); }};
  if constexpr (Choice<typename ValueTraits<T>::Item>)
    row.rule.choices = words_without_empty<typename ValueTraits<T>::Item>();
  return row;
}

// The macros below leave one overload of option_at() a line; they are collected by counting lines.
template <int>
struct Line {};
inline constexpr int kMostSectionLines = 200;

template <typename Section, int... Offsets>
OptionSection collect_rows(std::integer_sequence<int, Offsets...>) {
  OptionSection section{.name = Section::section_traits().name, .rows = {}};
  const auto add = [&section]<int Number>(Line<Number> line) {
    if constexpr (requires { Section::option_at(line); })
      section.rows.push_back(Section::option_at(line));
  };
  (add(Line<Section::kSectionLine + Offsets>{}), ...);
  return section;
}

template <typename Section>
OptionSection option_section() {
  return collect_rows<Section>(std::make_integer_sequence<int, kMostSectionLines>{});
}

}  // namespace vax

#define VAX_SECTION(Struct, ...)                                         \
  using Section = Struct;                                                \
  static ::vax::SectionTraits section_traits() { return {__VA_ARGS__}; } \
  static constexpr int kSectionLine = __LINE__

#define VAX_OPTION(Type, member, initial, meaning, ...)                \
  static ::vax::OptionRow option_at(::vax::Line<__LINE__>) {           \
    static_assert(__LINE__ < kSectionLine + ::vax::kMostSectionLines); \
    return ::vax::make_option_row(&Section::member, #member, meaning,  \
                                  ::vax::OptionTraits{__VA_ARGS__});   \
  }                                                                    \
  Type member = initial
