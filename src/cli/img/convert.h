// SPDX-License-Identifier: Apache-2.0
// Copying an image's contents into another, several threads at once: each takes the next piece, reads and compresses it,
// and writes it when its turn comes (or at once, where order does not matter).
#pragma once

#include <condition_variable>
#include <mutex>

#include "cli/img/img.h"

namespace vireo::cli::img {

struct CopyJob {
  std::vector<std::shared_ptr<Image>> sources;  // one after the other
  Image* target = nullptr;
  Image* base = nullptr;          // of the one source: what lies there or below is the target's backing file's, too
  uint64_t base_size = 0;
  bool target_is_zero = false;    // what is not written reads as zeroes
  bool compressed = false;
  bool out_of_order = false;
  uint64_t sparse = 4096;         // shortest run of zeroes that is not written as data; 0: all is written
  bool salvage = false;           // what cannot be read becomes zeroes
  std::function<void(const std::string&)> warn;  // of that
  unsigned threads = 0;           // 0: as the machine has
  Progress* progress = nullptr;
};
Result<> copy(CopyJob& job);

}  // namespace vireo::cli::img
