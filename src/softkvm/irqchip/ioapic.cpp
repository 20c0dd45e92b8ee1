// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/ioapic.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kLogical = 1 << 11, kDeliveryStatus = 1 << 12, kRemoteIrr = 1 << 14, kLevel = 1 << 15, kMasked = 1 << 16;
constexpr uint32_t kVersion = 0x11 | (Ioapic::kPins - 1) << 16;
constexpr unsigned kRtcPin = 8;

}  // namespace

void Ioapic::reset() {
  SpinGuard guard(lock_);
  for (uint64_t& entry : redirection_) entry = kMasked;
  base_.store(kDefaultBase);
  select_ = id_ = 0;
  irr_ = irr_delivered_ = 0;
  rtc_pending_ = false;
  note_vectors();
}

void Ioapic::note_vectors() {
  uint64_t bits[4] = {0, 0, 0, 0};
  for (uint64_t entry : redirection_) {
    const uint8_t vector = static_cast<uint8_t>(entry);
    bits[vector >> 6] |= 1ull << (vector & 63);
  }
  bits[0] &= ~0xffffull;  // vectors below 16 are never delivered
  for (unsigned i = 0; i < 4; ++i) vectors_[i].store(bits[i], std::memory_order_relaxed);
}

// --- registers

uint32_t Ioapic::read_indirect() const {
  switch (select_) {
    case 0:
    case 2: return (id_ & 0xf) << 24;  // the arbitration id is the id
    case 1: return kVersion;
  }
  const unsigned pin = (select_ - 0x10) / 2;
  if (select_ < 0x10 || pin >= kPins) return ~0u;
  return static_cast<uint32_t>(select_ & 1 ? redirection_[pin] >> 32 : redirection_[pin]);
}

uint64_t Ioapic::mmio_read(uint32_t offset, unsigned size) {
  SpinGuard guard(lock_);
  switch (offset) {
    case 0x00: return select_;
    case 0x10: return read_indirect();
    default: return 0;
  }
}

void Ioapic::mmio_write(uint32_t offset, unsigned size, uint64_t value) {
  if (size < 4) value &= (1ull << (size * 8)) - 1;
  switch (offset) {
    case 0x00: {
      SpinGuard guard(lock_);
      select_ = static_cast<uint8_t>(value);
      break;
    }
    case 0x10: write_indirect(static_cast<uint32_t>(value)); break;
    default: break;
  }
}

void Ioapic::write_indirect(uint32_t value) {
  unsigned selected;
  {
    SpinGuard guard(lock_);
    selected = select_;
    if (selected == 0) id_ = value >> 24 & 0xf;
  }
  if (selected >= 0x10 && (selected - 0x10) / 2 < kPins) write_redirection((selected - 0x10) / 2, selected & 1, value);
}

void Ioapic::write_redirection(unsigned pin, bool high, uint32_t value) {
  bool mask_changed, masked, pending;
  {
    SpinGuard guard(lock_);
    uint64_t& entry = redirection_[pin];
    const uint64_t old = entry;
    if (high) {
      entry = (entry & 0xffffffff) | static_cast<uint64_t>(value) << 32;
    } else {
      constexpr uint64_t kReadOnly = kRemoteIrr | kDeliveryStatus;
      entry = (entry & ~0xffffffffull) | (value & ~kReadOnly) | (old & kReadOnly);
    }
    // Switching a pin to edge clears its remote IRR: the way to end an interrupt by hand where there is no EOI register.
    if (!(entry & kLevel)) entry &= ~kRemoteIrr;
    note_vectors();
    masked = entry & kMasked;
    mask_changed = ((old ^ entry) & kMasked) != 0;
    pending = (entry & kLevel) && (irr_ >> pin & 1) && !masked && !(entry & kRemoteIrr);
  }
  if (mask_changed) router_.mask_changed(KVM_IRQCHIP_IOAPIC, pin, masked);
  if (!pending) return;
  // The line may have gone down while the pin was masked without anybody telling us: a resampled irqfd can be asked.
  if (router_.resample(KVM_IRQCHIP_IOAPIC, pin)) return;
  SpinGuard guard(lock_);
  if (irr_ >> pin & 1) service(pin, false);
}

