#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::data {
namespace {

class DatasetBuilder {
 public:
  DatasetBuilder(const DataOptions& options, const Tokenizer& tokenizer)
      : tokenizer_(tokenizer),
        template_(PromptTemplate::named(options.template_name)),
        sample_options_{.format = options.format,
                        .parse_special = options.parse_special,
                        .max_length = options.max_length} {
    if (options.max_length < 1)
      throw ConfigError(cat("data.max_length: expected at least 1, found ", options.max_length));
  }

  RecordFile read(const std::filesystem::path& path) const {
    return read_records(path, {.format = sample_options_.format, .require_output = true});
  }

  // REQUIRES that the file has these rows.
  void add(const std::string& role, const RecordFile& file, int64_t begin, int64_t count) {
    const std::span<const Record> rows =
        std::span(file.records).subspan(narrow<size_t>(begin), narrow<size_t>(count));
    for (const Record& record : rows) {
      Sample sample = make_sample(tokenizer_, template_, record, sample_options_);
      dataset_.num_without_labels += sample.num_labels() == 0 ? 1 : 0;
      dataset_.num_cut += sample.cut ? 1 : 0;
      dataset_.samples.push_back(std::move(sample));
    }
    dataset_.sources.push_back(
        {.role = role, .path = file.path, .sha256 = file.sha256, .rows = count});
  }

  Dataset take() { return std::move(dataset_); }

 private:
  const Tokenizer& tokenizer_;
  PromptTemplate template_;
  SampleOptions sample_options_;
  Dataset dataset_;
};

int64_t num_rows(const RecordFile& file) { return narrow<int64_t>(file.records.size()); }

void check_options(const DataOptions& options, bool attack_mixture) {
  if (options.path.empty()) throw ConfigError("data.path: expected a file, found nothing");
  if (options.skip < 0)
    throw ConfigError(cat("data.skip: expected at least 0, found ", options.skip));
  if (options.samples && *options.samples < 1)
    throw ConfigError(cat("data.samples: expected at least 1, found ", *options.samples));
  if (!(options.harmful_ratio >= 0 && options.harmful_ratio <= 1))
    throw ConfigError(cat("data.harmful_ratio: expected 0 to 1, found ", options.harmful_ratio));
  if (options.harmful_ratio > 0 && !attack_mixture)
    throw ConfigError("data.harmful_ratio: only the attack mixture of `finetune` has harmful rows");
  if (options.harmful_ratio > 0 && options.harmful_path.empty())
    throw ConfigError(cat("data.harmful_ratio is ", options.harmful_ratio,
                          ": expected a file as data.harmful_path, found nothing"));
}

}  // namespace

int64_t harmful_count(double ratio, int64_t num_samples) {
  VAX_CHECK(ratio >= 0 && ratio <= 1 && num_samples >= 0, "ratio ", ratio, " of ", num_samples);
  const double product = ratio * static_cast<double>(num_samples);
  const double nearest = std::round(product);
  // Ratio and product are each rounded once, by at most half an ulp.
  const double error = product * 2 * std::numeric_limits<double>::epsilon();
  const double count = std::abs(product - nearest) <= error ? nearest : std::floor(product);
  return static_cast<int64_t>(count);
}

Dataset build_dataset(const DataOptions& options, const Tokenizer& tokenizer, bool attack_mixture) {
  check_options(options, attack_mixture);
  DatasetBuilder builder(options, tokenizer);
  const RecordFile data = builder.read(options.path);
  const int64_t available = std::max<int64_t>(0, num_rows(data) - options.skip);
  const int64_t wanted = options.samples.value_or(available);
  const int64_t harmful = harmful_count(options.harmful_ratio, wanted);
  const int64_t benign = wanted - harmful;
  if (wanted == 0 || benign > available)
    throw ConfigError(cat("data.path: ", options.path, ": expected ", std::max<int64_t>(benign, 1),
                          " rows after data.skip = ", options.skip, ", found ", available, " (",
                          num_rows(data), " in all)"));
  if (harmful > 0) {
    const RecordFile attack = builder.read(options.harmful_path);
    if (harmful > num_rows(attack))
      throw ConfigError(cat("data.harmful_path: ", options.harmful_path, ": expected ", harmful,
                            " rows (data.harmful_ratio ", options.harmful_ratio, " of ", wanted,
                            " samples), found ", num_rows(attack)));
    builder.add("harmful", attack, 0, harmful);
  }
  if (benign > 0) builder.add("data", data, options.skip, benign);
  return builder.take();
}

Dataset build_first_rows(const std::filesystem::path& path, int64_t at_most,
                         const DataOptions& options, const Tokenizer& tokenizer) {
  if (at_most < 1)
    throw ConfigError(cat(path.string(), ": expected 1 row or more, asked for ", at_most));
  DatasetBuilder builder(options, tokenizer);
  const RecordFile file = builder.read(path);
  builder.add("data", file, 0, std::min(at_most, num_rows(file)));
  return builder.take();
}

Dataset build_rows(const std::string& role, const std::filesystem::path& path,
                   const DataOptions& options, const Tokenizer& tokenizer) {
  DatasetBuilder builder(options, tokenizer);
  const RecordFile file = builder.read(path);
  if (file.records.empty()) throw ConfigError(cat(path.string(), ": expected rows, found none"));
  builder.add(role, file, 0, num_rows(file));
  return builder.take();
}

}  // namespace vax::data
