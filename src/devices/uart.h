// SPDX-License-Identifier: Apache-2.0
// A 16550A serial port. The line is as fast as its two ends: a byte leaves when the host takes it, and bytes from the host wait
// outside until the receive FIFO has room, so none is lost. Spec: National Semiconductor PC16550D data sheet.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "devices/device.h"

namespace vireo {

class Uart final : public Device {
 public:
  static constexpr uint64_t kPorts = 8;
  struct Pins {
    IrqLine& irq;
    // Takes one byte, or returns false when the host end is full; then transmit_ready() shall be called once it is not.
    std::function<bool(std::byte)> transmit;
    // The guest made room in an empty or filled receive FIFO: receive() will take bytes again. Called with the port's lock held.
    std::function<void()> receive_room_made;
  };

  explicit Uart(Pins pins) : pins_(std::move(pins)) { reset(ResetKind::kCold); }

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // Host side, any thread. How many bytes receive() would take now; receive() returns how many it took.
  size_t receive_room() const;
  size_t receive(std::span<const std::byte> bytes);
  void receive_break();
  void transmit_ready();

 private:
  static constexpr size_t kFifo = 16;

  uint8_t read_register(unsigned offset);
  void write_register(unsigned offset, uint8_t value);
  size_t fifo_size() const;
  void push(uint8_t byte);
  void send(uint8_t byte);
  uint8_t identify() const;
  uint8_t modem_status() const;
  void update_irq();

  mutable std::mutex mutex_;
  Pins pins_;
  uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, lsr_ = 0, scratch_ = 0;
  uint8_t msr_delta_ = 0;
  uint16_t divisor_ = 0;
  std::array<uint8_t, kFifo> fifo_{};
  uint8_t fifo_start_ = 0, fifo_used_ = 0;
  uint8_t last_received_ = 0;
  uint8_t held_ = 0;          // a byte the host end did not take yet
  bool holding_ = false;
  bool thre_pending_ = false;
  bool irq_level_ = false;
};

}  // namespace vireo
