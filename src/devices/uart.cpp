// SPDX-License-Identifier: Apache-2.0
#include "devices/uart.h"

#include <linux/serial_reg.h>

#include <algorithm>
#include <utility>

namespace vireo {
namespace {

constexpr uint8_t kReset8n1 = 0x03;
constexpr uint8_t kLineStatusErrors = UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI;
// So many looks for a byte in a row, with nothing written between, are a guest that polls for input: one that only waits to send looks once a byte.
constexpr uint8_t kPolls = 8;
// A cable with a listening end: carrier, data set ready, clear to send.
constexpr uint8_t kConnected = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;

}  // namespace

Uart::Uart(Pins pins) : pins_(pins) {
  reset(ResetKind::kCold);
  if (pins_.host) pins_.host->connect(this);
}

Uart::~Uart() {
  if (pins_.host) pins_.host->connect(nullptr);
}

void Uart::reset(ResetKind) {
  std::lock_guard lock(mutex_);
  ier_ = fcr_ = mcr_ = scratch_ = msr_delta_ = 0;
  lcr_ = kReset8n1;
  lsr_ = UART_LSR_THRE | UART_LSR_TEMT;
  divisor_ = 12;
  fifo_ = held_ = {};
  fifo_start_ = fifo_used_ = last_received_ = holding_ = 0;
  thre_pending_ = false;
  polls_ = burst_ = 0;
  update_irq();
}

size_t Uart::fifo_size() const { return fcr_ & UART_FCR_ENABLE_FIFO ? kFifo : 1; }

uint8_t Uart::modem_status() const {
  if (!(mcr_ & UART_MCR_LOOP)) return kConnected | msr_delta_;
  uint8_t status = msr_delta_;
  if (mcr_ & UART_MCR_RTS) status |= UART_MSR_CTS;
  if (mcr_ & UART_MCR_DTR) status |= UART_MSR_DSR;
  if (mcr_ & UART_MCR_OUT1) status |= UART_MSR_RI;
  if (mcr_ & UART_MCR_OUT2) status |= UART_MSR_DCD;
  return status;
}

// The highest-priority reason to interrupt, as IIR shows it (table 4 of the data sheet).
uint8_t Uart::identify() const {
  if ((ier_ & UART_IER_RLSI) && (lsr_ & kLineStatusErrors)) return UART_IIR_RLSI;
  if ((ier_ & UART_IER_RDI) && fifo_used_) {
    return fifo_used_ >= trigger() ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
  }
  if ((ier_ & UART_IER_THRI) && thre_pending_) return UART_IIR_THRI;
  if ((ier_ & UART_IER_MSI) && msr_delta_) return UART_IIR_MSI;
  return UART_IIR_NO_INT;
}

void Uart::update_irq() {
  // On a PC, OUT2 gates the line to the interrupt controller.
  bool level = identify() != UART_IIR_NO_INT && (mcr_ & UART_MCR_OUT2) && !(mcr_ & UART_MCR_LOOP);
  if (level == irq_level_) return;
  irq_level_ = level;
  pins_.irq.set(level);
}

// What takes edges alone gets another one if there is still a reason, or a new one.
void Uart::drop_irq() {
  if (!irq_level_) return;
  pins_.irq.set(irq_level_ = false);
  update_irq();
}

size_t Uart::trigger() const {
  static constexpr uint8_t kTriggers[] = {1, 4, 8, 14};
  return fcr_ & UART_FCR_ENABLE_FIFO ? kTriggers[fcr_ >> 6] : 1;
}

void Uart::push(uint8_t byte) {
  if (fifo_used_ >= fifo_size()) {
    lsr_ |= UART_LSR_OE;
    if (fifo_size() == 1) fifo_[fifo_start_] = byte;
    return;
  }
  fifo_[(fifo_start_ + fifo_used_++) % kFifo] = byte;
  lsr_ |= UART_LSR_DR;
}

void Uart::send(uint8_t byte) {
  // The register is full for a moment, and its interrupt gone: once for a FIFO that is filled in one go.
  const bool goes_on = (fcr_ & UART_FCR_ENABLE_FIFO) && burst_ && burst_ < kFifo;
  burst_ = goes_on ? burst_ + 1 : 1;
  if (!goes_on && std::exchange(thre_pending_, false)) update_irq();
  if (mcr_ & UART_MCR_LOOP) {
    push(byte);
  } else if (holding_ || (pins_.host && !pins_.host->write(std::byte{byte}))) {
    if (holding_ < fifo_size()) held_[holding_++] = byte;  // else written over a full transmitter: lost, as on the wire
    lsr_ &= ~(UART_LSR_THRE | UART_LSR_TEMT);
    thre_pending_ = false;
    return;
  }
  thre_pending_ = true;
}

void Uart::transmit_ready() {
  std::lock_guard lock(mutex_);
  uint8_t gone = 0;
  while (gone < holding_ && (!pins_.host || pins_.host->write(std::byte{held_[gone]}))) gone++;
  if (!gone) return;
  std::copy(held_.begin() + gone, held_.begin() + holding_, held_.begin());
  holding_ -= gone;
  if (holding_) return;
  lsr_ |= UART_LSR_THRE | UART_LSR_TEMT;
  thre_pending_ = true;
  update_irq();
}

uint8_t Uart::read_register(unsigned offset) {
  switch (offset) {
    case UART_RX: {
      if (lcr_ & UART_LCR_DLAB) return divisor_ & 0xff;
      if (!fifo_used_) return last_received_;
      last_received_ = fifo_[fifo_start_];
      fifo_start_ = (fifo_start_ + 1) % kFifo;
      fifo_used_--;
      if (!fifo_used_) lsr_ &= ~UART_LSR_DR;
      // The trigger's interrupt is over, and what is left has the timeout's.
      if (fifo_used_ && fifo_used_ + 1u == trigger() && (ier_ & UART_IER_RDI)) drop_irq();
      return last_received_;
    }
    case UART_IER:
      return lcr_ & UART_LCR_DLAB ? divisor_ >> 8 : ier_;
    case UART_IIR: {
      uint8_t reason = identify();
      if (reason == UART_IIR_THRI) thre_pending_ = false;
      return reason | (fcr_ & UART_FCR_ENABLE_FIFO ? 0xc0 : 0);
    }
    case UART_LCR:
      return lcr_;
    case UART_MCR:
      return mcr_;
    case UART_LSR: {
      uint8_t status = lsr_;
      lsr_ &= ~kLineStatusErrors;
      if ((status & (UART_LSR_THRE | UART_LSR_DR)) == UART_LSR_THRE && polls_ < kPolls) polls_++;
      return status;
    }
    case UART_MSR: {
      uint8_t status = modem_status();
      msr_delta_ = 0;
      return status;
    }
    default:
      return scratch_;
  }
}

void Uart::write_register(unsigned offset, uint8_t value) {
  switch (offset) {
    case UART_TX:
      if (lcr_ & UART_LCR_DLAB)
        divisor_ = (divisor_ & 0xff00) | value;
      else
        send(value);
      break;
    case UART_IER:
      if (lcr_ & UART_LCR_DLAB) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
      } else {
        bool enables_thre = (value & UART_IER_THRI) && !(ier_ & UART_IER_THRI);
        ier_ = value & 0x0f;
        if (enables_thre && (lsr_ & UART_LSR_THRE)) thre_pending_ = true;
      }
      break;
    case UART_FCR: {
      bool toggles = (value ^ fcr_) & UART_FCR_ENABLE_FIFO;
      if (toggles || (value & UART_FCR_CLEAR_RCVR)) {
        fifo_start_ = fifo_used_ = 0;
        lsr_ &= ~UART_LSR_DR;
      }
      fcr_ = value & (UART_FCR_ENABLE_FIFO | UART_FCR_DMA_SELECT | UART_FCR_TRIGGER_MASK);
      if (!(fcr_ & UART_FCR_ENABLE_FIFO)) fcr_ = 0;
      break;
    }
    case UART_LCR:
      lcr_ = value;
      break;
    case UART_MCR: {
      uint8_t before = modem_status() & 0xf0;
      mcr_ = value & 0x1f;
      uint8_t changed = before ^ (modem_status() & 0xf0);
      // Delta bits 0 to 3 follow CTS, DSR, RI (its trailing edge alone), DCD.
      msr_delta_ |= (changed & ~UART_MSR_RI) >> 4;
      if ((changed & UART_MSR_RI) && (before & UART_MSR_RI)) msr_delta_ |= UART_MSR_TERI;
      break;
    }
    case UART_SCR:
      scratch_ = value;
      break;
    default:
      break;  // LSR and MSR are read-only here
  }
}

