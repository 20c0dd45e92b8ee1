// SPDX-License-Identifier: Apache-2.0
#include "devices/hpet.h"

#include <cstring>

namespace vireo {
namespace {

constexpr uint64_t kCapabilities = 0x000, kConfiguration = 0x010, kStatus = 0x020, kCounter = 0x0f0, kFirstTimer = 0x100, kTimerStep = 0x20;
constexpr uint64_t kTimerConfig = 0x00, kTimerComparator = 0x08, kTimerMessage = 0x10;
// General configuration.
constexpr uint64_t kEnable = 1, kLegacy = 2;
// Of a timer.
constexpr uint64_t kLevel = 1 << 1, kInterrupt = 1 << 2, kPeriodic = 1 << 3, kCanPeriodic = 1 << 4, kCan64 = 1 << 5, kSetValue = 1 << 6, k32Bits = 1 << 8, kRoute = 0x1f << 9,
                   kMessages = 1 << 14, kCanMessages = 1 << 15;
constexpr uint64_t kWritable = kLevel | kInterrupt | kPeriodic | kSetValue | k32Bits | kRoute | kMessages;
constexpr uint64_t kPinMask = ((1ull << Hpet::kPins) - 1) << Hpet::kFirstPin;
constexpr uint64_t kFixed = kCanPeriodic | kCan64 | kCanMessages | kPinMask << 32;
constexpr uint64_t kFemtosecondsPerNs = 1'000'000;

}  // namespace

Hpet::Hpet(Pins pins) : pins_(std::move(pins)) {
  for (unsigned n = 0; n < kTimers; n++) {
    timers_[n] = pins_.timers.create([this, n] { due(n); });
    channels_[n].config = kFixed;
  }
}

Hpet::~Hpet() = default;

uint64_t Hpet::counter() const { return config_ & kEnable ? count_ + (pins_.clock.now_ns() - since_ns_) / kTickNs : count_; }

void Hpet::set_counter(uint64_t value) {
  count_ = value;
  since_ns_ = pins_.clock.now_ns();
}

uint64_t Hpet::width(unsigned n) const { return channels_[n].config & k32Bits ? 0xffffffff : ~0ull; }
bool Hpet::periodic(unsigned n) const { return channels_[n].config & kPeriodic; }

// Where the timer's interrupt goes when it is no message.
IrqLine* Hpet::line_of(unsigned n) const {
  if ((config_ & kLegacy) && n < 2) return pins_.legacy[n];
  const uint64_t route = (channels_[n].config & kRoute) >> 9;
  return route >= kFirstPin && route < kFirstPin + kPins ? pins_.lines[route - kFirstPin] : nullptr;
}

// When the counter next equals the comparator.
void Hpet::arm(unsigned n) {
  timers_[n]->cancel();
  if (!(config_ & kEnable)) return;
  const uint64_t now = counter(), left = (channels_[n].comparator - now) & width(n);
  if (left > UINT64_MAX / 4 / kTickNs) return;  // not in anybody's time
  // The tick that it is now has had its event. All of a 32-bit counter's values come again.
  const uint64_t ticks = left == 0 ? width(n) == 0xffffffff ? 1ull << 32 : 0 : left;
  if (ticks) timers_[n]->arm(since_ns_ + (now - count_ + ticks) * kTickNs);
}

void Hpet::due(unsigned n) {
  std::lock_guard lock(mutex_);
  if (!(config_ & kEnable)) return;
  Channel& c = channels_[n];
  const uint64_t now = counter();
  // Armed anew meanwhile: the event is still to come.
  const uint64_t late = (now - c.comparator) & width(n);
  if (late > width(n) / 2) return arm(n);
  if (periodic(n)) {
    const uint64_t period = c.period & width(n);
    if (!period) return;
    // Those that were missed have one interrupt.
    c.comparator = (c.comparator + (late / period + 1) * period) & width(n);
  }
  arm(n);
  interrupt(n);
}

void Hpet::interrupt(unsigned n) {
  Channel& c = channels_[n];
  if (c.config & kLevel) status_ |= 1ull << n;  // whether or not it may interrupt
  if (!(c.config & kInterrupt)) return;
  if (c.config & kMessages) return pins_.msi.send(c.message >> 32, static_cast<uint32_t>(c.message));
  if (c.config & kLevel) return update_line(n);
  if (IrqLine* line = line_of(n)) line->pulse();
}

void Hpet::update_line(unsigned n) {
  const Channel& c = channels_[n];
  const bool high = (status_ >> n & 1) && (c.config & kLevel) && (c.config & kInterrupt) && !(c.config & kMessages) && (config_ & kEnable);
  IrqLine* line = high ? line_of(n) : nullptr;
  if (raised_[n] == line) return;
  // Two timers on one pin hold the same line.
  auto held = [&](IrqLine* l) {
    for (unsigned other = 0; other < kTimers; other++)
      if (other != n && raised_[other] == l) return true;
    return false;
  };
  IrqLine* before = std::exchange(raised_[n], line);
  if (before && !held(before)) before->set(false);
  if (line && !held(line)) line->set(true);
}

void Hpet::configure(uint64_t value) {
  const uint64_t before = config_;
  if ((before ^ value) & kEnable) {
    const uint64_t now = counter();
    config_ = value;
    set_counter(now);
  }
  config_ = value;
  if ((before ^ value) & kLegacy) pins_.replace_legacy(value & kLegacy);
  for (unsigned n = 0; n < kTimers; n++) {
    arm(n);
    update_line(n);
  }
}

uint64_t Hpet::load(uint64_t at) const {
  switch (at) {
    case kCapabilities: return kTickNs * kFemtosecondsPerNs << 32 | kBlockId;
    case kConfiguration: return config_;
    case kStatus: return status_;
    case kCounter: return counter();
    default: break;
  }
  if (at < kFirstTimer || at >= kFirstTimer + kTimers * kTimerStep) return 0;
  const unsigned n = static_cast<unsigned>((at - kFirstTimer) / kTimerStep);
  switch ((at - kFirstTimer) % kTimerStep) {
    case kTimerConfig: return channels_[n].config;
    case kTimerComparator: return channels_[n].comparator & width(n);
    case kTimerMessage: return channels_[n].message;
    default: return 0;
  }
}

void Hpet::store(uint64_t at, uint64_t value, uint64_t mask) {
  auto merged = [&](uint64_t old) { return (old & ~mask) | (value & mask); };
  switch (at) {
    case kConfiguration: return configure(merged(config_) & (kEnable | kLegacy));
    case kStatus:
      status_ &= ~(value & mask);  // a one clears
      for (unsigned n = 0; n < kTimers; n++) update_line(n);
      return;
    case kCounter:
      set_counter(merged(counter()));
      for (unsigned n = 0; n < kTimers; n++) arm(n);
      return;
    default: break;
  }
  if (at < kFirstTimer || at >= kFirstTimer + kTimers * kTimerStep) return;
  store_channel(static_cast<unsigned>((at - kFirstTimer) / kTimerStep), (at - kFirstTimer) % kTimerStep, value, mask);
}

void Hpet::store_channel(unsigned n, uint64_t at, uint64_t value, uint64_t mask) {
  Channel& c = channels_[n];
  auto merged = [&](uint64_t old) { return (old & ~mask) | (value & mask); };
  switch (at) {
    case kTimerConfig:
      c.config = (merged(c.config) & kWritable) | kFixed;
      if (!(c.config & kLevel)) status_ &= ~(1ull << n);
      break;
    case kTimerComparator:
      // A periodic timer takes the period; its comparator only where "set value" has said so just before.
      if (periodic(n)) c.period = merged(c.period) & width(n);
      if (!periodic(n) || (c.config & kSetValue)) c.comparator = merged(c.comparator) & width(n);
      c.config &= ~kSetValue;  // for one write alone, also of a half (Intel Atom C2000 data sheet, 28.4.1: set again for the other)
      break;
    case kTimerMessage: c.message = merged(c.message); return;
    default: return;
  }
  arm(n);
  update_line(n);
}

void Hpet::read(Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  const uint64_t from = access.offset & 7;
  if (data.size() + from > 8) return;
  const uint64_t value = load(access.offset & ~7ull) >> 8 * from;
  memcpy(data.data(), &value, data.size());
}

// Registers are written in halves or whole.
void Hpet::write(Access access, std::span<const std::byte> data) {
  std::lock_guard lock(mutex_);
  const uint64_t from = access.offset & 7;
  if ((data.size() != 4 && data.size() != 8) || from % data.size()) return;
  uint64_t value = 0;
  memcpy(&value, data.data(), data.size());
  const uint64_t mask = data.size() == 8 ? ~0ull : 0xffffffffull << 8 * from;
  store(access.offset & ~7ull, value << 8 * from, mask);
}

void Hpet::reset(ResetKind) {
  std::lock_guard lock(mutex_);
  status_ = 0;
  for (unsigned n = 0; n < kTimers; n++) channels_[n] = {.config = kFixed};
  configure(0);
  set_counter(0);
}

void Hpet::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  uint64_t count = counter(), config = config_;
  archive.field(1, "config", config);
  archive.field(2, "status", status_);
  archive.field(3, "counter", count);
  archive.field(4, "channels", channels_);
  for (Channel& c : channels_) c.config = (c.config & kWritable) | kFixed;
  configure(config & (kEnable | kLegacy));
  set_counter(count);
  for (unsigned n = 0; n < kTimers; n++) {
    arm(n);
    update_line(n);
  }
}

}  // namespace vireo
