// SPDX-License-Identifier: Apache-2.0
// The PS/2 controller at ports 0x60 and 0x64 with a keyboard and a mouse behind it, and its reset line.
// Spec: IBM PS/2 Technical Reference, keyboard and auxiliary device controller; keyboard and mouse command sets.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "devices/device.h"

namespace vireo {

class I8042 final : public Device {
 public:
  // Mapped as one region at 0x60 of 5 ports; 0x61 to 0x63 are somebody else's.
  static constexpr uint64_t kData = 0, kCommand = 4;
  struct Pins {
    IrqLine& keyboard_irq;
    IrqLine& mouse_irq;
    std::function<void()> reset;  // pulses the CPU's reset line
    std::function<void(bool)> a20 = {};  // whether address line 20 may pass, as far as this gate is asked; or none
  };

  explicit I8042(Pins pins) : pins_(std::move(pins)) { reset(ResetKind::kCold); }

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // Host input, any thread: scancode bytes of set 1, as the controller would hand them out, and mouse packets.
  void key(std::span<const uint8_t> scancodes);
  void mouse(int dx, int dy, unsigned buttons);

 private:
  struct Byte {
    uint8_t value;
    bool from_mouse;
  };
  static constexpr size_t kQueueLimit = 64;

  void command(uint8_t value);
  void data_byte(uint8_t value);
  void keyboard_command(uint8_t value);
  void mouse_command(uint8_t value);
  void push(uint8_t value, bool from_mouse);
  void refill();
  uint8_t status() const;
  void update_irq();
  void reset_mouse();
  void set_output_port(uint8_t value);

  std::mutex mutex_;
  Pins pins_;
  std::deque<Byte> queue_;
  uint8_t control_ = 0;       // the command byte, "CTR"
  uint8_t output_port_ = 0;
  uint8_t pending_command_ = 0;   // a controller command that waits for its byte
  uint8_t keyboard_pending_ = 0;  // a keyboard command that waits for its byte
  uint8_t mouse_pending_ = 0;
  uint8_t scancode_set_ = 2;
  bool keyboard_scanning_ = true;
  bool mouse_reporting_ = false;
  uint8_t mouse_rate_ = 100, mouse_resolution_ = 2;
  bool mouse_scaling_ = false;
  bool mouse_remote_ = false;  // packets are asked for
  bool mouse_wrap_ = false;    // what comes goes back
  uint8_t mouse_buttons_ = 0;
  Byte output_{0, false};
  bool output_full_ = false;
  bool last_was_command_ = false;
  bool keyboard_level_ = false, mouse_level_ = false;
};

}  // namespace vireo
