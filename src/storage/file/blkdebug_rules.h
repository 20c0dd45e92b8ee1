// SPDX-License-Identifier: Apache-2.0
// Faults by rule, for tests of what an image's user does when a disk fails: an event in the format's code, in some state, makes
// transfers fail or changes the state. The same rules as QEMU's blkdebug driver has (its docs/devel/testing/blkdebug).
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/spec.h"

namespace vireo::storage {

enum class IoType : unsigned { kRead = 1, kWrite = 2, kWriteZeroes = 4, kDiscard = 8, kFlush = 16, kBlockStatus = 32 };

class BlkdebugRules {
 public:
  // inject-error.N.*, set-state.N.* and, where `files` allows it, a file of them ("config").
  Result<> take(ImageSpec& spec, bool files);

  void event(std::string_view name);  // may wait, where a breakpoint was set
  // 0, or the error with which a transfer is to fail.
  int check(IoType type, uint64_t offset, uint64_t length);

  // Whoever comes to an event next waits there, under that name, until resume().
  Result<> set_breakpoint(const std::string& event, const std::string& tag);
  bool suspended(const std::string& tag);
  Result<> resume(const std::string& tag);
  Result<> remove_breakpoint(const std::string& tag);

 private:
  struct Inject {
    std::string event;
    int state = 0;
    unsigned types = 31;  // all but block-status
    int error = EIO;
    std::optional<uint64_t> offset;
    bool once = false;
  };
  struct SetState {
    std::string event;
    int state = 0, next = 0;
  };
  struct Breakpoint {
    std::string event, tag;
  };
  Result<> read_config(const std::string& path);
  Result<> add_inject(ImageSpec& one);
  Result<> add_set_state(ImageSpec& one);

  std::mutex mutex_;
  std::condition_variable resumed_;
  int state_ = 1;
  std::vector<Inject> injects_;
  std::vector<SetState> changes_;
  std::vector<size_t> active_;  // indices of injects_
  std::vector<Breakpoint> breakpoints_;
  std::set<std::string> waiting_;
};

// Null when there is no such driver below `file`.
class File;
BlkdebugRules* find_blkdebug(File& file);

}  // namespace vireo::storage
