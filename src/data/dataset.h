// The samples of a run in a fixed order, with their origin. Every rank builds the same dataset from
// the same files; what it trains on is decided by sampler.h and packing.h. Order: rows of the
// harmful file first (for an attack mixture), then rows of the data file, each in file order, so
// that the harmful rows of a smaller ratio are the first of those of a larger one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/data_options.h"
#include "data/sample.h"
#include "data/tokenizer.h"

namespace vax::data {

struct DataSource {
  std::string role;  // "data" | "harmful"
  std::string path;
  std::string sha256;  // of the whole file
  int64_t rows = 0;    // taken from it
};

struct Dataset {
  std::vector<Sample> samples;
  std::vector<DataSource> sources;
  // Rows that train nothing, and rows that lost their end to max_length: for the caller to warn of.
  int64_t num_without_labels = 0;
  int64_t num_cut = 0;

  int64_t size() const { return static_cast<int64_t>(samples.size()); }
};

// Without attack_mixture: data.samples rows of data.path (all by default) after the first
// data.skip. With it: n = data.samples (by default as many as data.path has after data.skip), of
// which the first harmful_count(harmful_ratio, n) rows come from data.harmful_path and the others
// from data.path after data.skip (METHOD: stage 2). THROWS ConfigError when an option is out of
// range or a file has too few rows (with the counts), DataError for a bad file.
Dataset build_dataset(const DataOptions& options, const Tokenizer& tokenizer, bool attack_mixture);

// The first rows of `path` in file order, at most `at_most`, read and rendered as `options` say:
// the fixed samples of drift and of the alignment loss. No skip, no mixture.
Dataset build_first_rows(const std::filesystem::path& path, int64_t at_most,
                         const DataOptions& options, const Tokenizer& tokenizer);

// All rows of `path` in file order, read and rendered as `options` say: a stream of its own that a
// method reads, as the source `role`. THROWS ConfigError for a file without rows.
Dataset build_rows(const std::string& role, const std::filesystem::path& path,
                   const DataOptions& options, const Tokenizer& tokenizer);

// floor(ratio * num_samples) for the decimal that the user wrote: 0.29 of 100 is 29, although the
// nearest double is below it. REQUIRES 0 <= ratio <= 1.
int64_t harmful_count(double ratio, int64_t num_samples);

}  // namespace vax::data
