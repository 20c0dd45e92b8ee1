// SPDX-License-Identifier: Apache-2.0
// The wires into the interrupt controllers: every input is a line of its own, inputs of one GSI are wired together.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/device.h"

namespace vireo {

class IrqLines {
 public:
  static constexpr unsigned kGsis = 24;
  explicit IrqLines(std::function<void(unsigned gsi, bool level)> set) : set_(std::move(set)) {}

  // A new input; it lives as long as the lines.
  IrqLine& input(unsigned gsi) {
    auto line = std::make_unique<Input>(*this, gsi % kGsis);
    IrqLine& result = *line;
    inputs_.push_back(std::move(line));
    return result;
  }

 private:
  class Input final : public IrqLine {
   public:
    Input(IrqLines& lines, unsigned gsi) : lines_(lines), gsi_(gsi) {}
    void set(bool level) override {
      std::lock_guard lock(lines_.mutex_);
      if (level == level_) return;
      level_ = level;
      unsigned& high = lines_.high_[gsi_];
      unsigned before = high;
      high += level ? 1 : -1;
      if ((before == 0) != (high == 0)) lines_.set_(gsi_, high != 0);
    }

   private:
    IrqLines& lines_;
    unsigned gsi_;
    bool level_ = false;
  };

  std::function<void(unsigned, bool)> set_;
  std::mutex mutex_;
  std::array<unsigned, kGsis> high_{};
  std::vector<std::unique_ptr<Input>> inputs_;
};

}  // namespace vireo