void Uart::read(Access access, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  size_t before = room();
  burst_ = 0;
  for (size_t i = 0; i < data.size() && access.offset + i < kPorts; i++) data[i] = std::byte{read_register(access.offset + i)};
  update_irq();
  notice_room(before);
}

void Uart::write(Access access, std::span<const std::byte> data) {
  std::lock_guard lock(mutex_);
  size_t before = room();
  polls_ = 0;
  if (access.offset != UART_TX) burst_ = 0;
  for (size_t i = 0; i < data.size() && access.offset + i < kPorts; i++)
    write_register(access.offset + i, std::to_integer<uint8_t>(data[i]));
  update_irq();
  notice_room(before);
}

size_t Uart::room() const {
  bool listens = !(mcr_ & UART_MCR_LOOP) && ((mcr_ & UART_MCR_RTS) || (ier_ & UART_IER_RDI) || polls_ == kPolls);
  return !listens || fifo_used_ >= fifo_size() ? 0 : fifo_size() - fifo_used_;
}

void Uart::notice_room(size_t before) {
  // Wake the host end when the FIFO has run empty, or begins to be listened to; not for every byte taken out of it.
  size_t now = room();
  if (pins_.host && now > before && (before == 0 || now == fifo_size())) pins_.host->room_made();
}

