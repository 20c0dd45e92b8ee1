// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware in the layout of the ICH9's PMBASE block: PM1 events with the power button, sleep control, the power
// management timer, GPE0, and what system management interrupts there are. Spec: ACPI 6.5, 4.8; Intel ICH9 data sheet, 13.8.3.
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
  static constexpr uint64_t kPm1Status = 0x00, kPm1Enable = 0x02, kPm1Control = 0x04, kTimer = 0x08, kGpe0 = 0x20, kGpe0Size = 16, kSmiEnable = 0x30, kSmiStatus = 0x34;
  static constexpr uint64_t kTimerHz = 3'579'545;
  // SLP_TYP for S3 and S5, which a guest learns from \_S3 and \_S5. Not the ICH9's 5: test kernels that do not read AML write 1, as QEMU has it.
  static constexpr uint8_t kSuspendToRam = 1, kSoftOff = 7;
  struct Pins {
    IrqLine& sci;
    Clock& clock;
    Timers& timers;
    std::function<void()> power_off;
    // S3: asks for all processors to be stopped, then sleep(); and for them to be started at the waking vector, behind reset(kWake). Absent: no S3.
    std::function<void()> suspend = {}, wake = {};
  };

  // `smm`: the machine has system management mode, and SMI_EN and SMI_STS are the guest's.
  explicit AcpiPm(Pins pins, bool smm = false);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // The user presses the button; any thread.
  void power_button();
  // The clock's alarm interrupt; any thread.
  void rtc_alarm();
  // The writing of an APM command, any thread: is it a system management interrupt?
  bool apm_command();
  // SMI_LOCK: GBL_SMI_EN stays as it is.
  void lock_smi(bool locked);
  // The processors are stopped: from now on an enabled event wakes; one that is there already, at once.
  void sleep();

 private:
  void wake_if_due();
  uint64_t ticks() const;
  void check_timer();
  void update_sci();
  void arm();
  uint8_t byte_at(uint64_t offset);
  void write_smi(uint64_t offset, uint8_t value);

  std::mutex mutex_;
  Pins pins_;
  uint16_t status_ = 0, enable_ = 0, control_ = 0;
  uint64_t gpe_status_ = 0, gpe_enable_ = 0;
  uint64_t carry_seen_ = 0;  // how often bit 23 had changed when last looked at
  uint32_t smi_enable_ = 0, smi_status_ = 0;
  const bool smm_;
  bool smi_locked_ = false;
  bool sci_level_ = false, asleep_ = false;
  std::unique_ptr<Timer> timer_;
};

}  // namespace vireo
