// SPDX-License-Identifier: Apache-2.0
// Cuts a stream of bytes into JSON values, whatever the lines: several on one, or one over several. Spec: RFC 8259; QEMU's
// docs/interop/qmp-spec frames by value. Bounded: whoever is at the other end decides what comes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vireo::control::qmp {

class Framer {
 public:
  static constexpr size_t kLongest = 4 << 20;
  static constexpr unsigned kDeepest = 64;

  void add(std::string_view bytes) { input_ += bytes; }
  // The next whole value's text (which may still be no JSON), or nothing while it is not whole. After an error what came is forgotten.
  Result<std::optional<std::string>> next();

 private:
  std::string take(size_t end);

  std::string input_;
  size_t at_ = 0;         // looked at up to here
  unsigned depth_ = 0;
  bool in_string_ = false, escaped_ = false, started_ = false;
};

}  // namespace vireo::control::qmp
