// SPDX-License-Identifier: Apache-2.0
// The PCI interrupts PIRQA# to PIRQH# of the south bridge: each goes to a pin of the IOAPIC, and where its routing register says so to an
// interrupt of the 8259s as well. Several functions share one. Spec: Intel ICH9 data sheet, 13.1.13, PIRQ[n]_ROUT.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/device.h"

namespace vireo {

class PirqRouter {
 public:
  static constexpr unsigned kPirqs = 8, kIrqs = 16;
  static constexpr uint8_t kNotRouted = 0x80;

  // `pin(n)` and `irq(n)` make an input of the IOAPIC's pin for PIRQ n and of ISA interrupt n, which live as long as the router.
  PirqRouter(const std::function<IrqLine&(unsigned)>& pin, const std::function<IrqLine&(unsigned)>& irq) {
    for (unsigned i = 0; i < kPirqs; i++) pirqs_[i].pin = &pin(i);
    for (unsigned i = 0; i < kIrqs; i++) irqs_[i].line = &irq(i);
  }

  // A new input of PIRQ n, as long as the router lives.
  IrqLine& input(unsigned n) {
    inputs_.push_back(std::make_unique<Input>(*this, n % kPirqs));
    return *inputs_.back();
  }
  void route(unsigned n, uint8_t value) {
    std::lock_guard lock(mutex_);
    Pirq& pirq = pirqs_[n % kPirqs];
    if (pirq.route == value) return;  // without an edge
    if (pirq.high) drive(pirq, false);
    pirq.route = value;
    if (pirq.high) drive(pirq, true);
  }

 private:
  struct Pirq {
    IrqLine* pin = nullptr;
    unsigned high = 0;
    uint8_t route = kNotRouted;
  };
  struct Irq {
    IrqLine* line = nullptr;
    unsigned high = 0;
  };
  class Input final : public IrqLine {
   public:
    Input(PirqRouter& router, unsigned n) : router_(router), n_(n) {}
    void set(bool level) override {
      std::lock_guard lock(router_.mutex_);
      if (level == level_) return;
      level_ = level;
      Pirq& pirq = router_.pirqs_[n_];
      const unsigned before = pirq.high;
      pirq.high += level ? 1 : -1;
      if ((before == 0) == (pirq.high == 0)) return;
      pirq.pin->set(level);
      router_.drive(pirq, level);
    }

   private:
    PirqRouter& router_;
    unsigned n_;
    bool level_ = false;
  };
  // Interrupts 0 to 2, 8 and 13 are reserved as routes.
  void drive(const Pirq& pirq, bool level) {
    constexpr uint16_t kReserved = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 13;
    const unsigned n = pirq.route & 0x0f;
    if (pirq.route & kNotRouted || kReserved >> n & 1) return;
    const unsigned before = irqs_[n].high;
    irqs_[n].high += level ? 1 : -1;
    if ((before == 0) != (irqs_[n].high == 0)) irqs_[n].line->set(level);
  }

  std::mutex mutex_;
  std::array<Pirq, kPirqs> pirqs_;
  std::array<Irq, kIrqs> irqs_;
  std::vector<std::unique_ptr<Input>> inputs_;
};

}  // namespace vireo
