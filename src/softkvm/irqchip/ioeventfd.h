// SPDX-License-Identifier: Apache-2.0
// Guest writes that ring instead of leaving KVM_RUN: ioeventfds, and direct calls within this process ("doorbells"). Every exit
// asks here first, so the lookup is FAST, takes no lock and costs one probe of a hash table where nothing is registered.
// Spec: Documentation/virt/kvm/api.rst, 4.59.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

#include "softkvm/irqchip/read_section.h"

namespace vireo::softkvm {

struct Ring {
  enum Bus : uint8_t { kMmio, kPio, kCcw };  // the last is of another architecture: accepted, and never rung
  uint64_t address = 0;
  uint64_t value = 0;
  uint32_t size = 0;  // 0: any
  bool used = false;
  Bus bus = kMmio;
  bool match = false;  // only writes of `value`
  int fd = -1;         // or, if -1:
  void (*call)(void*) = nullptr;
  void* context = nullptr;
};

// Open addressing, at most half full. Built by ioeventfd_table.cpp.
struct RingTable {
  uint64_t mask = 0;
  Ring* slots = nullptr;
};

class Ioeventfds {
 public:
  Ioeventfds();
  Ioeventfds(const Ioeventfds&) = delete;
  ~Ioeventfds();

  // A guest write; true if it rang. On the vCPU's thread.
  bool try_signal(bool pio, uint64_t address, unsigned size, uint64_t value);

  // KVM_IOEVENTFD: 0 or -errno. Once something is gone, no vCPU is still ringing it; so not from inside a doorbell's call.
  int configure(const kvm_ioeventfd& request);
  int add_doorbell(const Ring& ring);
  int remove_doorbell(const Ring& ring);

 private:
  struct Registry;

  Published<RingTable> table_;
  Registry* const registry_;
};

inline uint64_t ring_hash(Ring::Bus bus, uint64_t address) {
  const uint64_t hash = (address ^ static_cast<uint64_t>(bus) << 62) * 0x9e3779b97f4a7c15ull;
  return hash >> 32;
}

}  // namespace vireo::softkvm
