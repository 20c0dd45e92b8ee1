// SPDX-License-Identifier: Apache-2.0
// An interrupt line that can be cut: what drives it goes on, and is heard again when it is joined.
#pragma once

#include <mutex>

#include "devices/device.h"

namespace vireo {

class GatedLine final : public IrqLine {
 public:
  explicit GatedLine(IrqLine& line) : line_(line) {}
  void set(bool level) override {
    std::lock_guard lock(mutex_);
    level_ = level;
    if (joined_) line_.set(level);
  }
  void join(bool joined) {
    std::lock_guard lock(mutex_);
    joined_ = joined;
    line_.set(joined && level_);
  }

 private:
  IrqLine& line_;
  std::mutex mutex_;
  bool level_ = false, joined_ = true;
};

}  // namespace vireo