// --- lines

int Ioapic::set_irq(unsigned pin, IrqSource source, bool level, bool line_status) {
  if (pin >= kPins) return -1;
  SpinGuard guard(lock_);
  const uint8_t bit = static_cast<uint8_t>(1u << static_cast<unsigned>(source));
  if (level)
    sources_[pin] |= bit;
  else
    sources_[pin] &= ~bit;
  return raise(pin, sources_[pin] != 0, line_status);
}

int Ioapic::raise(unsigned pin, bool level, bool line_status) {
  const uint32_t bit = 1u << pin;
  if (!level) {
    irr_ &= ~bit;
    return 1;
  }
  // Lost RTC ticks make old guests' clocks drift, so the caller is told when the last one has not been ended yet.
  if (pin == kRtcPin && line_status && rtc_pending_) return 0;
  const bool was_pending = irr_ & bit;
  irr_ |= bit;
  if (!(redirection_[pin] & kLevel)) {
    irr_delivered_ &= ~bit;
    if (was_pending) return 0;
  }
  return service(pin, line_status);
}

int Ioapic::service(unsigned pin, bool line_status) {
  uint64_t& entry = redirection_[pin];
  const bool level = entry & kLevel;
  if ((entry & kMasked) || (level && (entry & kRemoteIrr))) return -1;
  ApicMessage message;
  message.vector = static_cast<uint8_t>(entry);
  message.mode = static_cast<DeliveryMode>(entry >> 8 & 7);
  message.logical = entry & kLogical;
  message.level_triggered = level;
  message.destination = static_cast<uint32_t>(entry >> 56);
  if (!level) irr_delivered_ |= 1u << pin;
  const int result = bus_.deliver(message, nullptr);
  if (pin == kRtcPin && line_status && result > 0) rtc_pending_ = true;
  if (level && result != 0) entry |= kRemoteIrr;
  return result;
}

void Ioapic::eoi(uint8_t vector, bool level, bool directed) {
  uint32_t matching = 0;
  {
    SpinGuard guard(lock_);
    for (unsigned pin = 0; pin < kPins; ++pin)
      if (static_cast<uint8_t>(redirection_[pin]) == vector) matching |= 1u << pin;
    if (matching >> kRtcPin & 1) rtc_pending_ = false;
  }
  for (unsigned pin = 0; pin < kPins; ++pin) {
    if (!(matching >> pin & 1)) continue;
    // First those who listen: a resampled line goes down here, so that it is not taken as still asserted below.
    router_.acked(KVM_IRQCHIP_IOAPIC, pin);
    if (!level || directed) continue;
    SpinGuard guard(lock_);
    uint64_t& entry = redirection_[pin];
    if (static_cast<uint8_t>(entry) != vector || !(entry & kLevel)) continue;
    entry &= ~kRemoteIrr;
    if (!(entry & kMasked) && (irr_ >> pin & 1)) service(pin, false);
  }
}

// --- KVM_GET_IRQCHIP, KVM_SET_IRQCHIP

void Ioapic::get_state(kvm_ioapic_state& state) {
  SpinGuard guard(lock_);
  state.base_address = base_.load();
  state.ioregsel = select_;
  state.id = id_;
  state.irr = irr_ & ~irr_delivered_;
  state.pad = 0;
  for (unsigned pin = 0; pin < kPins; ++pin) state.redirtbl[pin].bits = redirection_[pin];
}

void Ioapic::set_state(const kvm_ioapic_state& state) {
  SpinGuard guard(lock_);
  base_.store(state.base_address);
  select_ = state.ioregsel;
  id_ = state.id;
  for (unsigned pin = 0; pin < kPins; ++pin) redirection_[pin] = state.redirtbl[pin].bits;
  irr_ = irr_delivered_ = 0;
  rtc_pending_ = false;
  note_vectors();
  for (unsigned pin = 0; pin < kPins; ++pin)
    if (state.irr >> pin & 1) raise(pin, true, true);
}

}  // namespace vireo::softkvm
