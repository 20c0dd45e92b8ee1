// SPDX-License-Identifier: Apache-2.0
#include "devices/acpi_pm.h"

namespace vireo {
namespace {

constexpr uint16_t kTmrSts = 1 << 0, kPwrbtnSts = 1 << 8, kRtcSts = 1 << 10, kWakSts = 1 << 15;
constexpr uint16_t kStatusMask = kTmrSts | 1 << 4 | 1 << 5 | kPwrbtnSts | kRtcSts | kWakSts;
constexpr uint16_t kEnableMask = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 10;
constexpr uint16_t kSciEn = 1 << 0, kSlpEn = 1 << 13;
constexpr unsigned kSlpTypShift = 10;
constexpr unsigned kCarryBit = 23;
// SMI_EN, and of SMI_STS the command's bit. Without system management mode its set-up looks as if done (APMC_EN), which keeps firmware from trying.
constexpr uint32_t kGblSmiEn = 1 << 0, kApmcEn = 1 << 5, kApmSts = 1 << 5;

}  // namespace

AcpiPm::AcpiPm(Pins pins, bool smm) : pins_(std::move(pins)), smm_(smm) {
  timer_ = pins_.timers.create([this] {
    std::lock_guard lock(mutex_);
    check_timer();
    arm();
  });
  reset(ResetKind::kCold);
}

uint64_t AcpiPm::ticks() const { return static_cast<uint64_t>(static_cast<unsigned __int128>(pins_.clock.now_ns()) * kTimerHz / 1'000'000'000); }

void AcpiPm::reset(ResetKind kind) {
  std::lock_guard lock(mutex_);
  asleep_ = false;
  if (kind == ResetKind::kWake) {
    status_ |= kWakSts;
    pins_.sci.set(sci_level_ = false);  // the interrupt controllers have forgotten its level
    update_sci();
    return;
  }
  status_ = enable_ = 0;
  control_ = kSciEn;  // no SMI handover: ACPI mode from the start
  gpe_status_ = gpe_enable_ = 0;
  smi_enable_ = smm_ ? 0 : kApmcEn;
  smi_status_ = 0;
  carry_seen_ = ticks() >> kCarryBit;
  arm();
  update_sci();
}

void AcpiPm::check_timer() {
  uint64_t carry = ticks() >> kCarryBit;
  if (carry != carry_seen_) status_ |= kTmrSts;
  carry_seen_ = carry;
  update_sci();
}

void AcpiPm::arm() {
  if (!(enable_ & kTmrSts)) {
    timer_->cancel();
    return;
  }
  uint64_t next = ((ticks() >> kCarryBit) + 1) << kCarryBit;
  timer_->arm(static_cast<uint64_t>(static_cast<unsigned __int128>(next) * 1'000'000'000 / kTimerHz) + 1);
}

void AcpiPm::update_sci() {
  bool level = (status_ & enable_) || (gpe_status_ & gpe_enable_);
  if (level == sci_level_) return;
  sci_level_ = level;
  pins_.sci.set(level);
}

uint8_t AcpiPm::byte_at(uint64_t offset) {
  if (offset < kPm1Enable) return status_ >> 8 * offset;
  if (offset < kPm1Control) return enable_ >> 8 * (offset - kPm1Enable);
  if (offset < kPm1Control + 4) return offset < kPm1Control + 2 ? control_ >> 8 * (offset - kPm1Control) : 0;
  if (offset < kTimer + 4) return (ticks() & 0xffffff) >> 8 * (offset - kTimer);
  if (offset >= kGpe0 && offset < kGpe0 + kGpe0Size / 2) return gpe_status_ >> 8 * (offset - kGpe0);
  if (offset >= kGpe0 + kGpe0Size / 2 && offset < kGpe0 + kGpe0Size) return gpe_enable_ >> 8 * (offset - kGpe0 - kGpe0Size / 2);
  if (offset >= kSmiEnable && offset < kSmiStatus) return smi_enable_ >> 8 * (offset - kSmiEnable);
  if (offset >= kSmiStatus && offset < kSmiStatus + 4) return smi_status_ >> 8 * (offset - kSmiStatus);
  return 0;
}

void AcpiPm::read(Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  check_timer();
  if (access.offset == kTimer) {
    uint64_t value = ticks() & 0xffffff;  // one reading for all bytes
    for (size_t i = 0; i < data.size(); i++) data[i] = std::byte(static_cast<uint8_t>(value >> 8 * i));
    return;
  }
  for (size_t i = 0; i < data.size(); i++) data[i] = std::byte{byte_at(access.offset + i)};
}

void AcpiPm::write(Access access, std::span<const std::byte> data) {
  bool off = false, suspend = false;
  {
    std::lock_guard lock(mutex_);
    check_timer();
    for (size_t i = 0; i < data.size(); i++) {
      uint64_t at = access.offset + i;
      uint16_t value = std::to_integer<uint16_t>(data[i]);
      unsigned shift = 8 * (at & 1);
      if (at < kPm1Enable) {
        status_ &= ~(value << shift & kStatusMask);  // write one to clear
      } else if (at < kPm1Control) {
        enable_ = static_cast<uint16_t>((enable_ & ~(0xff << shift)) | value << shift) & kEnableMask;
      } else if (at < kPm1Control + 2) {
        control_ = static_cast<uint16_t>((control_ & ~(0xff << shift)) | value << shift);
      } else if (at >= kGpe0 && at < kGpe0 + kGpe0Size / 2) {
        gpe_status_ &= ~(uint64_t{value} << 8 * (at - kGpe0));
      } else if (at >= kGpe0 + kGpe0Size / 2 && at < kGpe0 + kGpe0Size) {
        unsigned bit = 8 * (at - kGpe0 - kGpe0Size / 2);
        gpe_enable_ = (gpe_enable_ & ~(0xffull << bit)) | uint64_t{value} << bit;
      } else if (at >= kSmiEnable && at < kSmiStatus + 4) {
        write_smi(at, static_cast<uint8_t>(value));
      }
    }
    if (control_ & kSlpEn) {
      off = (control_ >> kSlpTypShift & 7) == kSoftOff;
      suspend = (control_ >> kSlpTypShift & 7) == kSuspendToRam && pins_.suspend;
      control_ &= ~kSlpEn;  // reads as zero
    }
    control_ |= kSciEn;
    arm();
    update_sci();
  }
  if (off) pins_.power_off();
  if (suspend) pins_.suspend();
}

void AcpiPm::write_smi(uint64_t offset, uint8_t value) {
  if (!smm_) return;
  if (offset >= kSmiStatus) {
    smi_status_ &= ~(uint32_t{value} << 8 * (offset - kSmiStatus));  // write one to clear
    return;
  }
  const unsigned shift = 8 * static_cast<unsigned>(offset - kSmiEnable);
  const uint32_t kept = smi_locked_ ? smi_enable_ & kGblSmiEn : 0;
  smi_enable_ = (smi_enable_ & ~(0xffu << shift)) | uint32_t{value} << shift;
  if (smi_locked_) smi_enable_ = (smi_enable_ & ~kGblSmiEn) | kept;
}

bool AcpiPm::apm_command() {
  std::lock_guard lock(mutex_);
  if (!smm_ || !(smi_enable_ & kApmcEn)) return false;
  smi_status_ |= kApmSts;
  return smi_enable_ & kGblSmiEn;
}

void AcpiPm::lock_smi(bool locked) {
  std::lock_guard lock(mutex_);
  smi_locked_ = locked;
}

void AcpiPm::sleep() {
  std::lock_guard lock(mutex_);
  asleep_ = true;
  wake_if_due();
}

// ACPI 6.5, 4.8.3.1.1: the power button wakes whether it is enabled or not.
void AcpiPm::wake_if_due() {
  if (!asleep_ || !(status_ & (kPwrbtnSts | (enable_ & kRtcSts)) || gpe_status_ & gpe_enable_)) return;
  asleep_ = false;
  pins_.wake();
}

void AcpiPm::rtc_alarm() {
  std::lock_guard lock(mutex_);
  status_ |= kRtcSts;
  update_sci();
  wake_if_due();
}

void AcpiPm::power_button() {
  std::lock_guard lock(mutex_);
  status_ |= kPwrbtnSts;
  update_sci();
  wake_if_due();
}

void AcpiPm::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  archive.field(1, "status", status_);
  archive.field(2, "enable", enable_);
  archive.field(3, "control", control_);
  archive.field(4, "gpe_status", gpe_status_);
  archive.field(5, "gpe_enable", gpe_enable_);
  archive.field(6, "asleep", asleep_);
  archive.field(7, "smi_enable", smi_enable_);
  archive.field(8, "smi_status", smi_status_);
  arm();
  update_sci();
}

}  // namespace vireo
