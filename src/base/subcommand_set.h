// The program's subcommands as bits: an option says by a set of them who uses it. Their names and
// summaries are in app/subcommands.h.
#pragma once

namespace vax {

using SubcommandSet = unsigned;

inline constexpr SubcommandSet kInit = 1U << 0;
inline constexpr SubcommandSet kAlign = 1U << 1;
inline constexpr SubcommandSet kFinetune = 1U << 2;
inline constexpr SubcommandSet kEval = 1U << 3;
inline constexpr SubcommandSet kDrift = 1U << 4;
inline constexpr SubcommandSet kGenerate = 1U << 5;
inline constexpr SubcommandSet kTokenize = 1U << 6;
inline constexpr SubcommandSet kExport = 1U << 7;
inline constexpr SubcommandSet kPlan = 1U << 8;
inline constexpr SubcommandSet kRebuild = 1U << 9;

inline constexpr SubcommandSet kTraining = kAlign | kFinetune;
inline constexpr SubcommandSet kModelUsers = kTraining | kEval | kDrift | kGenerate;
inline constexpr SubcommandSet kSampleUsers = kModelUsers | kTokenize;
inline constexpr SubcommandSet kWeightUsers = kModelUsers | kExport;

}  // namespace vax
