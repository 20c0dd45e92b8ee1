// SPDX-License-Identifier: Apache-2.0
// The 8254 interval timer: channel 0 drives GSI 0, channel 2 the speaker's gate at port 0x61. Counts are computed from
// time, not counted. Lost ticks can be made up for ("reinjection"): a tick that comes before the last one was
// acknowledged is kept and given at that acknowledge. FAST code under a small lock.
// Spec: Intel 8254 datasheet.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/routing.h"
#include "softkvm/irqchip/spin_lock.h"
#include "softkvm/irqchip/timers.h"

namespace vireo::softkvm {

class Pit final : private HostTimer {
 public:
  static constexpr uint32_t kFrequency = 1193182;  // Hz

  // `speaker`: port 0x61 is ours too (KVM_PIT_SPEAKER_DUMMY).
  Pit(TimerQueue& timers, Router& router, ApicBus& bus, bool speaker);

  bool covers(uint16_t port) const { return (port & 0xfffc) == 0x40 || (port == 0x61 && speaker_); }
  uint8_t read(uint16_t port);
  void write(uint16_t port, uint8_t value);

  void acked();  // the guest has acknowledged GSI 0
  void mask_changed(bool masked);
  void set_reinject(bool reinject);
  bool reinject() const { return reinject_.load(); }

  void get_state(kvm_pit_state2& state);
  void set_state(const kvm_pit_state2& state);

 private:
  using Channel = kvm_pit_channel_state;

  void expire(uint64_t now_ns);
  static bool stands(const Channel& channel);
  uint64_t elapsed_ticks(unsigned channel) const;
  uint16_t count(unsigned channel) const;
  bool out(unsigned channel) const;
  void latch_count(unsigned channel);
  void latch_status(unsigned channel);
  void load(unsigned channel, uint32_t count);
  void start(uint32_t count, bool periodic);
  void stop();
  void set_gate(unsigned channel, bool gate);
  void write_control(uint8_t value);
  void write_count(unsigned channel, uint8_t value);
  uint8_t read_count(unsigned channel);
  void reset_reinject();
  void tick();

  TimerQueue& timers_;
  Router& router_;
  ApicBus& bus_;
  const bool speaker_;
  SpinLock lock_;
  Channel channels_[3] = {};
  uint64_t stood_at_[3] = {};   // ticks counted when the gate fell
  uint32_t flags_ = 0;          // KVM_PIT_FLAGS_HPET_LEGACY
  bool speaker_data_on_ = false;
  bool periodic_ = false;
  bool running_ = false;
  uint64_t period_ns_ = 0;      // 0: channel 0 has no timer
  uint64_t target_ns_ = 0;

  std::atomic<bool> reinject_{true};
  std::atomic<bool> irq_acked_{true};
  std::atomic<uint32_t> pending_{0};

  friend class Irqchip;  // attaches the timer
};

}  // namespace vireo::softkvm
