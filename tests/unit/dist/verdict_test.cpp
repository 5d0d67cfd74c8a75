#include "dist/watch/verdict.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace vax::dist {
namespace {

using Answers = std::vector<std::optional<RankTable>>;

const GroupKey kWorld{"world", {0, 1, 2, 3}, 1};
const GroupKey kLow{"frozen", {0, 1}, 1}, kHigh{"frozen", {2, 3}, 1};

std::vector<RankName> names(size_t count) {
  std::vector<RankName> result;
  for (size_t i = 0; i < count; ++i)
    result.push_back({cat("n", i / 2), static_cast<int64_t>(100 + i)});
  return result;
}

CallSummary call(int64_t sequence, std::string operation, bool waiting, int64_t count = 10) {
  return {.sequence = sequence,
          .operation = std::move(operation),
          .count = count,
          .num_bytes = 4 * count,
          .place = "step 9, pass 2",
          .is_done = !waiting,
          .waiting_s = waiting ? 700.0 : -1};
}

GroupTable group(const GroupKey& key, std::vector<CallSummary> calls) {
  const int64_t started = calls.empty() ? 0 : calls.back().sequence;
  return {.key = key, .started = started, .done = started - 1, .calls = std::move(calls)};
}

RankTable rank(int number, std::vector<GroupTable> groups) {
  return {.rank = number, .place = "step 9, update", .groups = std::move(groups)};
}

// A rank that waits in call 5 of `key`, or has done call 4.
RankTable waits_in(int number, const GroupKey& key) {
  return rank(number, {group(key, {call(4, "all_reduce", false), call(5, "all_gather", true)})});
}
RankTable computes(int number, const GroupKey& key) {
  return rank(number, {group(key, {call(4, "all_reduce", false)})});
}

TEST(Verdict, NamesTheRankThatDoesNotRespond) {
  const Answers answers = {waits_in(0, kWorld), waits_in(1, kWorld), std::nullopt,
                           waits_in(3, kWorld)};
  EXPECT_EQ(make_verdict(names(4), answers),
            "all_gather #5 of group world (40 bytes) at step 9, pass 2: rank 2 of 4 (host n1, pid "
            "102) does not respond; waiting: ranks 0 1 3");
}

TEST(Verdict, SaysWhatTheMissingRankDoesInstead) {
  const Answers answers = {waits_in(0, kWorld), computes(1, kWorld), waits_in(2, kWorld),
                           waits_in(3, kWorld)};
  EXPECT_EQ(make_verdict(names(4), answers),
            "all_gather #5 of group world (40 bytes) at step 9, pass 2: rank 1 of 4 (host n0, pid "
            "101) has not come: it does not wait, it is at step 9, update; its last call of this "
            "group is all_reduce #4; waiting: ranks 0 2 3");
}

TEST(Verdict, NamesEveryMissingRank) {
  const Answers answers = {waits_in(0, kWorld), computes(1, kWorld), std::nullopt, std::nullopt};
  const std::string text = make_verdict(names(4), answers);
  for (const char* part : {"rank 1 of 4 (host n0, pid 101) has not come",
                           "rank 2 of 4 (host n1, pid 102) does not respond",
                           "rank 3 of 4 (host n1, pid 103) does not respond", "waiting: rank 0"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
}

// Ranks 0 and 1 wait for rank 2 in the world, rank 2 waits for rank 3 in their group: 3 it is.
TEST(Verdict, FollowsTheChainOfWaitsToItsBeginning) {
  RankTable second = computes(2, kWorld);
  second.groups.push_back(group(kHigh, {call(7, "all_gather", true)}));
  const Answers answers = {waits_in(0, kWorld), waits_in(1, kWorld), second, std::nullopt};
  EXPECT_EQ(make_verdict(names(4), answers),
            "all_gather #7 of group frozen (40 bytes) at step 9, pass 2: rank 3 of 4 (host n1, pid "
            "103) does not respond; waiting: rank 2; in all_gather #5 of group world: ranks 0 1");
}

// Each waits for the other in another group.
TEST(Verdict, TellsACircle) {
  const GroupKey a{"a", {0, 1}, 1}, b{"b", {0, 1}, 1};
  const Answers answers = {rank(0, {group(a, {call(1, "barrier", true)}), group(b, {})}),
                           rank(1, {group(a, {}), group(b, {call(1, "barrier", true)})})};
  EXPECT_EQ(
      make_verdict(names(2), answers),
      "barrier #1 of group a (40 bytes) at step 9, pass 2: rank 1 of 2 (host n0, pid 101) has "
      "not come: it waits in barrier #1 of group b (40 bytes) at step 9, pass 2; waiting: "
      "rank 0");
}

TEST(Verdict, TellsDifferentOperationsUnderOneNumber) {
  Answers answers = {waits_in(0, kWorld), waits_in(1, kWorld), waits_in(2, kWorld),
                     rank(3, {group(kWorld, {call(5, "broadcast", true)})})};
  EXPECT_EQ(
      make_verdict(names(4), answers),
      "ranks disagree on call #5 of group world: all_gather of 10 elements, 40 bytes, at step "
      "9, pass 2, on ranks 0-2; broadcast of 10 elements, 40 bytes, at step 9, pass 2, on rank "
      "3; waiting: ranks 0-3");
  // In an earlier call that went through: the first difference counts.
  answers[3] = rank(3, {group(kWorld, {call(4, "barrier", false), call(5, "broadcast", true)})});
  EXPECT_NE(make_verdict(names(4), answers).find("disagree on call #4"), std::string::npos);
}

TEST(Verdict, TellsDifferentCountsUnderOneNumber) {
  const Answers answers = {
      rank(0, {group(kLow, {call(2, "all_gather", true, 10)})}),
      rank(1, {group(kLow, {call(2, "all_gather", true, 11)})}),
  };
  EXPECT_NE(make_verdict(names(2), answers)
                .find("disagree on call #2 of group frozen: all_gather of 10 elements"),
            std::string::npos);
}

// The same name and number in groups of other ranks is no difference.
TEST(Verdict, GroupsOfOtherMembersAreOtherGroups) {
  const Answers answers = {waits_in(0, kLow), computes(1, kLow),
                           rank(2, {group(kHigh, {call(5, "barrier", false)})}), std::nullopt};
  EXPECT_NE(make_verdict(names(4), answers).find("rank 1 of 4 (host n0, pid 101) has not come"),
            std::string::npos);
}

TEST(Verdict, ARankWithoutTheGroupIsMissing) {
  const Answers answers = {waits_in(0, kLow), rank(1, {})};
  EXPECT_NE(make_verdict(names(2), answers).find("it has made no call of this group"),
            std::string::npos);
}

TEST(Verdict, TellsACallThatAllHaveStarted) {
  const Answers answers = {waits_in(0, kLow),
                           rank(1, {group(kLow, {call(5, "all_gather", false)})})};
  EXPECT_EQ(
      make_verdict(names(2), answers),
      "all_gather #5 of group frozen (40 bytes) at step 9, pass 2: every rank has started it, "
      "but it does not end; rank 1 of 2 (host n0, pid 101) does not wait, it is at step 9, "
      "update; its last call of this group is all_gather #5; waiting: rank 0");
}

TEST(Leader, IsTheLowestOfThoseThatAsk) {
  EXPECT_EQ(leader_after(std::nullopt, 3), 3);
  EXPECT_EQ(leader_after(3, 1), 1);
  EXPECT_EQ(leader_after(1, 3), 1);
  EXPECT_EQ(leader_after(2, 2), 2);
}

TEST(Verdict, WithoutAWaitThereIsNobodyToBlame) {
  EXPECT_EQ(make_verdict(names(2), {computes(0, kLow), std::nullopt}), "no rank waits any more");
}

}  // namespace
}  // namespace vax::dist