size_t Uart::receive_room() const {
  std::lock_guard lock(mutex_);
  return room();
}

size_t Uart::receive(std::span<const std::byte> bytes) {
  std::lock_guard lock(mutex_);
  size_t taken = 0, limit = std::min(bytes.size(), room());
  while (taken < limit) push(std::to_integer<uint8_t>(bytes[taken++]));
  update_irq();
  return taken;
}

void Uart::receive_break() {
  std::lock_guard lock(mutex_);
  if (fifo_used_ < fifo_size()) push(0);
  lsr_ |= UART_LSR_BI;
  update_irq();
}

void Uart::fields(Archive& archive) {
  std::lock_guard lock(mutex_);
  archive.field(1, "ier", ier_);
  archive.field(2, "fcr", fcr_);
  archive.field(3, "lcr", lcr_);
  archive.field(4, "mcr", mcr_);
  archive.field(5, "lsr", lsr_);
  archive.field(6, "scratch", scratch_);
  archive.field(7, "msr_delta", msr_delta_);
  archive.field(8, "divisor", divisor_);
  archive.field(9, "fifo", fifo_);
  archive.field(10, "fifo_start", fifo_start_);
  archive.field(11, "fifo_used", fifo_used_);
  archive.field(12, "last_received", last_received_);
  archive.field(13, "held", held_);
  archive.field(14, "holding", holding_);
  archive.field(15, "thre_pending", thre_pending_);
  archive.field(16, "polls", polls_);
  archive.field(17, "burst", burst_);
  polls_ = std::min(polls_, kPolls);
  fifo_start_ %= kFifo;
  if (fifo_used_ > kFifo) fifo_used_ = kFifo;
  if (holding_ > kFifo) holding_ = kFifo;
  update_irq();
}

}  // namespace vireo
