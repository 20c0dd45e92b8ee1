// SPDX-License-Identifier: Apache-2.0
// The eventfds that are written when the guest ends a resampled level interrupt (KVM_IRQFD_FLAG_RESAMPLE). Lookup and
// signal are FAST code; irqfd.cpp replaces the table.
#pragma once

#include <cstdint>

#include "softkvm/irqchip/raw_syscall.h"
#include "softkvm/irqchip/read_section.h"

namespace vireo::softkvm {

struct ResampleList {
  struct Entry {
    uint32_t gsi;
    int fd;
  };
  uint32_t count = 0;
  Entry* entries = nullptr;
};

class ResampleTable {
 public:
  bool has(uint32_t gsi) {
    if (list_.current() == nullptr) return false;
    Published<ResampleList>::Reader list(list_);
    for (uint32_t i = 0; list && i < list->count; ++i)
      if (list->entries[i].gsi == gsi) return true;
    return false;
  }
  void signal(uint32_t gsi) {
    Published<ResampleList>::Reader list(list_);
    for (uint32_t i = 0; list && i < list->count; ++i)
      if (list->entries[i].gsi == gsi) signal_eventfd(list->entries[i].fd);
  }
  Published<ResampleList>& list() { return list_; }

 private:
  Published<ResampleList> list_;
};

}  // namespace vireo::softkvm
