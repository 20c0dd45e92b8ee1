// SPDX-License-Identifier: Apache-2.0
// The terminal on standard input in raw mode, put back on every way out, fatal signals included.
#pragma once

#include "base/result.h"

namespace vireo::cli {

class Terminal {
 public:
  // Does nothing when standard input is no terminal.
  static Result<Terminal> raw();
  static Result<Terminal> none() { return Terminal(false); }
  Terminal(Terminal&& other) noexcept : active_(std::exchange(other.active_, false)) {}
  ~Terminal();
  bool active() const { return active_; }

 private:
  explicit Terminal(bool active) : active_(active) {}
  bool active_;
};

}  // namespace vireo::cli
