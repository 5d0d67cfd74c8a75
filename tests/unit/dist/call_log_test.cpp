#include "dist/comm/call_log.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/wire.h"

namespace vax::dist {
namespace {

const CallSummary& last_call(const RankTable& table, size_t group = 0) {
  return table.groups.at(group).calls.back();
}

TEST(CallLog, NumbersTheCallsOfEachGroup) {
  const auto log = CallLog::make(3);
  const auto world = log->add_group("world", {0, 1, 2, 3}), pair = log->add_group("pair", {2, 3});
  Call(world, "barrier", 0, 0).done();
  const Call gather(pair, "all_gather", 8, 32);
  const Call sum(world, "all_reduce", 1, 8);
  const std::vector<CallRecord> records = log->records();
  ASSERT_EQ(records.size(), 3U);
  EXPECT_EQ(records[0].sequence, 1);
  EXPECT_EQ(records[1].sequence, 1);
  EXPECT_EQ(records[2].sequence, 2);
  const RankTable table = log->table();
  EXPECT_EQ(table.rank, 3);
  ASSERT_EQ(table.groups.size(), 2U);
  EXPECT_EQ(table.groups[0].key, (GroupKey{"world", {0, 1, 2, 3}, 1}));
  EXPECT_EQ(table.groups[0].started, 2);
  EXPECT_EQ(table.groups[0].done, 1);
  EXPECT_EQ(last_call(table, 1).operation, "all_gather");
  EXPECT_EQ(last_call(table, 1).num_bytes, 32);
  EXPECT_FALSE(last_call(table, 1).is_done);
}

TEST(CallLog, GroupsOfOneNameAndMembersAreCounted) {
  const auto log = CallLog::make(0);
  const auto first = log->add_group("a", {0, 1}), second = log->add_group("a", {0, 1});
  const auto other = log->add_group("a", {0, 2});
  EXPECT_EQ(first->key().ordinal, 1);
  EXPECT_EQ(second->key().ordinal, 2);
  EXPECT_EQ(other->key().ordinal, 1);
}

TEST(CallLog, AGroupThatHasGoneIsInNoTableButItsRecordsStay) {
  const auto log = CallLog::make(0);
  auto group = log->add_group("short", {0, 1});
  Call(group, "barrier", 0, 0).done();
  group.reset();
  EXPECT_TRUE(log->table().groups.empty());
  ASSERT_EQ(log->records().size(), 1U);
  EXPECT_EQ(log->records()[0].group->name, "short");
}

TEST(CallLog, TheRingKeepsTheNewest) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  const int64_t num_calls = 3 * static_cast<int64_t>(CallLog::kNumRecords) + 5;
  for (int64_t i = 0; i < num_calls; ++i) Call(group, "barrier", 0, 0).done();
  const std::vector<CallRecord> records = log->records();
  ASSERT_EQ(records.size(), CallLog::kNumRecords);
  for (size_t i = 0; i < records.size(); ++i)
    EXPECT_EQ(records[i].sequence, num_calls + 1 - static_cast<int64_t>(records.size() - i));
  EXPECT_EQ(log->table().groups[0].started, num_calls);
  EXPECT_EQ(last_call(log->table()).sequence, num_calls);
}

// A gather that was started long ago is waited for after the ring has forgotten it.
TEST(CallLog, AWaitForAnOldCallIsSeen) {
  const auto log = CallLog::make(0);
  const auto frozen = log->add_group("frozen", {0, 1}), world = log->add_group("world", {0, 1});
  log->set_place("step 1");
  Call old(frozen, "all_gather", 4, 16);
  log->set_place("step 2");
  for (size_t i = 0; i <= CallLog::kNumRecords; ++i) Call(world, "barrier", 0, 0).done();
  EXPECT_EQ(last_call(log->table()).operation, "all_gather");
  EXPECT_FALSE(last_call(log->table()).is_waiting());
  old.wait_begins();
  EXPECT_EQ(log->waits().size(), 1U);
  EXPECT_TRUE(last_call(log->table()).is_waiting());
  EXPECT_EQ(last_call(log->table()).place, "step 1");
  for (const CallRecord& record : log->records()) EXPECT_STREQ(record.operation, "barrier");
  old.done();
  EXPECT_TRUE(log->waits().empty());
  EXPECT_TRUE(last_call(log->table()).is_done);
}

TEST(CallLog, AWaitEndsWithOrBeforeItsCall) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  Call call(group, "all_gather", 4, 16);
  EXPECT_TRUE(log->waits().empty());
  call.wait_begins();
  const std::vector<Wait> first = log->waits();
  call.wait_begins();  // goes on
  EXPECT_EQ(log->waits(), first);
  call.wait_ends();
  EXPECT_TRUE(log->waits().empty());
  EXPECT_FALSE(last_call(log->table()).is_waiting());
  EXPECT_FALSE(last_call(log->table()).is_done);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  call.wait_begins();
  ASSERT_EQ(log->waits().size(), 1U);
  EXPECT_EQ(log->waits()[0].number, first[0].number);
  EXPECT_NE(log->waits()[0].since, first[0].since);  // another wait for the same call
  { const Call gone = std::move(call); }
  EXPECT_TRUE(log->waits().empty());
  EXPECT_TRUE(last_call(log->table()).is_done);
}

