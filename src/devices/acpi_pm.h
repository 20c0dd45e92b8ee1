// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware in the layout of the ICH9's PMBASE block: PM1 events with the power button, sleep control, the power
// management timer, GPE0. Spec: ACPI 6.5, 4.8; Intel ICH9 data sheet, 13.8.3.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/event_loop.h"
#include "devices/device.h"

namespace vireo {

class AcpiPm final : public Device {
 public:
  static constexpr uint64_t kPorts = 0x80;
  static constexpr uint64_t kPm1Status = 0x00, kPm1Enable = 0x02, kPm1Control = 0x04, kTimer = 0x08, kGpe0 = 0x20, kGpe0Size = 16;
  static constexpr uint64_t kTimerHz = 3'579'545;
  static constexpr uint8_t kSoftOff = 7;  // SLP_TYP for S5
  struct Pins {
    IrqLine& sci;
    Clock& clock;
    Timers& timers;
    std::function<void()> power_off;
  };

  explicit AcpiPm(Pins pins);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // The user presses the button; any thread.
  void power_button();

 private:
  uint64_t ticks() const;
  void check_timer();
  void update_sci();
  void arm();
  uint8_t byte_at(uint64_t offset);

  std::mutex mutex_;
  Pins pins_;
  uint16_t status_ = 0, enable_ = 0, control_ = 0;
  uint64_t gpe_status_ = 0, gpe_enable_ = 0;
  uint64_t carry_seen_ = 0;  // how often bit 23 had changed when last looked at
  bool sci_level_ = false;
  std::unique_ptr<Timer> timer_;
};

}  // namespace vireo
