// Configuration files: syntax, places in messages, sharing of one file between subcommands.
#include <gtest/gtest.h>

#include <sstream>

#include "app/setting_sources.h"
#include "app_test_support.h"
#include "data/data_options.h"
#include "train/model_options.h"
#include "train/train_options.h"
#include "vaccine/vaccine_options.h"

namespace vax::app {
namespace {

const std::vector<std::string> kSections = {"model", "train", "adapter"};

std::vector<Setting> read(const std::string& text) {
  std::istringstream stream(text);
  return read_ini(stream, "x.cfg", kSections);
}

std::string read_error(const std::string& text) {
  return message_of([&] { read(text); });
}

// Parses `align --config FILE` for a file of that text; "FILE" stands for its name in messages.
std::string align_error(const std::string& text) {
  TemporaryDirectory dir;
  const std::string file = dir.write("x.cfg", text);
  std::string message = message_of([&] { parse({"align", "--config", file}); });
  const size_t at = message.find(file);
  return at == std::string::npos ? message : message.replace(at, file.size(), "FILE");
}

TEST(ConfigFile, ReadsSectionsCommentsAndSpaces) {
  const auto settings = read(
      "# head\n"
      "\n"
      "[train]  # section\n"
      "lr = 1e-3   # rate\n"
      "   clip=2\n"
      "[model]\n"
      "path = a dir/with = sign\r\n"
      "dtype =\n");
  ASSERT_EQ(settings.size(), 4U);
  EXPECT_EQ(settings[0].name, "train.lr");
  EXPECT_EQ(settings[0].values, std::vector<std::string>{"1e-3"});
  EXPECT_EQ(settings[0].where, "x.cfg:4");
  EXPECT_EQ(settings[1].name, "train.clip");
  EXPECT_EQ(settings[1].where, "x.cfg:5");
  EXPECT_EQ(settings[2].values, std::vector<std::string>{"a dir/with = sign"});
  EXPECT_EQ(settings[3].name, "model.dtype");
  EXPECT_EQ(settings[3].values, std::vector<std::string>{""});
  EXPECT_EQ(settings[3].where, "x.cfg:8");
}

TEST(ConfigFile, EmptyFilesHoldNothing) {
  EXPECT_TRUE(read("").empty());
  EXPECT_TRUE(read("# only a comment").empty());
  EXPECT_TRUE(read("[train]").empty());
}

TEST(ConfigFile, FullNamesStandOutsideSections) {
  EXPECT_EQ(read("train.lr = 3\n").at(0).name, "train.lr");
}

TEST(ConfigFile, SyntaxErrorsNameTheLine) {
  EXPECT_EQ(read_error("[train]\nlr 3\n"),
            "x.cfg:2: expected '[section]' or 'key = value', found 'lr 3'");
  EXPECT_EQ(read_error("[train\n"),
            "x.cfg:1: expected '[section]' or 'key = value', found '[train'");
  EXPECT_EQ(read_error("\n[trian]\n"), "x.cfg:2: unknown section [trian]; did you mean train?");
  EXPECT_EQ(read_error("[]\n"), "x.cfg:1: unknown section []");
}

TEST(ConfigFile, AKeyTwiceInOneFileIsAnError) {
  EXPECT_EQ(read_error("[train]\nlr = 1\nclip = 1\nlr = 1\n"),
            "x.cfg:4: train.lr was given before, at x.cfg:2");
  // The same section may be opened again, but not to say the same thing twice.
  EXPECT_EQ(read_error("[train]\nlr = 1\n[model]\n[train]\nlr = 2\n"),
            "x.cfg:5: train.lr was given before, at x.cfg:2");
}

TEST(ConfigFile, UnknownKeysNameTheLineAndASuggestion) {
  EXPECT_EQ(align_error("[train]\nlr = 1\nwarmup_ration = 1\n"),
            "FILE:3: unknown option train.warmup_ration; did you mean train.warmup_ratio?");
  EXPECT_EQ(align_error("lr = 1\n"), "FILE:1: unknown option lr; did you mean train.lr?");
  EXPECT_EQ(align_error("[sweep]\nkeep = 2\n"), "FILE:1: unknown section [sweep]");
}

TEST(ConfigFile, BadValuesNameTheLine) {
  EXPECT_EQ(align_error("[train]\n\nmicro_batch = 0\n"),
            "train.micro_batch: expected an integer of at least 1, found '0' (FILE:3)");
  EXPECT_EQ(align_error("[data]\nshuffle = yes\n"),
            "data.shuffle: expected true or false, found 'yes' (FILE:2)");
  EXPECT_EQ(align_error("[data]\nshuffle =\n"),
            "data.shuffle: expected true or false, found '' (FILE:2)");
}

TEST(ConfigFile, ListsTakeCommasAndSpaces) {
  TemporaryDirectory dir;
  const std::string file =
      dir.write("x.cfg", "[adapter]\nmerge = a, b c\n[vaccine]\nlayers = 1 2,3");
  const CommandLine line = parse({"align", "--config", file});
  EXPECT_EQ(line.options.get<AdapterOptions>().merge, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(line.options.get<VaccineOptions>().layers, (std::vector<int64_t>{1, 2, 3}));
}

TEST(ConfigFile, ItemsOfAListMayBeQuoted) {
  TemporaryDirectory dir;
  const std::string file =
      dir.write("x.cfg", "[adapter]\nmerge = \"my runs/a, b\", c \"say \\\"x\\\"\"\n");
  const CommandLine line = parse({"align", "--config", file});
  EXPECT_EQ(line.options.get<AdapterOptions>().merge,
            (std::vector<std::string>{"my runs/a, b", "c", "say \"x\""}));
  EXPECT_NE(to_ini(line.options).find("merge = \"my runs/a, b\",c,\"say \\\"x\\\"\"\n"),
            std::string::npos);
  EXPECT_EQ(parse({"align", "--adapter.merge", "\"a b\"", "c"}).options.get<AdapterOptions>().merge,
            (std::vector<std::string>{"a b", "c"}));
  EXPECT_NE(align_error("[adapter]\nmerge = \"a b\n").find("found '\"a b' (FILE:2)"),
            std::string::npos);
}

TEST(ConfigFile, OptionsThatThereWereOnceAreReadOver) {
  TemporaryDirectory dir;
  const std::string file = dir.write("x.cfg", "[adapter]\ndtype = fp32\nr = 3\n");
  EXPECT_EQ(parse({"align", "--config", file}).options.get<AdapterOptions>().r, 3);
  EXPECT_NE(parse_error("align --adapter.dtype fp32").find("unknown option --adapter.dtype"),
            std::string::npos);
}

TEST(ConfigFile, KnownKeysThatTheSubcommandDoesNotUseAreSkipped) {
  TemporaryDirectory dir;
  const std::string file =
      dir.write("x.cfg", "[model]\npath = m\n[train]\nlr = 5\n[data]\nharmful_ratio = 0.5\n");
  const CommandLine line = parse({"eval", "--config", file});
  EXPECT_EQ(line.options.get<ModelOptions>().path, "m");
  EXPECT_EQ(line.options.get<TrainOptions>().lr, TrainOptions{}.lr);
  EXPECT_EQ(line.options.get<DataOptions>().harmful_ratio, 0);
  EXPECT_FALSE(line.given("train.lr"));
}

TEST(ConfigFile, SkippedKeysAreCheckedAllTheSame) {
  TemporaryDirectory dir;
  const std::string file = dir.write("x.cfg", "[train]\nlr = -5\n");
  EXPECT_NE(message_of([&] {
              parse({"eval", "--config", file});
            }).find("found '-5'"),
            std::string::npos);
}

TEST(ConfigFile, FilesThatCannotBeRead) {
  TemporaryDirectory dir;
  EXPECT_EQ(message_of([&] {
              parse({"align", "--config", dir / "none.cfg"});
            }),
            "--config " + (dir / "none.cfg") + ": expected a file, found nothing there");
  EXPECT_EQ(message_of([&] {
              parse({"align", "--config", dir.path()});
            }),
            "--config " + dir.path() + ": expected a file, found a directory");
}

}  // namespace
}  // namespace vax::app
