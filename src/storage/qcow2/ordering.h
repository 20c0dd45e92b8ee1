// SPDX-License-Identifier: Apache-2.0
// The ordering rules that keep an image whole through a power cut, by name. Tests switch one off to see that the crash
// test notices; nothing else may.
#pragma once

#include <cstdint>

namespace vireo::storage::qcow2 {

enum class Rule : uint32_t {
  kRefcountsBeforeL2 = 1 << 0,     // refcounts are stable before an L2 entry that needs them is written
  kDataBeforeL2 = 1 << 1,          // an L2 entry is written after its data
  kL2BeforeL1 = 1 << 2,            // a new L2 table is stable before the L1 entry that names it
  kUnlinkBeforeFree = 1 << 3,      // a reference is gone from the disk before its refcount falls
  kReuseAfterUnlink = 1 << 4,      // a freed cluster is not given out before that, either
  kBlockBeforeReftable = 1 << 5,   // a new refcount block is stable before the table names it
  kDirtyBeforeLazy = 1 << 6,       // lazy refcounts: the dirty bit is stable before the first uncounted cluster
  kCleanAfterRefcounts = 1 << 7,   // ... and goes after all refcounts are stable
  kSnapshotTableBeforeHeader = 1 << 8,  // a snapshot table, and the counts for it, before the header that names it
  kCowBeforeL2 = 1 << 9,           // what is copied around a write is there before the L2 entry
  kFlushAtEnd = 1 << 10,           // a flush returns when metadata is stable
  kL1BeforeHeader = 1 << 11,       // a new L1 table before the header that names it
  kCopiedClearedBySnapshot = 1 << 12,  // a snapshot makes the active tables' COPIED bits go
  kInUseBeforeWrite = 1 << 13,     // a dirty bitmap is marked as in use, stably, before what it does not know of is written
  kBitmapBeforeClean = 1 << 14,    // ... and its bits are stable before that mark goes
};
inline constexpr unsigned kRules = 15;

}  // namespace vireo::storage::qcow2
