// Private to this folder: decisions of the watchdog, without MPI and time: who speaks for all, and
// who does not come, from what all ranks say about their calls to one message for people.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "dist/comm/call_table.h"

namespace vax::dist {

// A process, as it named itself when all was well.
struct RankName {
  std::string host;
  int64_t pid = 0;
  static auto wire_fields(auto& self) { return std::tie(self.host, self.pid); }
};

// "all_gather #1234 of group frozen (33554432 bytes) at step 120, pass 1: rank 2 of 4 (host n1, pid
// 4242) does not respond; waiting: ranks 0 1 3". In this order:
// - ranks that made different calls under one number of a group, when somebody waits in it;
// - the ranks that are missing in a call: without an answer, or with one but not there, and what
//   they do instead. Of several calls that are waited for, one in which a rank is missing that does
//   not itself wait for another: where the chain of waits begins.
// - a call that all have started and that does not end.
// `answers[r]`: of rank r of the world; none: no answer. `names` has as many.
std::string make_verdict(const std::vector<RankName>& names,
                         const std::vector<std::optional<RankTable>>& answers);

// Whom a rank takes for the leader once `asking` has asked: of ranks that ask at the same time all
// agree on the lowest. `leader`: so far (the rank itself when it leads); none: nobody.
int leader_after(std::optional<int> leader, int asking);

}  // namespace vax::dist
