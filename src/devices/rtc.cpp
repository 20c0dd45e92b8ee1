// SPDX-License-Identifier: Apache-2.0
#include "devices/rtc.h"

#include <algorithm>
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
constexpr int64_t kHalfway = kSecond / 2;    // where the divider's chain begins when it is let go
constexpr int64_t kDay24Hours = 24 * 60 * 60;
constexpr uint8_t kTimeBytes[] = {kSeconds, kMinutes, kHours, kWeekday, kDay, kMonth, kYear, kCentury};

tm broken_down(int64_t seconds) {
  tm result{};
  time_t t = seconds;
  gmtime_r(&t, &result);
  return result;
}

// A day that the month has not is its last one.
int64_t seconds_of(tm date) {
  static constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (date.tm_mon >= 0 && date.tm_mon < 12) {
    const int year = date.tm_year + 1900;
    const bool leap = date.tm_mon == 1 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    date.tm_mday = std::min(date.tm_mday, kDays[date.tm_mon] + leap);
  }
  return timegm(&date);
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
  seen_ = calendar();
  arm_periodic();
}

__int128 Rtc::now_ns() const { return offset_ns_ + pins_.clock.now_ns(); }

Rtc::Moment Rtc::moment() const {
  const __int128 now = now_ns();
  auto part = static_cast<int64_t>(now % kSecond);
  if (part < 0) part += kSecond;
  return {static_cast<int64_t>((now - part) / kSecond), part};
}

