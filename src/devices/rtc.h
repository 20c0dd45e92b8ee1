// SPDX-License-Identifier: Apache-2.0
// The real-time clock and its battery-backed bytes: MC146818A with periodic, alarm and update-ended interrupts, behind ports 0x70
// (index) and 0x71 (data). Time is kept as an offset to the host's clock. Spec: Motorola MC146818A data sheet; ICH9, 13.6.
#pragma once

#include <array>
#include <cstdint>
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
  int64_t calendar() const { return set_mode() ? frozen_ : static_cast<int64_t>(now_ns() / 1'000'000'000); }
  bool set_mode() const { return bytes_[0x0b] & 0x80; }
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  uint8_t time_byte(unsigned index) const;
  void set_time_byte(unsigned index, uint8_t value);
  uint64_t periodic_ns() const;
  void raise(uint8_t flags);
  void update_irq();
  void arm_periodic();
  void arm_second();
  bool alarm_matches(int64_t seconds) const;
  void on_periodic();
  void on_second();

  std::mutex mutex_;
  Pins pins_;
  std::array<uint8_t, 128> bytes_{};
  uint8_t index_ = 0;
  __int128 offset_ns_ = 0;  // calendar minus the host's clock
  int64_t frozen_ = 0;     // calendar while the SET bit stops it
  uint64_t next_periodic_ = 0;
  bool irq_level_ = false;
  std::unique_ptr<Timer> periodic_;
  std::unique_ptr<Timer> second_;
};

}  // namespace vireo
