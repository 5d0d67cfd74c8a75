#include "dist/watch/verdict.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace vax::dist {
namespace {

using Answers = std::vector<std::optional<RankTable>>;

// A call that some rank waits in.
struct WaitedCall {
  GroupKey key;
  CallSummary call;            // as the first of the waiting ranks has it
  std::vector<int> waiting;    // ranks
  std::vector<int> missing;    // members that have not started it
  std::vector<int> elsewhere;  // members that have started it and do not wait in it
};

const GroupTable* group_of(const RankTable& table, const GroupKey& key) {
  for (const GroupTable& group : table.groups)
    if (group.key == key) return &group;
  return nullptr;
}

const CallSummary* waiting_call(const RankTable& table, const GroupTable** group) {
  for (const GroupTable& candidate : table.groups)
    for (const CallSummary& call : candidate.calls)
      if (call.is_waiting()) {
        *group = &candidate;
        return &call;
      }
  return nullptr;
}

bool waits(const std::optional<RankTable>& answer) {
  const GroupTable* group = nullptr;
  return answer && waiting_call(*answer, &group) != nullptr;
}

std::string name_of_call(const GroupKey& key, const CallSummary& call) {
  return cat(call.operation, " #", call.sequence, " of group ", key.name,
             key.ordinal > 1 ? cat(" (no. ", key.ordinal, " of this name)") : "");
}

std::string full_name(const GroupKey& key, const CallSummary& call) {
  return cat(name_of_call(key, call), " (", call.num_bytes, " bytes)",
             call.place.empty() ? "" : cat(" at ", call.place));
}

std::string ranks_phrase(const std::vector<int>& ranks) {
  return cat(ranks.size() == 1 ? "rank " : "ranks ", ranks_text(ranks));
}

// Every call that is waited for, in the order of the ranks that wait.
std::vector<WaitedCall> waited_calls(const Answers& answers) {
  std::vector<WaitedCall> calls;
  for (const auto& answer : answers) {
    const GroupTable* group = nullptr;
    const CallSummary* call = answer ? waiting_call(*answer, &group) : nullptr;
    if (call == nullptr) continue;
    const auto known = std::find_if(calls.begin(), calls.end(), [&](const WaitedCall& other) {
      return other.key == group->key && other.call.sequence == call->sequence;
    });
    if (known != calls.end())
      known->waiting.push_back(answer->rank);
    else
      calls.push_back({.key = group->key, .call = *call, .waiting = {answer->rank}});
  }
  for (WaitedCall& waited : calls)
    for (const int rank : waited.key.members) {
      const auto& answer = answers.at(static_cast<size_t>(rank));
      const GroupTable* const group = answer ? group_of(*answer, waited.key) : nullptr;
      const bool is_there = group != nullptr && group->started >= waited.call.sequence;
      if (!is_there)
        waited.missing.push_back(rank);
      else if (std::ranges::count(waited.waiting, rank) == 0)
        waited.elsewhere.push_back(rank);
    }
  return calls;
}

// "rank 2 of 4 (host n1, pid 4242)".
std::string name_of_rank(const std::vector<RankName>& names, int rank) {
  const RankName& name = names.at(static_cast<size_t>(rank));
  return cat("rank ", rank, " of ", names.size(), " (host ", name.host, ", pid ", name.pid, ")");
}

// What a rank that answered does: "waits in ..." or "is at ..., last call ...".
std::string occupation(const RankTable& table, const GroupKey& key) {
  const GroupTable* group = nullptr;
  if (const CallSummary* const call = waiting_call(table, &group))
    return cat("waits in ", full_name(group->key, *call));
  std::string text =
      table.place.empty() ? "does not wait" : cat("does not wait, it is at ", table.place);
  const GroupTable* const own = group_of(table, key);
  if (own == nullptr || own->calls.empty()) return text + "; it has made no call of this group";
  return cat(text, "; its last call of this group is ", own->calls.back().operation, " #",
             own->started);
}

// The earliest call of a group that is waited in under whose number ranks made different calls;
// empty when there is none.
std::string disagreement(const Answers& answers, const WaitedCall& waited) {
  struct Made {
    std::string place;
    std::vector<int> ranks;
  };
  std::map<int64_t, std::map<std::string, Made>> made;  // by number, then by what was called
  for (const auto& answer : answers) {
    const GroupTable* const group = answer ? group_of(*answer, waited.key) : nullptr;
    if (group == nullptr) continue;
    for (const CallSummary& call : group->calls) {
      const std::string kind =
          cat(call.operation, " of ", call.count, " elements, ", call.num_bytes, " bytes");
      Made& entry = made[call.sequence].try_emplace(kind, Made{call.place, {}}).first->second;
      entry.ranks.push_back(answer->rank);
    }
  }
  for (const auto& [sequence, kinds] : made) {
    if (kinds.size() < 2) continue;
    std::string text = cat("ranks disagree on call #", sequence, " of group ", waited.key.name);
    const char* separator = ": ";
    for (const auto& [kind, entry] : kinds) {
      text += cat(separator, kind, entry.place.empty() ? "" : ", at " + entry.place, ", on ",
                  ranks_phrase(entry.ranks));
      separator = "; ";
    }
    return text;
  }
  return "";
}

std::string describe_missing(const std::vector<RankName>& names, const Answers& answers,
                             const WaitedCall& waited) {
  std::string text;
  const auto append = [&text](const std::string& part) {
    text += text.empty() ? part : "; " + part;
  };
  for (const int rank : waited.missing)
    if (!answers.at(static_cast<size_t>(rank)))
      append(name_of_rank(names, rank) + " does not respond");
  for (const int rank : waited.missing)
    if (const auto& answer = answers.at(static_cast<size_t>(rank)))
      append(cat(name_of_rank(names, rank), " has not come: it ", occupation(*answer, waited.key)));
  return text;
}

// The first call whose missing ranks wait for nobody; if there is none the first one of which some
// do not, then the first that misses anybody (a circle), then the first.
const WaitedCall& beginning_of_chain(const Answers& answers, const std::vector<WaitedCall>& calls) {
  const WaitedCall* best = nullptr;
  int best_grade = -1;
  for (const WaitedCall& waited : calls) {
    const auto num_waiting = std::ranges::count_if(
        waited.missing, [&](int rank) { return waits(answers.at(static_cast<size_t>(rank))); });
    const auto num_missing = std::ssize(waited.missing);
    const int grade = num_missing == 0             ? 0
                      : num_waiting == num_missing ? 1
                      : num_waiting > 0            ? 2
                                                   : 3;
    if (grade > best_grade) best = &waited;
    best_grade = std::max(best_grade, grade);
  }
  return *best;
}

// Ranks that are stuck as well, but not in this call.
std::string describe_others(const std::vector<WaitedCall>& calls, const WaitedCall& told) {
  std::string text;
  for (const WaitedCall& other : calls) {
    if (other.key == told.key && other.call.sequence == told.call.sequence) continue;
    std::vector<int> untold;
    std::ranges::set_difference(other.waiting, told.missing, std::back_inserter(untold));
    if (!untold.empty())
      text += cat("; in ", name_of_call(other.key, other.call), ": ", ranks_phrase(untold));
  }
  return text;
}

}  // namespace

int leader_after(std::optional<int> leader, int asking) {
  return std::min(leader.value_or(asking), asking);
}

std::string make_verdict(const std::vector<RankName>& names, const Answers& answers) {
  const std::vector<WaitedCall> calls = waited_calls(answers);
  if (calls.empty()) return "no rank waits any more";
  for (const WaitedCall& waited : calls)
    if (const std::string text = disagreement(answers, waited); !text.empty())
      return cat(text, "; waiting: ", ranks_phrase(waited.waiting), describe_others(calls, waited));
  const WaitedCall* const told = &beginning_of_chain(answers, calls);
  std::string text = full_name(told->key, told->call) + ": ";
  if (!told->missing.empty()) {
    text += describe_missing(names, answers, *told);
  } else {
    text += "every rank has started it, but it does not end";
    for (const int rank : told->elsewhere)
      text += cat("; ", name_of_rank(names, rank), " ",
                  occupation(*answers.at(static_cast<size_t>(rank)), told->key));
  }
  return cat(text, "; waiting: ", ranks_phrase(told->waiting), describe_others(calls, *told));
}

}  // namespace vax::dist
