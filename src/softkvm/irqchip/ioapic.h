// SPDX-License-Identifier: Apache-2.0
// The I/O APIC: 24 pins, version 0x11, no EOI register. Polarity bits are kept and not applied: lines are given as asserted or not, as
// in KVM. FAST code under a small lock, which is never held while messages about acknowledged pins go out.
// Spec: Intel 82093AA datasheet, 3.0.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/apic_bus.h"
#include "softkvm/irqchip/routing.h"
#include "softkvm/irqchip/spin_lock.h"

namespace vireo::softkvm {

class Ioapic {
 public:
  static constexpr uint64_t kDefaultBase = 0xfec00000, kSize = 0x100;
  static constexpr unsigned kPins = KVM_IOAPIC_NUM_PINS;

  Ioapic(ApicBus& bus, Router& router) : bus_(bus), router_(router) { reset(); }

  bool covers(uint64_t address) const { return address - base_.load(std::memory_order_relaxed) < kSize; }
  uint64_t mmio_read(uint32_t offset, unsigned size);
  void mmio_write(uint32_t offset, unsigned size, uint64_t value);

  int set_irq(unsigned pin, IrqSource source, bool level, bool line_status);
  // A local APIC has ended `vector`. `directed`: its EOIs do not end level interrupts here (SVR bit 12).
  void eoi(uint8_t vector, bool level, bool directed);
  // Some pin is programmed with this vector; lets local APICs skip eoi() for MSIs.
  bool has_vector(uint8_t vector) const {
    return vectors_[vector >> 6].load(std::memory_order_relaxed) >> (vector & 63) & 1;
  }

  void reset();
  void get_state(kvm_ioapic_state& state);
  void set_state(const kvm_ioapic_state& state);

 private:
  uint32_t read_indirect() const;
  void write_indirect(uint32_t value);
  void write_redirection(unsigned pin, bool high, uint32_t value);
  int raise(unsigned pin, bool level, bool line_status);
  int service(unsigned pin, bool line_status);
  void note_vectors();

  ApicBus& bus_;
  Router& router_;
  SpinLock lock_;
  std::atomic<uint64_t> base_{kDefaultBase};
  uint32_t select_ = 0;  // any value may have been set by KVM_SET_IRQCHIP
  uint32_t id_ = 0;
  uint32_t irr_ = 0;
  uint32_t irr_delivered_ = 0;  // edges in irr_ that have gone out: not to be saved as pending
  bool rtc_pending_ = false;    // an RTC interrupt waits for its EOI: KVM_IRQ_LINE_STATUS says so (see set_irq)
  uint64_t redirection_[kPins] = {};
  uint8_t sources_[kPins] = {};
  std::atomic<uint64_t> vectors_[4] = {};
};

}  // namespace vireo::softkvm
