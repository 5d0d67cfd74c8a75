// The direction of dependencies between the folders of src/, read from the include lines, the
// confinement of foreign headers to the folders that own them, and that private headers are
// private: one that begins with "// Private to this folder" (or "// Private to dist", a folder
// around it) is included from there alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

const fs::path kSource = VAX_SOURCE_DIR;

// base <- {dist, ops <- model, data, io} <- train <- {vaccine, finetune, eval} <- app
// In dist: comm <- {device, shard, watch}. Who may include dist may include all its rooms.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"base", {"base"}},
    {"dist/comm", {"base", "dist/comm"}},
    {"dist/device", {"base", "dist/comm", "dist/device"}},
    {"dist/shard", {"base", "dist/comm", "dist/shard"}},
    {"dist/watch", {"base", "dist/comm", "dist/watch"}},
    {"ops", {"base", "ops"}},
    {"model", {"base", "ops", "model"}},
    {"data", {"base", "data"}},
    {"io", {"base", "io"}},
    {"train", {"base", "dist", "ops", "model", "data", "io", "train"}},
    {"vaccine", {"base", "dist", "ops", "model", "data", "io", "train", "vaccine"}},
    {"eval", {"base", "dist", "ops", "model", "data", "io", "train", "eval"}},
    {"app", {"base", "dist", "ops", "model", "data", "io", "train", "vaccine", "eval", "app"}},
};

// Foreign headers by pattern, and the only places that may include them.
const std::vector<std::pair<std::regex, std::regex>> kConfined = {
    {std::regex("^mpi\\.h$"), std::regex("^dist/comm/.*")},
    {std::regex("^(nccl|cuda).*"),
     std::regex("^dist/device/(nccl|cuda)_.*|^ops/device/(cuda/.*|.*_cuda\\.cpp)|.*\\.cu$")},
    {std::regex("^hdf5.*|^H5.*"), std::regex("^io/hdf5_.*")},
    {std::regex("^boost/.*"), std::regex("^app/setting_sources\\.cpp$")},
    {std::regex("^openssl/.*"), std::regex("^base/sha256\\.cpp$")},
    {std::regex("^nlohmann/.*"), std::regex("^(base/json.*|model/.*)")},
    {std::regex("^torch/(torch|all)\\.h$"), std::regex("^$")},
};

struct Include {
  fs::path file;  // relative to src/
  std::string header;
  bool quoted;
};

std::vector<Include> includes_of_source_tree() {
  static const std::regex line_pattern("^#include ([<\"])([^>\"]+)[>\"]");
  std::vector<Include> found;
  for (const auto& entry : fs::recursive_directory_iterator(kSource)) {
    const std::string extension = entry.path().extension();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".inl")
      continue;
    std::ifstream in(entry.path());
    std::smatch match;
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, match, line_pattern))
        found.push_back({fs::relative(entry.path(), kSource), match[2], match[1] == "\""});
  }
  return found;
}

// As in kAllowed: a room, or a folder with what is below it.
std::string folder_of(const fs::path& file) {
  const std::string parent = file.parent_path().string();
  return kAllowed.contains(parent) ? parent : file.begin()->string();
}

// The folder that a private header is private to; empty: it is public.
std::string scope_of(const fs::path& header) {
  static const std::regex mark("^// Private to (this folder|[a-z_/]+)\\b.*");
  std::ifstream in(kSource / header);
  std::string line;
  std::smatch match;
  std::getline(in, line);
  if (!std::regex_match(line, match, mark)) return "";
  return match[1] == "this folder" ? header.parent_path().string() : match[1].str();
}

bool lies_in(const fs::path& file, const std::string& folder) {
  return file.string().starts_with(folder + "/");
}

TEST(Includes, PointOnlyToTheLeft) {
  int checked = 0;
  for (const Include& include : includes_of_source_tree()) {
    if (!include.quoted) continue;
    const std::string from = folder_of(include.file), to = folder_of(include.header);
    ASSERT_TRUE(kAllowed.contains(from)) << from << " is not in the list of folders";
    const std::set<std::string>& allowed = kAllowed.at(from);
    EXPECT_TRUE(allowed.contains(to) || allowed.contains(fs::path(to).begin()->string()))
        << include.file << " includes " << include.header;
    EXPECT_TRUE(fs::exists(kSource / include.header))
        << include.file << " includes " << include.header << ": write paths from src/";
    ++checked;
  }
  EXPECT_GT(checked, 200);
}

TEST(Includes, ForeignHeadersStayInTheirPlace) {
  for (const Include& include : includes_of_source_tree()) {
    for (const auto& [header, place] : kConfined) {
      if (!std::regex_search(include.header, header)) continue;
      EXPECT_TRUE(std::regex_search(include.file.string(), place))
          << include.file << " includes <" << include.header << ">";
    }
  }
}

// Nor does a public header show them to those who include it.
TEST(Includes, PrivateHeadersStayInTheirFolder) {
  int checked = 0;
  for (const Include& include : includes_of_source_tree()) {
    const std::string scope = include.quoted ? scope_of(include.header) : "";
    if (scope.empty()) continue;
    EXPECT_TRUE(lies_in(include.file, scope))
        << include.file << " includes " << include.header << ", which is private to " << scope;
    EXPECT_TRUE(include.file.extension() != ".h" || !scope_of(include.file).empty())
        << include.file << " is public and includes the private " << include.header;
    ++checked;
  }
  EXPECT_GT(checked, 50);
}

// In the folders whose headers all have their users: ops, model and train offer parts to families
// and methods that are not there yet, and nobody may include app.
TEST(Includes, HeadersThatOnlyTheirFolderUsesSaySo) {
  const std::set<std::string> kUsed = {"base", "data", "dist", "eval", "io"};
  std::map<std::string, std::vector<fs::path>> users;
  for (const auto& entry : fs::recursive_directory_iterator(kSource))
    if (entry.path().extension() == ".h") users[fs::relative(entry.path(), kSource).string()];
  for (const Include& include : includes_of_source_tree())
    if (users.contains(include.header)) users[include.header].push_back(include.file);
  // What a public header includes is public; the first round takes those for private that only
  // their folder includes.
  std::set<std::string> inner;
  for (const auto& [header, files] : users)
    if (std::ranges::all_of(files, [&](const fs::path& file) {
          return lies_in(file, fs::path(header).parent_path().string());
        }))
      inner.insert(header);
  const auto shows = [&](const fs::path& file) {
    return file.extension() == ".h" && !inner.contains(file.string());
  };
  while (std::erase_if(inner, [&](const std::string& header) {
           return std::ranges::any_of(users.at(header), shows);
         }) > 0) {
  }
  for (const std::string& header : inner)
    EXPECT_TRUE(!kUsed.contains(fs::path(header).begin()->string()) || !scope_of(header).empty())
        << header << " is used in its folder only: let it begin with \"// Private to this folder\"";
  EXPECT_GT(inner.size(), 20U);
}

TEST(Includes, EveryHeaderIsGuardedAndSaysWhatItIs) {
  for (const auto& entry : fs::recursive_directory_iterator(kSource)) {
    if (entry.path().extension() != ".h") continue;
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    EXPECT_NE(text.find("#pragma once"), std::string::npos) << entry.path();
    EXPECT_EQ(text.rfind("//", 0), 0U) << entry.path() << " does not say what it is";
  }
}

}  // namespace
