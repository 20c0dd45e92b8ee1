// SPDX-License-Identifier: Apache-2.0
#include "devices/i8042.h"

#include <algorithm>
#include <utility>

namespace vireo {
namespace {

// Status register.
constexpr uint8_t kObf = 0x01, kSys = 0x04, kCmd = 0x08, kKeyLock = 0x10, kAuxObf = 0x20;
// Command byte.
constexpr uint8_t kKeyboardInt = 0x01, kAuxInt = 0x02, kCtrSys = 0x04, kKeyboardOff = 0x10, kAuxOff = 0x20, kTranslate = 0x40;
// Output port.
constexpr uint8_t kOutputA20 = 0x02;
constexpr uint8_t kAck = 0xfa, kResend = 0xfe, kSelfTestPassed = 0xaa;

}  // namespace

void I8042::reset(ResetKind) {
  std::lock_guard lock(mutex_);
  queue_.clear();
  control_ = kKeyboardInt | kAuxInt | kCtrSys | kTranslate;
  set_output_port(0x03);  // not in reset, A20 on
  pending_command_ = keyboard_pending_ = mouse_pending_ = 0;
  scancode_set_ = 2;
  keyboard_scanning_ = true;
  reset_mouse();
  output_full_ = last_was_command_ = false;
  output_ = {0, false};
  update_irq();
}

void I8042::reset_mouse() {
  mouse_reporting_ = mouse_scaling_ = mouse_remote_ = mouse_wrap_ = false;
  mouse_rate_ = 100;
  mouse_resolution_ = 2;
}

void I8042::set_output_port(uint8_t value) {
  output_port_ = value;
  if (pins_.a20) pins_.a20(value & kOutputA20);
}

uint8_t I8042::status() const {
  return kKeyLock | (control_ & kCtrSys ? kSys : 0) | (last_was_command_ ? kCmd : 0) | (output_full_ ? kObf : 0) |
         (output_full_ && output_.from_mouse ? kAuxObf : 0);
}

void I8042::update_irq() {
  bool keyboard = output_full_ && !output_.from_mouse && (control_ & kKeyboardInt);
  bool mouse = output_full_ && output_.from_mouse && (control_ & kAuxInt);
  if (keyboard != keyboard_level_) pins_.keyboard_irq.set(keyboard_level_ = keyboard);
  if (mouse != mouse_level_) pins_.mouse_irq.set(mouse_level_ = mouse);
}

void I8042::refill() {
  if (!output_full_ && !queue_.empty()) {
    output_ = queue_.front();
    queue_.pop_front();
    output_full_ = true;
  }
  update_irq();
}

void I8042::push(uint8_t value, bool from_mouse) {
  if (queue_.size() < kQueueLimit) queue_.push_back({value, from_mouse});
}

void I8042::read(Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  if (access.offset == kCommand) {
    data[0] = std::byte{status()};
  } else if (access.offset == kData) {
    data[0] = std::byte{output_.value};
    if (output_full_) {
      output_full_ = false;
      update_irq();  // the edge of the next byte
      refill();
    }
  }
}

void I8042::write(Access access, std::span<const std::byte> data) {
  std::function<void()> after;
  {
    std::lock_guard lock(mutex_);
    uint8_t value = std::to_integer<uint8_t>(data[0]);
    if (access.offset == kCommand) {
      last_was_command_ = true;
      // 0xf0 to 0xff pulse the output lines whose bits are 0; line 0 is the CPU's reset.
      if (value >= 0xf0 && !(value & 1))
        after = pins_.reset;
      else
        command(value);
    } else if (access.offset == kData) {
      bool resets = pending_command_ == 0xd1 && !(value & 1);
      last_was_command_ = false;
      data_byte(value);
      if (resets) after = pins_.reset;
    }
    refill();
  }
  if (after) after();
}

void I8042::command(uint8_t value) {
  pending_command_ = 0;
  switch (value) {
    case 0x20: push(control_, false); break;
    case 0x60: case 0xd1: case 0xd2: case 0xd3: case 0xd4: pending_command_ = value; break;
    case 0xa7: control_ |= kAuxOff; break;
    case 0xa8: control_ &= ~kAuxOff; break;
    case 0xa9: push(0x00, false); break;  // mouse port passed
    case 0xaa:
      control_ |= kCtrSys;
      push(0x55, false);
      break;
    case 0xab: push(0x00, false); break;  // keyboard port passed
    case 0xad: control_ |= kKeyboardOff; break;
    case 0xae: control_ &= ~kKeyboardOff; break;
    case 0xc0: push(0x80, false); break;
    case 0xd0: push(output_port_, false); break;
    case 0xdd: case 0xdf: set_output_port(value == 0xdf ? output_port_ | kOutputA20 : output_port_ & ~kOutputA20); break;
    default: break;
  }
}

void I8042::data_byte(uint8_t value) {
  switch (std::exchange(pending_command_, 0)) {
    case 0x60: control_ = value; break;
    case 0xd1: set_output_port(value); break;
    case 0xd2: push(value, false); break;
    case 0xd3: push(value, true); break;
    case 0xd4: mouse_command(value); break;
    default:
      control_ &= ~kKeyboardOff;
      keyboard_command(value);
      break;
  }
}

void I8042::keyboard_command(uint8_t value) {
  switch (std::exchange(keyboard_pending_, 0)) {
    case 0xed: case 0xf3:
      push(kAck, false);
      return;
    case 0xf0:
      push(kAck, false);
      if (value == 0)
        push(control_ & kTranslate ? (scancode_set_ == 1 ? 0x43 : scancode_set_ == 2 ? 0x41 : 0x3f) : scancode_set_, false);
      else if (value <= 3)
        scancode_set_ = value;
      return;
    default: break;
  }
  switch (value) {
    case 0xed: case 0xf0: case 0xf3:
      keyboard_pending_ = value;
      push(kAck, false);
      break;
    case 0xee: push(0xee, false); break;
    case 0xf2:
      push(kAck, false);
      push(0xab, false);
      push(control_ & kTranslate ? 0x41 : 0x83, false);
      break;
    case 0xf4: case 0xf5: case 0xf6:
      keyboard_scanning_ = value != 0xf5;
      if (value == 0xf6) scancode_set_ = 2;
      push(kAck, false);
      break;
    case 0xff:
      scancode_set_ = 2;
      keyboard_scanning_ = true;
      push(kAck, false);
      push(kSelfTestPassed, false);
      break;
    default: push(kResend, false); break;
  }
}

void I8042::mouse_command(uint8_t value) {
  if (mouse_wrap_ && value != 0xec && value != 0xff) return push(value, true);
  switch (std::exchange(mouse_pending_, 0)) {
    case 0xf3:
      mouse_rate_ = value;
      push(kAck, true);
      return;
    case 0xe8:
      mouse_resolution_ = value & 3;
      push(kAck, true);
      return;
    default: break;
  }
  switch (value) {
    case 0xe8: case 0xf3:
      mouse_pending_ = value;
      push(kAck, true);
      break;
    case 0xe6: case 0xe7:
      mouse_scaling_ = value == 0xe7;
      push(kAck, true);
      break;
    case 0xe9:
      push(kAck, true);
      push((mouse_remote_ ? 0x40 : 0) | (mouse_reporting_ ? 0x20 : 0) | (mouse_scaling_ ? 0x10 : 0) | (mouse_buttons_ & 7), true);
      push(mouse_resolution_, true);
      push(mouse_rate_, true);
      break;
    case 0xea: case 0xf0:
      mouse_remote_ = value == 0xf0;
      push(kAck, true);
      break;
    case 0xec: case 0xee:
      mouse_wrap_ = value == 0xee;
      push(kAck, true);
      break;
    case 0xeb:
      push(kAck, true);
      for (uint8_t byte : {static_cast<uint8_t>(0x08 | mouse_buttons_), uint8_t{0}, uint8_t{0}}) push(byte, true);
      break;
    case 0xf2:
      push(kAck, true);
      push(0x00, true);
      break;
    case 0xf4: case 0xf5:
      mouse_reporting_ = value == 0xf4;
      push(kAck, true);
      break;
    case 0xf6:
      reset_mouse();
      push(kAck, true);
      break;
    case 0xff:
      reset_mouse();
      push(kAck, true);
      push(kSelfTestPassed, true);
      push(0x00, true);
      break;
    default: push(kResend, true); break;
  }
}

void I8042::key(std::span<const uint8_t> scancodes) {
  std::lock_guard lock(mutex_);
  if (!keyboard_scanning_ || (control_ & kKeyboardOff) || queue_.size() + scancodes.size() > kQueueLimit) return;
  for (uint8_t code : scancodes) push(code, false);
  refill();
}

void I8042::mouse(int dx, int dy, unsigned buttons) {
  std::lock_guard lock(mutex_);
  mouse_buttons_ = buttons & 7;
  if (!mouse_reporting_ || mouse_remote_ || mouse_wrap_ || (control_ & kAuxOff) || queue_.size() + 3 > kQueueLimit) return;
  dx = std::clamp(dx, -256, 255);
  dy = std::clamp(-dy, -256, 255);  // up is positive on the wire
  push(static_cast<uint8_t>(0x08 | mouse_buttons_ | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)), true);
  push(static_cast<uint8_t>(dx), true);
  push(static_cast<uint8_t>(dy), true);
  refill();
}

