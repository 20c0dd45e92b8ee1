// SPDX-License-Identifier: Apache-2.0
#include "devices/rtc.h"

#include <ctime>
#include <utility>

namespace vireo {
namespace {

enum Register : uint8_t {
  kSeconds, kSecondsAlarm, kMinutes, kMinutesAlarm, kHours, kHoursAlarm, kWeekday, kDay, kMonth, kYear, kA, kB, kC, kD,
  kCentury = 0x32,
};
constexpr uint8_t kUip = 0x80;
constexpr uint8_t kSet = 0x80, kPie = 0x40, kAie = 0x20, kUie = 0x10, kBinary = 0x04, k24Hours = 0x02;
constexpr uint8_t kIrqf = 0x80, kPf = 0x40, kAf = 0x20, kUf = 0x10;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kUpdateWarning = 244'000;  // UIP rises 244 us before the update

tm broken_down(int64_t seconds) {
  tm result{};
  time_t t = seconds;
  gmtime_r(&t, &result);
  return result;
}

}  // namespace

Rtc::Rtc(const Config& config, Pins pins) : pins_(std::move(pins)) {
  offset_ns_ = static_cast<__int128>(config.start) * kSecond - pins_.clock.now_ns();
  bytes_[kA] = 0x26;
  bytes_[kB] = k24Hours;
  for (auto [index, value] : config.nvram)
    if (index > kD && index < bytes_.size()) bytes_[index] = value;
  periodic_ = pins_.timers.create([this] { on_periodic(); });
  second_ = pins_.timers.create([this] { on_second(); });
}

__int128 Rtc::now_ns() const { return offset_ns_ + pins_.clock.now_ns(); }

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>(bytes_[kB] & kBinary ? value : (value / 10 % 10) << 4 | value % 10);
}
unsigned Rtc::decode(uint8_t value) const { return bytes_[kB] & kBinary ? value : (value >> 4) * 10 + (value & 15); }

uint8_t Rtc::time_byte(unsigned index) const {
  tm t = broken_down(calendar());
  switch (index) {
    case kSeconds: return encode(t.tm_sec);
    case kMinutes: return encode(t.tm_min);
    case kHours:
      if (bytes_[kB] & k24Hours) return encode(t.tm_hour);
      return encode(t.tm_hour % 12 ? t.tm_hour % 12 : 12) | (t.tm_hour >= 12 ? 0x80 : 0);
    case kWeekday: return encode(t.tm_wday + 1);
    case kDay: return encode(t.tm_mday);
    case kMonth: return encode(t.tm_mon + 1);
    case kYear: return encode(t.tm_year % 100);
    default: return encode((t.tm_year + 1900) / 100);
  }
}

void Rtc::set_time_byte(unsigned index, uint8_t value) {
  tm t = broken_down(calendar());
  unsigned number = decode(value);
  switch (index) {
    case kSeconds: t.tm_sec = number; break;
    case kMinutes: t.tm_min = number; break;
    case kHours:
      if (bytes_[kB] & k24Hours)
        t.tm_hour = number;
      else
        t.tm_hour = decode(value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
      break;
    case kWeekday: return;  // follows from the date
    case kDay: t.tm_mday = number; break;
    case kMonth: t.tm_mon = static_cast<int>(number) - 1; break;
    case kYear: t.tm_year = t.tm_year / 100 * 100 + static_cast<int>(number % 100); break;
    default: t.tm_year = static_cast<int>(number) * 100 - 1900 + t.tm_year % 100; break;
  }
  int64_t seconds = timegm(&t);
  if (set_mode())
    frozen_ = seconds;
  else
    offset_ns_ += (static_cast<__int128>(seconds) - calendar()) * kSecond;
}

uint8_t Rtc::read_byte() {
  switch (index_) {
    case kSeconds: case kMinutes: case kHours: case kWeekday: case kDay: case kMonth: case kYear: case kCentury:
      return time_byte(index_);
    case kA: {
      bool updating = !set_mode() && now_ns() % kSecond >= kSecond - kUpdateWarning;
      return (bytes_[kA] & 0x7f) | (updating ? kUip : 0);
    }
    case kC: {
      uint8_t flags = bytes_[kC];
      bytes_[kC] = 0;
      update_irq();
      return flags;
    }
    case kD:
      return 0x80;  // battery good
    default:
      return bytes_[index_];
  }
}

void Rtc::write_byte(uint8_t value) {
  switch (index_) {
    case kSeconds: case kMinutes: case kHours: case kWeekday: case kDay: case kMonth: case kYear: case kCentury:
      set_time_byte(index_, value);
      arm_second();
      break;
    case kA:
      bytes_[kA] = value & 0x7f;
      next_periodic_ = 0;
      arm_periodic();
      break;
    case kB: {
      bool was_set = set_mode();
      int64_t seconds = calendar();
      if (value & kSet) value &= ~kUie;
      bytes_[kB] = value;
      if (!was_set && set_mode()) frozen_ = seconds;
      if (was_set && !set_mode()) offset_ns_ += static_cast<__int128>(frozen_) * kSecond - now_ns();
      // An enabled source whose flag is already up interrupts at once.
      raise(0);
      arm_periodic();
      arm_second();
      break;
    }
    case kC: case kD:
      break;  // read-only
    default:
      bytes_[index_] = value;
      if (index_ <= kHoursAlarm) arm_second();
      break;
  }
}

void Rtc::read(Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < data.size(); i++)
    if (access.offset + i == 1) data[i] = std::byte{read_byte()};
}

