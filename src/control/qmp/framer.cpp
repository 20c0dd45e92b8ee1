// SPDX-License-Identifier: Apache-2.0
#include "control/qmp/framer.h"

namespace vireo::control::qmp {

std::string Framer::take(size_t end) {
  std::string value = input_.substr(0, end);
  input_.erase(0, end);
  at_ = 0;
  depth_ = 0;
  in_string_ = escaped_ = started_ = false;
  return value;
}

Result<std::optional<std::string>> Framer::next() {
  auto bad = [&](const char* why) {
    take(input_.size());
    return fail(ErrorKind::kInvalid, why);
  };
  for (; at_ < input_.size(); ++at_) {
    const char c = input_[at_];
    if (in_string_) {
      if (escaped_) escaped_ = false;
      else if (c == '\\') escaped_ = true;
      else if (c == '"') {
        in_string_ = false;
        if (depth_ == 0) return take(at_ + 1);
      }
      continue;
    }
    const bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
    if (!started_) {
      if (space) continue;
      // Nothing of the spaces before is kept.
      input_.erase(0, at_);
      at_ = 0;
      started_ = true;
    }
    if (c == '"') {
      if (depth_ == 0 && at_ > 0) return take(at_);  // a word ends where a string begins
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      if (depth_ == 0 && at_ > 0) return take(at_);
      if (++depth_ > kDeepest) return bad("JSON nesting depth limit exceeded");
    } else if (c == '}' || c == ']') {
      if (depth_ <= 1) return take(at_ + 1);
      --depth_;
    } else if (depth_ == 0 && space) {
      return take(at_);  // a number or a word
    }
  }
  if (!started_) take(input_.size());
  if (input_.size() > kLongest) return bad("JSON token size limit exceeded");
  return std::nullopt;
}

}  // namespace vireo::control::qmp