void I8042::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  archive.field(1, "control", control_);
  archive.field(2, "output_port", output_port_);
  archive.field(3, "pending_command", pending_command_);
  archive.field(4, "keyboard_pending", keyboard_pending_);
  archive.field(5, "mouse_pending", mouse_pending_);
  archive.field(6, "scancode_set", scancode_set_);
  archive.field(7, "keyboard_scanning", keyboard_scanning_);
  archive.field(8, "mouse_reporting", mouse_reporting_);
  archive.field(9, "mouse_rate", mouse_rate_);
  archive.field(10, "mouse_resolution", mouse_resolution_);
  archive.field(11, "mouse_scaling", mouse_scaling_);
  archive.field(12, "mouse_buttons", mouse_buttons_);
  archive.field(13, "output_value", output_.value);
  archive.field(14, "output_from_mouse", output_.from_mouse);
  archive.field(15, "output_full", output_full_);
  archive.field(16, "last_was_command", last_was_command_);
  std::array<uint8_t, 2 * kQueueLimit> bytes{};
  uint8_t used = static_cast<uint8_t>(queue_.size());
  for (size_t i = 0; i < queue_.size(); i++) bytes[2 * i] = queue_[i].value, bytes[2 * i + 1] = queue_[i].from_mouse;
  archive.field(17, "queue", bytes);
  archive.field(18, "queue_used", used);
  archive.field(19, "mouse_remote", mouse_remote_);
  archive.field(20, "mouse_wrap", mouse_wrap_);
  set_output_port(output_port_);
  queue_.clear();
  for (size_t i = 0; i < std::min<size_t>(used, kQueueLimit); i++) queue_.push_back({bytes[2 * i], bytes[2 * i + 1] != 0});
  update_irq();
}

}  // namespace vireo
