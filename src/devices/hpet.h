// SPDX-License-Identifier: Apache-2.0
// The high precision event timer: a counter of 64 bits that all share, and three comparators with an interrupt each: an IOAPIC pin, a message, or
// (legacy replacement) the interrupts of PIT and clock. Spec: IA-PC HPET specification 1.0a, chapter 2.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/event_loop.h"
#include "devices/device.h"
#include "devices/msix.h"

namespace vireo {

class Hpet final : public Device {
 public:
  static constexpr uint64_t kSize = 0x400, kAddress = 0xfed00000;
  static constexpr unsigned kTimers = 3, kFirstPin = 20, kPins = 4;  // the pins that timers can be led to, as an ICH9's
  static constexpr uint64_t kTickNs = 10;
  // The low half of "general capabilities and ID", which ACPI repeats.
  static constexpr uint32_t kBlockId = 0x8086a201;
  struct Pins {
    std::array<IrqLine*, kPins> lines;      // IOAPIC pins from kFirstPin on
    std::array<IrqLine*, 2> legacy;         // IRQ 0 and 8
    MsiSink& msi;
    Clock& clock;
    Timers& timers;
    std::function<void(bool)> replace_legacy;  // PIT and clock lose their interrupts, or have them back
  };

  explicit Hpet(Pins pins);
  ~Hpet() override;

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

 private:
  struct Channel {
    uint64_t config = 0, comparator = ~0ull, period = 0, message = 0;
  };
  uint64_t counter() const;
  void set_counter(uint64_t value);
  uint64_t load(uint64_t at) const;
  void store(uint64_t at, uint64_t value, uint64_t mask);
  void store_channel(unsigned n, uint64_t at, uint64_t value, uint64_t mask);
  void configure(uint64_t value);
  void arm(unsigned n);
  void due(unsigned n);
  void interrupt(unsigned n);
  void update_line(unsigned n);
  IrqLine* line_of(unsigned n) const;
  uint64_t width(unsigned n) const;
  bool periodic(unsigned n) const;

  mutable std::mutex mutex_;
  Pins pins_;
  uint64_t config_ = 0, status_ = 0;
  uint64_t count_ = 0;     // the counter, while it stands; while it runs, as it was at
  uint64_t since_ns_ = 0;
  std::array<Channel, kTimers> channels_;
  std::array<IrqLine*, kTimers> raised_{};  // the line that a level-triggered timer holds up
  std::array<std::unique_ptr<Timer>, kTimers> timers_;
};

}  // namespace vireo
