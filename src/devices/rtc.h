// SPDX-License-Identifier: Apache-2.0
// The real-time clock and its battery-backed bytes: MC146818A with periodic, alarm and update-ended interrupts, behind ports 0x70
// (index) and 0x71 (data). Time is kept as an offset to the host's clock. Spec: Motorola MC146818A data sheet; ICH9, 13.6.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "devices/device.h"

namespace vireo {

class Rtc final : public Device {
 public:
  static constexpr uint64_t kPorts = 2;
  struct Config {
    int64_t start = 0;  // seconds since 1970, in the clock's zone, when the machine is made
    std::vector<std::pair<uint8_t, uint8_t>> nvram;  // byte index and first value
  };
  struct Pins {
    IrqLine& irq;
    Clock& clock;
    Timers& timers;
    std::function<void()> alarm = {};  // the alarm's interrupt; called with the device's lock held
  };

  Rtc(const Config& config, Pins pins);

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

 private:
  uint8_t read_byte();
  void write_byte(uint8_t value);
  __int128 now_ns() const;  // of the guest's calendar, whose year 9999 is beyond 64 bits
  struct Moment {
    int64_t seconds, part_ns;
  };
  Moment moment() const;
  int64_t calendar() const { return moment().seconds; }
  int64_t phase() const { return moment().part_ns; }
  void set_calendar(Moment moment);
  bool divider_reset() const { return (bytes_[0x0a] & 0x60) == 0x60; }
  // By SET or by the divider: no updates come, and the bytes of time and date are as they were written.
  bool frozen() const { return bytes_[0x0b] & 0x80 || divider_reset(); }
  void freeze();
  void thaw(int64_t phase);
  uint8_t encode(unsigned value) const;
  uint8_t encode_hour(unsigned hour) const;
  unsigned decode(uint8_t value) const;
  uint8_t calendar_byte(unsigned index) const;
  void put(tm& date, unsigned index, uint8_t value) const;
  void write_time(uint8_t value);
  void write_a(uint8_t value);
  void write_b(uint8_t value);
  uint64_t periodic_ns() const;
  // The flags that are due since the last look.
  void look();
  void look_at_seconds();
  bool alarm_within(int64_t first, int64_t last) const;
  void update_irq();
  void arm_periodic();
  void arm_second();
  void on_periodic();
  void on_second();

  std::mutex mutex_;
  Pins pins_;
  std::array<uint8_t, 128> bytes_{};
  uint8_t index_ = 0;
  __int128 offset_ns_ = 0;  // calendar minus the host's clock
  int64_t seen_ = 0;       // the calendar's second whose update has had its flags
  uint64_t next_periodic_ = 0;  // host clock; 0: there is none
  bool irq_level_ = false;
  std::unique_ptr<Timer> periodic_;
  std::unique_ptr<Timer> second_;
};

}  // namespace vireo