TEST(CallLog, ABlockingCallWaitsFromItsStart) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  {
    const Call call = Call::blocking(group, "barrier");
    ASSERT_EQ(log->waits().size(), 1U);
    EXPECT_EQ(log->waits()[0].since, log->records()[0].started);
    EXPECT_TRUE(last_call(log->table()).is_waiting());
  }
  EXPECT_TRUE(log->waits().empty());
  EXPECT_TRUE(last_call(log->table()).is_done);
  EXPECT_FALSE(log->records()[0].is_waiting);
}

TEST(CallLog, AnEmptyCallAndAMovedOneRecordNothing) {
  Call empty(nullptr, "barrier", 0, 0);
  empty.wait_begins();
  empty.done();
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  Call first(group, "barrier", 0, 0);
  Call second = std::move(first);
  EXPECT_FALSE(last_call(log->table()).is_done);
  second = Call(group, "barrier", 0, 0);  // ends the one before
  EXPECT_EQ(log->table().groups[0].done, 1);
  EXPECT_EQ(log->table().groups[0].started, 2);
}

TEST(CallLog, CallsCarryThePlaceOfTheirStart) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  log->set_phase("start");
  const Call alone(group, "barrier", 0, 0);
  EXPECT_EQ(last_call(log->table()).place, "start");
  log->set_place("step 7\twith a tab");
  log->set_phase("pass 1");
  const Call call(group, "barrier", 0, 0);
  EXPECT_EQ(last_call(log->table()).place, "step 7 with a tab, pass 1");
  log->set_place(std::string(500, 'x'));
  EXPECT_EQ(last_call(log->table()).place, "step 7 with a tab, pass 1");
  EXPECT_EQ(log->table().place, std::string(63, 'x'));
}

TEST(CallLog, WritesATableForPeople) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("frozen", {0, 1, 2, 3, 6});
  log->set_place("step 3");
  Call(group, "all_gather", 100, 400).done();
  Call waits(group, "reduce_scatter", 10, 40);
  waits.wait_begins();
  std::ostringstream out;
  write_records(out, log->records(), log->records()[1].waiting_since + std::chrono::seconds(5),
                std::chrono::system_clock::now());
  std::istringstream in(out.str());
  std::string header, done, waiting, rest;
  std::getline(in, header);
  std::getline(in, done);
  std::getline(in, waiting);
  EXPECT_NE(done.find("done"), std::string::npos) << done;
  EXPECT_NE(done.find("all_gather"), std::string::npos) << done;
  EXPECT_NE(done.find("400  frozen, 0-3 6, step 3"), std::string::npos) << done;
  EXPECT_NE(waiting.find("waiting"), std::string::npos) << waiting;
  EXPECT_NE(waiting.find(" 5000.000 "), std::string::npos) << waiting;
  EXPECT_FALSE(std::getline(in, rest));
  EXPECT_EQ(header.find("group"), done.find("frozen"));  // columns
}

// The watchdog reads while the main thread writes.
TEST(CallLog, IsReadWhileItIsWritten) {
  const auto log = CallLog::make(0);
  const auto group = log->add_group("world", {0, 1});
  std::atomic<bool> ends{false};
  std::thread writer([&] {
    for (int64_t i = 0; !ends; ++i) {
      Call call(group, "barrier", i, 8 * i);
      call.wait_begins();
    }
  });
  while (log->table().groups[0].started < 1000) std::this_thread::yield();
  for (int i = 0; i < 200; ++i) {
    for (const CallRecord& record : log->records()) {
      ASSERT_EQ(record.count, record.sequence - 1);
      ASSERT_EQ(record.num_bytes, 8 * record.count);
    }
    const RankTable table = log->table();
    ASSERT_EQ(last_call(table).sequence, table.groups[0].started);
  }
  ends = true;
  writer.join();
}

TEST(CallTable, EverythingTravels) {
  const auto log = CallLog::make(5);
  const auto world = log->add_group("world", {0, 5}),
             empty = log->add_group("without calls", {5, 7});
  log->set_place("step 1");
  Call(world, "barrier", 0, 0).done();
  Call waits(world, "all_reduce", 3, 24);
  waits.wait_begins();
  const RankTable table = log->table();
  EXPECT_EQ(from_wire<RankTable>(to_wire(table)), table);
}

TEST(CallTable, RefusesWhatIsNoTable) {
  const auto log = CallLog::make(1);
  Call(log->add_group("world", {0, 1}), "barrier", 0, 0).done();
  const std::string bytes = to_wire(log->table());
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_THROW(from_wire<RankTable>(bytes.substr(0, length)), DataError) << length;
  EXPECT_THROW(from_wire<RankTable>(bytes + "x"), DataError);
}

TEST(CallTable, RanksAreShortWhereTheyRun) {
  EXPECT_EQ(ranks_text({}), "");
  EXPECT_EQ(ranks_text({4}), "4");
  EXPECT_EQ(ranks_text({0, 1}), "0 1");
  EXPECT_EQ(ranks_text({0, 1, 2}), "0-2");
  EXPECT_EQ(ranks_text({0, 2, 3, 4, 5, 9, 8}), "0 2-5 9 8");
}

}  // namespace
}  // namespace vax::dist
