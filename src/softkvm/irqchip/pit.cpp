// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/pit.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMinimumPeriodNs = 200'000;  // as KVM's min_timer_period_us
// Which byte of a count comes next.
enum ByteState : uint8_t { kLow = 1, kHigh = 2, kWordLow = 3, kWordHigh = 4 };

// value * multiply / divide without a 128-bit division; multiply and divide below 2^32.
uint64_t scale(uint64_t value, uint64_t multiply, uint64_t divide) {
  return value / divide * multiply + value % divide * multiply / divide;
}

}  // namespace

Pit::Pit(TimerQueue& timers, Router& router, ApicBus& bus, bool speaker)
    : HostTimer([](HostTimer& timer, uint64_t now_ns) { static_cast<Pit&>(timer).expire(now_ns); }),
      timers_(timers), router_(router), bus_(bus), speaker_(speaker) {
  for (unsigned i = 0; i < 3; ++i) {
    channels_[i].mode = 0xff;  // not programmed
    channels_[i].gate = i != 2;
    load(i, 0);
  }
}

// --- counting

uint64_t Pit::elapsed_ticks(unsigned channel) const {
  const uint64_t now = timers_.now_ns();
  if (channel == 0 && period_ns_ != 0) {
    // From the timer, so that count and interrupt agree. A counter that has run out goes on counting.
    const uint64_t begun = target_ns_ - period_ns_;
    return scale(now > begun ? now - begun : 0, kFrequency, kSecond);
  }
  if (channel == 0) return 0;
  if (stands(channels_[channel])) return stood_at_[channel];
  const uint64_t loaded = static_cast<uint64_t>(channels_[channel].count_load_time);
  return scale(now > loaded ? now - loaded : 0, kFrequency, kSecond);
}

// Without their gate all modes but 1 and 5, which it triggers, stop counting. Spec: 8254 datasheet, gate pin operations.
bool Pit::stands(const Channel& c) {
  return !c.gate && (c.mode == 0 || c.mode == 2 || c.mode == 3 || c.mode == 4);
}

uint16_t Pit::count(unsigned channel) const {
  const Channel& c = channels_[channel];
  const uint64_t ticks = elapsed_ticks(channel);
  switch (c.mode) {
    case 0:
    case 1:
    case 4:
    case 5: return static_cast<uint16_t>(c.count - ticks);
    case 3: return static_cast<uint16_t>(c.count - 2 * ticks % c.count);  // by twos, each half of the square wave
    default: return static_cast<uint16_t>(c.count - ticks % c.count);
  }
}

bool Pit::out(unsigned channel) const {
  const Channel& c = channels_[channel];
  const uint64_t ticks = elapsed_ticks(channel);
  if (stands(c) && c.mode != 0) return true;  // OUT is high at once
  switch (c.mode) {
    case 1: return ticks < c.count;
    case 2: return ticks % c.count == 0 && ticks != 0;
    case 3: return ticks % c.count < (c.count + 1) / 2;
    case 4:
    case 5: return ticks == c.count;
    default: return ticks >= c.count;
  }
}

void Pit::latch_count(unsigned channel) {
  Channel& c = channels_[channel];
  if (c.count_latched) return;
  c.latched_count = count(channel);
  c.count_latched = c.rw_mode;
}

void Pit::latch_status(unsigned channel) {
  Channel& c = channels_[channel];
  if (c.status_latched) return;
  c.status = static_cast<uint8_t>(out(channel) << 7 | c.rw_mode << 4 | c.mode << 1 | c.bcd);
  c.status_latched = 1;
}

void Pit::load(unsigned channel, uint32_t count) {
  Channel& c = channels_[channel];
  if (count == 0) count = 0x10000;
  c.count = count;
  if (channel != 0) {
    c.count_load_time = static_cast<int64_t>(timers_.now_ns());
    stood_at_[channel] = 0;
    return;
  }
  switch (c.mode) {
    case 0:
    case 1:
    case 4: start(count, false); break;
    case 2:
    case 3: start(count, true); break;
    default: stop(); break;
  }
}

void Pit::start(uint32_t count, bool periodic) {
  if (flags_ & KVM_PIT_FLAGS_HPET_LEGACY) return;  // the HPET has taken over IRQ 0
  period_ns_ = scale(count, kSecond, kFrequency);
  periodic_ = periodic;
  if (periodic && period_ns_ < kMinimumPeriodNs) period_ns_ = kMinimumPeriodNs;
  running_ = true;
  target_ns_ = timers_.now_ns() + period_ns_;
  reset_reinject();
  arm(target_ns_);
}

void Pit::stop() {
  cancel();
  running_ = false;
}

void Pit::set_gate(unsigned channel, bool gate) {
  Channel& c = channels_[channel];
  if (gate == static_cast<bool>(c.gate)) return;
  const uint64_t ticks = elapsed_ticks(channel);
  c.gate = gate;
  if (!gate) {
    stood_at_[channel] = ticks;
  } else {
    // Modes 0 and 4 go on where they stood; in the others a rising gate starts anew.
    const bool goes_on = c.mode == 0 || c.mode == 4;
    c.count_load_time = static_cast<int64_t>(timers_.now_ns() - (goes_on ? scale(ticks, kSecond, kFrequency) : 0));
  }
}

// --- ports

