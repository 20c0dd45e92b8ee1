// SPDX-License-Identifier: Apache-2.0
// A register whose write only wakes somebody up. Whoever maps the device may hand it to the hypervisor (ioeventfd, or a
// direct call in softkvm), so that the write never reaches Device::write; it must do the same as that write would.
#pragma once

#include <cstdint>
#include <functional>

namespace vireo {

struct Doorbell {
  uint64_t offset = 0;  // in the device's region
  uint32_t size = 0;    // of the write in bytes; 0: any
  bool match = false;   // only writes of `value`
  uint64_t value = 0;
  std::function<void()> ring;  // thread-safe, must not block, called without the device's lock
};

}  // namespace vireo