void Rtc::write(Access access, std::span<const std::byte> data) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < data.size(); i++) {
    uint8_t value = std::to_integer<uint8_t>(data[i]);
    if (access.offset + i == 0)
      index_ = value & 0x7f;  // bit 7 is the NMI gate
    else
      write_byte(value);
  }
}

uint64_t Rtc::periodic_ns() const {
  unsigned rate = bytes_[kA] & 15;
  if (rate == 0 || (bytes_[kA] & 0x70) != 0x20) return 0;
  if (rate <= 2) rate += 7;
  return kSecond / (32768u >> (rate - 1));
}

void Rtc::raise(uint8_t flags) {
  bytes_[kC] |= flags;
  if (bytes_[kC] & bytes_[kB] & (kPf | kAf | kUf)) bytes_[kC] |= kIrqf;
  update_irq();
}

void Rtc::update_irq() {
  bool level = bytes_[kC] & kIrqf;
  if (level == irq_level_) return;
  irq_level_ = level;
  pins_.irq.set(level);
}

void Rtc::arm_periodic() {
  uint64_t period = periodic_ns();
  if (!(bytes_[kB] & kPie) || !period) {
    periodic_->cancel();
    next_periodic_ = 0;
    return;
  }
  uint64_t now = pins_.clock.now_ns();
  if (!next_periodic_ || next_periodic_ + 64 * period < now) next_periodic_ = now;  // far behind: skip, do not flood
  next_periodic_ += period;
  periodic_->arm(next_periodic_);
}

void Rtc::arm_second() {
  if (set_mode() || !(bytes_[kB] & (kAie | kUie))) {
    second_->cancel();
    return;
  }
  second_->arm(pins_.clock.now_ns() + static_cast<uint64_t>(kSecond - now_ns() % kSecond));
}

bool Rtc::alarm_matches(int64_t) const {
  // A byte with both top bits set matches anything.
  auto matches = [&](unsigned alarm, unsigned time) { return bytes_[alarm] >= 0xc0 || bytes_[alarm] == time_byte(time); };
  return matches(kSecondsAlarm, kSeconds) && matches(kMinutesAlarm, kMinutes) && matches(kHoursAlarm, kHours);
}

void Rtc::on_periodic() {
  std::lock_guard lock(mutex_);
  if (!(bytes_[kB] & kPie)) return;
  raise(kPf);
  arm_periodic();
}

void Rtc::on_second() {
  std::lock_guard lock(mutex_);
  if (set_mode()) return;
  const bool alarm = alarm_matches(calendar());
  raise(kUf | (alarm ? kAf : 0));
  if (alarm && bytes_[kB] & kAie && pins_.alarm) pins_.alarm();
  arm_second();
}

void Rtc::reset(ResetKind kind) {
  if (kind == ResetKind::kWake) return;
  std::lock_guard lock(mutex_);
  // The clock and its bytes live on; RESET# clears the enables and flags.
  bytes_[kB] &= ~(kPie | kAie | kUie | 0x08);
  bytes_[kC] = 0;
  index_ = 0;
  update_irq();
  arm_periodic();
  arm_second();
}

void Rtc::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  archive.field(1, "bytes", bytes_);
  archive.field(2, "index", index_);
  // The calendar travels, not its offset to this host's clock.
  const __int128 now = now_ns();
  int64_t seconds = static_cast<int64_t>(now / kSecond), part = static_cast<int64_t>(now % kSecond);
  archive.field(3, "calendar", seconds);
  archive.field(4, "frozen", frozen_);
  archive.field(5, "calendar_part_ns", part);
  offset_ns_ += static_cast<__int128>(seconds) * kSecond + part - now;
  index_ &= 0x7f;
  update_irq();
  arm_periodic();
  arm_second();
}

}  // namespace vireo
