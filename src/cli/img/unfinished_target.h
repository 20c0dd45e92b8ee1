// SPDX-License-Identifier: Apache-2.0
// The target of a command that a signal may end before it is complete: nothing in it says so, and `check` would call it good. Files that the
// command has made itself are removed then; what was there before stays, and a line on stderr says in either case how it is. The process ends of
// the signal, as its parent expects.
#pragma once

#include <string>
#include <vector>

namespace vireo::cli::img {

// At most one at a time. Signals that are ignored (nohup(1), a shell's background) stay so.
class UnfinishedTarget {
 public:
  // `self` begins the line. `files`: those that will be made, the target first; of them only what is not there yet is removed.
  UnfinishedTarget(const std::string& self, const std::vector<std::string>& files);
  ~UnfinishedTarget();  // from here on it is complete, or the command has failed by itself
  UnfinishedTarget(const UnfinishedTarget&) = delete;
};

}  // namespace vireo::cli::img
