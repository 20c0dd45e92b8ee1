// SPDX-License-Identifier: Apache-2.0
// For tests: VMs that are created while it lives have these switches off (translate/switches.h), beside those
// of the environment.
#pragma once

#include <cstdlib>
#include <string>

namespace vireo::softkvm {

class SwitchesOff {
 public:
  explicit SwitchesOff(const char* names) {
    const char* now = getenv("VIREO_SOFTKVM_OFF");
    was_set_ = now;
    if (now) before_ = now;
    setenv("VIREO_SOFTKVM_OFF", (before_ + "," + names).c_str(), 1);
  }
  ~SwitchesOff() {
    if (was_set_)
      setenv("VIREO_SOFTKVM_OFF", before_.c_str(), 1);
    else
      unsetenv("VIREO_SOFTKVM_OFF");
  }
  SwitchesOff(const SwitchesOff&) = delete;
  SwitchesOff& operator=(const SwitchesOff&) = delete;

 private:
  bool was_set_;
  std::string before_;
};

}  // namespace vireo::softkvm
