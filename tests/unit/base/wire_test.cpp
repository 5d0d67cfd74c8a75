// Values between ranks: what is sent arrives, and bytes of something else are refused.
#include "base/wire.h"

#include <gtest/gtest.h>

#include <limits>

namespace vax {
namespace {

struct Part {
  std::string name;
  bool is_done = false;
  static auto wire_fields(auto& self) { return std::tie(self.name, self.is_done); }
  bool operator==(const Part&) const = default;
};

struct Whole {
  int64_t number = 0;
  double share = 0;
  std::vector<Part> parts;
  std::vector<std::string> texts;
  std::vector<int> numbers;
  static auto wire_fields(auto& self) {
    return std::tie(self.number, self.share, self.parts, self.texts, self.numbers);
  }
  bool operator==(const Whole&) const = default;
};

const Whole kWhole = {.number = std::numeric_limits<int64_t>::min(),
                      .share = 0.1,
                      .parts = {{"a", true}, {std::string("\0\n\t\xff", 4), false}},
                      .texts = {"", "text"},
                      .numbers = {-1, 2}};

TEST(Wire, WhatIsSentArrives) {
  EXPECT_EQ(from_wire<Whole>(to_wire(kWhole)), kWhole);
  EXPECT_EQ(from_wire<Whole>(to_wire(Whole{})), Whole{});
  EXPECT_EQ(from_wire<std::string>(to_wire(std::string("x"))), "x");
  EXPECT_EQ(from_wire<std::vector<double>>(to_wire(std::vector<double>{1, 2.5})),
            (std::vector<double>{1, 2.5}));
}

TEST(Wire, BytesThatAreCutOrTooManyAreRefused) {
  const std::string bytes = to_wire(kWhole);
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_THROW(from_wire<Whole>(std::string_view(bytes).substr(0, length)), DataError) << length;
  EXPECT_THROW(from_wire<Whole>(bytes + "x"), DataError);
}

TEST(Wire, AFalseCountAllocatesNothing) {
  const std::string many = to_wire(std::numeric_limits<uint64_t>::max());
  EXPECT_THROW(from_wire<std::string>(many), DataError);
  EXPECT_THROW(from_wire<std::vector<int64_t>>(many), DataError);
  EXPECT_THROW(from_wire<std::vector<std::string>>(many + many), DataError);
}

}  // namespace
}  // namespace vax
