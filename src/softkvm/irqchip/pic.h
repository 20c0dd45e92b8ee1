// SPDX-License-Identifier: Apache-2.0
// The two 8259A interrupt controllers of a PC, cascaded at the first one's input 2, with the edge/level registers of the
// PIIX. FAST code under a small lock.
// Spec: Intel 8259A datasheet; 82371AB (PIIX4) datasheet, 4.2.5, for ELCR.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/apic_bus.h"
#include "softkvm/irqchip/routing.h"
#include "softkvm/irqchip/spin_lock.h"

namespace vireo::softkvm {

class Pic {
 public:
  Pic(ApicBus& bus, Router& router);

  // Ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1. False: not ours. Only bytes mean anything.
  static bool covers(uint16_t port);
  uint8_t read(uint16_t port);
  void write(uint16_t port, uint8_t value);

  // Pins 0-15. 1: newly pending, 0: was pending, -1: masked.
  int set_irq(unsigned pin, IrqSource source, bool level);
  bool output() const { return output_.load(); }  // INTR
  int acknowledge();  // INTA: a vector (a spurious one, 7, if the request has gone)

  void get_state(unsigned chip, kvm_pic_state& state);
  void set_state(unsigned chip, const kvm_pic_state& state);

 private:
  struct Work;  // what is left to tell others once the lock is dropped
  int set_line(kvm_pic_state& chip, unsigned line, bool level);
  int pending(const kvm_pic_state& chip) const;
  void update(Work& work);
  void intack(unsigned chip, unsigned line, Work& work);
  void clear_isr(unsigned chip, unsigned line, Work& work);
  void initialize(unsigned chip, uint8_t icw1, Work& work);
  void command(unsigned chip, uint8_t value, Work& work);
  void data(unsigned chip, uint8_t value, Work& work);
  uint8_t poll(unsigned chip, Work& work);
  void finish(const Work& work);

  ApicBus& bus_;
  Router& router_;
  SpinLock lock_;
  kvm_pic_state chips_[2];
  uint8_t sources_[16] = {};
  std::atomic<bool> output_{false};
};

}  // namespace vireo::softkvm
