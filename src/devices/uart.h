// SPDX-License-Identifier: Apache-2.0
// A 16550A serial port. The line is as fast as its two ends: a byte leaves when the host takes it, and bytes from the host wait
// outside until the receive FIFO has room, so none is lost. Spec: National Semiconductor PC16550D data sheet.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>

#include "devices/char_backend.h"
#include "devices/device.h"

namespace vireo {

class Uart final : public Device, public CharFrontend {
 public:
  static constexpr uint64_t kPorts = 8;
  struct Pins {
    IrqLine& irq;
    CharBackend* host = nullptr;  // null: nobody listens, nobody speaks
  };

  explicit Uart(Pins pins);
  ~Uart() override;

  void read(Access access, std::span<std::byte> data) override;
  void write(Access access, std::span<const std::byte> data) override;
  void reset(ResetKind kind) override;
  void fields(Archive& archive) override;

  // Host side, any thread. The host's bytes wait until the guest's driver listens (RTS or its receive interrupt is on, or it polls): a
  // driver empties the FIFO when it starts.
  size_t receive_room() const override;
  size_t receive(std::span<const std::byte> bytes) override;
  void transmit_ready() override;
  void receive_break();

 private:
  static constexpr size_t kFifo = 16;

  uint8_t read_register(unsigned offset);
  void write_register(unsigned offset, uint8_t value);
  size_t fifo_size() const;
  size_t room() const;
  void notice_room(size_t before);
  void push(uint8_t byte);
  void send(uint8_t byte);
  uint8_t identify() const;
  uint8_t modem_status() const;
  void update_irq();
  void drop_irq();
  size_t trigger() const;  // bytes in the FIFO for an interrupt

  mutable std::mutex mutex_;
  Pins pins_;
  uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, lsr_ = 0, scratch_ = 0;
  uint8_t msr_delta_ = 0;
  uint16_t divisor_ = 0;
  std::array<uint8_t, kFifo> fifo_{};
  uint8_t fifo_start_ = 0, fifo_used_ = 0;
  uint8_t last_received_ = 0;
  std::array<uint8_t, kFifo> held_{};  // what the host end did not take yet, the oldest first: the transmitter's FIFO
  uint8_t holding_ = 0;
  bool thre_pending_ = false;
  uint8_t burst_ = 0;         // bytes written with nothing else between, as into the FIFO
  uint8_t polls_ = 0;         // looks for a byte since the last write
  bool irq_level_ = false;
};

}  // namespace vireo