void Rtc::set_calendar(Moment moment) {
  offset_ns_ += static_cast<__int128>(moment.seconds) * kSecond + moment.part_ns - now_ns();
  seen_ = moment.seconds;
}

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>(bytes_[kB] & kBinary ? value : (value / 10 % 10) << 4 | value % 10);
}
uint8_t Rtc::encode_hour(unsigned hour) const {
  if (bytes_[kB] & k24Hours) return encode(hour);
  return encode(hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}
unsigned Rtc::decode(uint8_t value) const { return bytes_[kB] & kBinary ? value : (value >> 4) * 10 + (value & 15); }

uint8_t Rtc::calendar_byte(unsigned index) const {
  tm t = broken_down(calendar());
  switch (index) {
    case kSeconds: return encode(t.tm_sec);
    case kMinutes: return encode(t.tm_min);
    case kHours: return encode_hour(t.tm_hour);
    case kWeekday: return encode(t.tm_wday + 1);
    case kDay: return encode(t.tm_mday);
    case kMonth: return encode(t.tm_mon + 1);
    case kYear: return encode((t.tm_year + 1900) % 100);
    default: return encode((t.tm_year + 1900) / 100);
  }
}

void Rtc::put(tm& date, unsigned index, uint8_t value) const {
  const auto number = static_cast<int>(decode(value));
  const int year = date.tm_year + 1900;
  switch (index) {
    case kSeconds: date.tm_sec = number; break;
    case kMinutes: date.tm_min = number; break;
    case kHours:
      date.tm_hour = bytes_[kB] & k24Hours ? number : static_cast<int>(decode(value & 0x7f)) % 12 + (value & 0x80 ? 12 : 0);
      break;
    case kWeekday: break;  // follows from the date
    case kDay: date.tm_mday = number; break;
    case kMonth: date.tm_mon = number - 1; break;
    case kYear: date.tm_year = year / 100 * 100 + number % 100 - 1900; break;
    default: date.tm_year = number * 100 + year % 100 - 1900; break;
  }
}

void Rtc::freeze() {
  for (uint8_t index : kTimeBytes) bytes_[index] = calendar_byte(index);
}

// The bytes, which make a date only together, become one.
void Rtc::thaw(int64_t phase) {
  tm date{};
  for (uint8_t index : kTimeBytes) put(date, index, bytes_[index]);
  set_calendar({seconds_of(date), phase});
}

void Rtc::write_time(uint8_t value) {
  if (frozen()) {
    bytes_[index_] = value;
    return;
  }
  look();
  const int64_t before = calendar();
  tm date = broken_down(before);
  put(date, index_, value);
  const int64_t shift = seconds_of(date) - before;
  offset_ns_ += static_cast<__int128>(shift) * kSecond;
  seen_ += shift;
  update_irq();
  arm_second();
}

void Rtc::write_a(uint8_t value) {
  look();
  const bool was_frozen = frozen(), was_reset = divider_reset();
  const uint64_t period = periodic_ns();
  bytes_[kA] = value & 0x7f;
  if (!was_frozen && frozen()) freeze();
  // The first update comes half a second after the divider was let go (MC146818A, "Divider control").
  if (was_reset && !divider_reset()) {
    set_calendar({calendar(), kHalfway});
    if (!frozen()) thaw(kHalfway);
  }
  if (periodic_ns() != period) next_periodic_ = 0;
  update_irq();
  arm_periodic();
  arm_second();
}

void Rtc::write_b(uint8_t value) {
  look();
  const bool was_frozen = frozen();
  if (value & kSet) value &= ~kUie;
  bytes_[kB] = value;
  if (!was_frozen && frozen()) freeze();
  if (was_frozen && !frozen()) thaw(phase());  // the divider has gone on
  // An enabled source whose flag is already up interrupts at once.
  update_irq();
  arm_periodic();
  arm_second();
}

uint8_t Rtc::read_byte() {
  switch (index_) {
    case kSeconds: case kMinutes: case kHours: case kWeekday: case kDay: case kMonth: case kYear: case kCentury:
      return frozen() ? bytes_[index_] : calendar_byte(index_);
    case kA: {
      bool updating = !frozen() && phase() >= kSecond - kUpdateWarning;
      return (bytes_[kA] & 0x7f) | (updating ? kUip : 0);
    }
    case kC: {
      look();
      const uint8_t flags = bytes_[kC] & bytes_[kB] & (kPf | kAf | kUf) ? bytes_[kC] | kIrqf : bytes_[kC];
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
    case kSeconds: case kMinutes: case kHours: case kWeekday: case kDay: case kMonth: case kYear: case kCentury: return write_time(value);
    case kA: return write_a(value);
    case kB: return write_b(value);
    case kC: case kD: return;  // read-only
    case kSecondsAlarm: case kMinutesAlarm: case kHoursAlarm: look(); break;  // by the alarm as it was
    default: break;
  }
  bytes_[index_] = value;
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

// A flag rises whether or not it may interrupt (MC146818A, "Register C").
void Rtc::look() {
  look_at_seconds();
  // With the interrupt enabled each period has its own: on_periodic().
  const uint64_t now = pins_.clock.now_ns();
  if (!next_periodic_ || bytes_[kB] & kPie || now < next_periodic_) return;
  bytes_[kC] |= kPf;
  const uint64_t period = periodic_ns();
  next_periodic_ += ((now - next_periodic_) / period + 1) * period;
}

void Rtc::look_at_seconds() {
  if (frozen()) return;
  const int64_t now = calendar(), before = std::exchange(seen_, now);
  if (now <= before) return;
  const bool alarm = alarm_within(before + 1, now);
  bytes_[kC] |= kUf | (alarm ? kAf : 0);
  if (alarm && bytes_[kB] & kAie && pins_.alarm) pins_.alarm();
}

bool Rtc::alarm_within(int64_t first, int64_t last) const {
  // A byte with both top bits set matches anything.
  auto matches = [&](unsigned alarm, uint8_t time) { return bytes_[alarm] >= 0xc0 || bytes_[alarm] == time; };
  last = std::min(last, first + kDay24Hours - 1);
  while (first <= last) {
    const int64_t time = (first % kDay24Hours + kDay24Hours) % kDay24Hours;
    if (!matches(kHoursAlarm, encode_hour(static_cast<unsigned>(time / 3600))))
      first += 3600 - time % 3600;
    else if (!matches(kMinutesAlarm, encode(static_cast<unsigned>(time / 60 % 60))))
      first += 60 - time % 60;
    else if (!matches(kSecondsAlarm, encode(static_cast<unsigned>(time % 60))))
      first++;
    else
      return true;
  }
  return false;
}

void Rtc::update_irq() {
  const bool level = bytes_[kC] & bytes_[kB] & (kPf | kAf | kUf);
  bytes_[kC] = (bytes_[kC] & ~kIrqf) | (level ? kIrqf : 0);
  if (level == irq_level_) return;
  irq_level_ = level;
  pins_.irq.set(level);
}

void Rtc::arm_periodic() {
  const uint64_t period = periodic_ns(), now = pins_.clock.now_ns();
  if (!period) {
    next_periodic_ = 0;
    return periodic_->cancel();
  }
  // Far behind: skip, do not flood.
  if (!next_periodic_ || next_periodic_ > now + period || next_periodic_ + 64 * period < now) next_periodic_ = now + period;
  if (bytes_[kB] & kPie)
    periodic_->arm(next_periodic_);
  else
    periodic_->cancel();
}

void Rtc::arm_second() {
  if (frozen() || !(bytes_[kB] & (kAie | kUie))) return second_->cancel();
  second_->arm(pins_.clock.now_ns() + static_cast<uint64_t>(kSecond - phase()));
}

void Rtc::on_periodic() {
  std::lock_guard lock(mutex_);
  if (!(bytes_[kB] & kPie) || !next_periodic_) return;
  bytes_[kC] |= kPf;
  update_irq();
  next_periodic_ += periodic_ns();
  arm_periodic();
}

void Rtc::on_second() {
  std::lock_guard lock(mutex_);
  look_at_seconds();
  update_irq();
  arm_second();
}

void Rtc::reset(ResetKind kind) {
  if (kind == ResetKind::kWake) return;
  std::lock_guard lock(mutex_);
  // The clock and its bytes live on; RESET# clears the enables and flags.
  look();
  bytes_[kB] &= ~(kPie | kAie | kUie | 0x08);
  bytes_[kC] = 0;
  index_ = 0;
  update_irq();
  arm_periodic();
  arm_second();
}

void Rtc::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  look();
  archive.field(1, "bytes", bytes_);
  archive.field(2, "index", index_);
  // The calendar travels, not its offset to this host's clock; while it is frozen, the part of a second alone.
  const Moment here = moment();
  Moment there = here;
  archive.field(3, "calendar", there.seconds);
  archive.field(5, "calendar_part_ns", there.part_ns);
  const __int128 shift = static_cast<__int128>(there.seconds) - here.seconds;
  offset_ns_ += shift * kSecond + there.part_ns - here.part_ns;
  seen_ = shift || there.part_ns != here.part_ns ? there.seconds : seen_;
  index_ &= 0x7f;
  update_irq();
  arm_periodic();
  arm_second();
}

}  // namespace vireo