void Pit::write_control(uint8_t value) {
  if (value >> 6 == 3) {  // read-back
    for (unsigned i = 0; i < 3; ++i) {
      if (!(value & (2u << i))) continue;
      if (!(value & 0x20)) latch_count(i);
      if (!(value & 0x10)) latch_status(i);
    }
    return;
  }
  Channel& c = channels_[value >> 6];
  const uint8_t access = value >> 4 & 3;
  if (access == 0) return latch_count(value >> 6);
  c.rw_mode = c.read_state = c.write_state = access;
  c.mode = value >> 1 & 7;
  if (c.mode > 5) c.mode -= 4;
  c.bcd = value & 1;
}

void Pit::write_count(unsigned channel, uint8_t value) {
  Channel& c = channels_[channel];
  switch (c.write_state) {
    case kHigh: load(channel, static_cast<uint32_t>(value) << 8); break;
    case kWordLow:
      c.write_latch = value;
      c.write_state = kWordHigh;
      break;
    case kWordHigh:
      c.write_state = kWordLow;
      load(channel, c.write_latch | static_cast<uint32_t>(value) << 8);
      break;
    default: load(channel, value); break;
  }
}

uint8_t Pit::read_count(unsigned channel) {
  Channel& c = channels_[channel];
  if (c.status_latched) {
    c.status_latched = 0;
    return c.status;
  }
  if (c.count_latched) {
    switch (c.count_latched) {
      case kHigh: c.count_latched = 0; return static_cast<uint8_t>(c.latched_count >> 8);
      case kWordLow: c.count_latched = kHigh; return static_cast<uint8_t>(c.latched_count);
      default: c.count_latched = 0; return static_cast<uint8_t>(c.latched_count);
    }
  }
  const uint16_t now = count(channel);
  switch (c.read_state) {
    case kHigh: return static_cast<uint8_t>(now >> 8);
    case kWordLow: c.read_state = kWordHigh; return static_cast<uint8_t>(now);
    case kWordHigh: c.read_state = kWordLow; return static_cast<uint8_t>(now >> 8);
    default: return static_cast<uint8_t>(now);
  }
}

void Pit::write(uint16_t port, uint8_t value) {
  SpinGuard guard(lock_);
  if (port == 0x61) {
    speaker_data_on_ = value >> 1 & 1;
    set_gate(2, value & 1);
  } else if ((port & 3) == 3) {
    write_control(value);
  } else {
    write_count(port & 3, value);
  }
}

uint8_t Pit::read(uint16_t port) {
  SpinGuard guard(lock_);
  if (port == 0x61) {
    // Bit 4 toggles with the memory refresh, every 15 us or so: 2^14 ns.
    const unsigned refresh = timers_.now_ns() >> 14 & 1;
    return static_cast<uint8_t>(speaker_data_on_ << 1 | (channels_[2].gate & 1) | out(2) << 5 | refresh << 4);
  }
  return (port & 3) == 3 ? 0 : read_count(port & 3);
}

// --- ticks

void Pit::expire(uint64_t now_ns) {
  {
    SpinGuard guard(lock_);
    if (!running_) return;
    if (now_ns < target_ns_) return arm(target_ns_);
    uint64_t ticks = 1;
    if (periodic_) {
      ticks += (now_ns - target_ns_) / period_ns_;
      target_ns_ += ticks * period_ns_;
      arm(target_ns_);
    } else {
      running_ = false;
    }
    if (reinject_.load()) pending_.fetch_add(static_cast<uint32_t>(ticks > 0xffff ? 0xffff : ticks));
  }
  tick();
}

// Raises IRQ 0, or leaves it to acked() if the last one is not through yet.
void Pit::tick() {
  if (reinject_.load() && !irq_acked_.exchange(false)) return;
  router_.set_irq(IrqSource::kPit, 0, true);
  router_.set_irq(IrqSource::kPit, 0, false);
  bus_.nmi_watchdog();
}

void Pit::acked() {
  if (!reinject_.load()) return;
  irq_acked_.store(true);
  uint32_t pending = pending_.load();
  while (pending != 0 && !pending_.compare_exchange_weak(pending, pending - 1)) {
  }
  if (pending > 1) tick();
}

void Pit::mask_changed(bool masked) {
  if (!masked && reinject_.load()) reset_reinject();
}

void Pit::reset_reinject() {
  pending_.store(0);
  irq_acked_.store(true);
}

void Pit::set_reinject(bool reinject) {
  if (reinject == reinject_.load()) return;
  reset_reinject();
  reinject_.store(reinject);
}

// --- KVM_GET_PIT2, KVM_SET_PIT2

void Pit::get_state(kvm_pit_state2& state) {
  SpinGuard guard(lock_);
  for (unsigned i = 0; i < 3; ++i) state.channels[i] = channels_[i];
  state.flags = flags_ | (speaker_data_on_ ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
  for (unsigned i = 0; i < 9; ++i) state.reserved[i] = 0;
}

void Pit::set_state(const kvm_pit_state2& state) {
  SpinGuard guard(lock_);
  const bool takes_over = !(flags_ & KVM_PIT_FLAGS_HPET_LEGACY) && (state.flags & KVM_PIT_FLAGS_HPET_LEGACY);
  for (unsigned i = 0; i < 3; ++i) channels_[i] = state.channels[i];
  flags_ = state.flags & KVM_PIT_FLAGS_HPET_LEGACY;
  speaker_data_on_ = state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  for (unsigned i = 0; i < 3; ++i) {
    const uint8_t mode = channels_[i].mode;
    if (i == 0 && takes_over) channels_[0].mode = 0xff;  // stops the timer
    load(i, channels_[i].count);
    channels_[i].mode = mode;
  }
}

}  // namespace vireo::softkvm
