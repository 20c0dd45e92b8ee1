// SPDX-License-Identifier: Apache-2.0
// Priorities, acknowledge, EOI, acceptance and destinations.
#include "softkvm/irqchip/lapic.h"

#include "softkvm/irqchip/ioapic.h"
#include "softkvm/irqchip/pic.h"
#include "softkvm/irqchip/routing.h"

namespace vireo::softkvm {

using namespace apic;

Lapic::Lapic(ApicBus& bus, TimerQueue& timers, VcpuSignal& signal, uint32_t id, bool bsp)
    : HostTimer([](HostTimer& timer, uint64_t now_ns) { static_cast<Lapic&>(timer).expire(now_ns); }),
      bus_(bus), timers_(timers), signal_(signal), id_(id), bsp_(bsp), base_(0) {
  reset(false);
}

// --- vector registers: 8 words, 16 bytes apart

bool Lapic::set_vector(uint32_t bank, uint8_t vector) {
  const uint32_t bit = 1u << (vector & 31);
  return !(__atomic_fetch_or(&vector_word(bank, vector), bit, __ATOMIC_SEQ_CST) & bit);
}

void Lapic::clear_vector(uint32_t bank, uint8_t vector) {
  __atomic_fetch_and(&vector_word(bank, vector), ~(1u << (vector & 31)), __ATOMIC_SEQ_CST);
}

int Lapic::highest(uint32_t bank) const {
  for (int word = 7; word >= 0; --word) {
    const uint32_t bits = __atomic_load_n(&regs_[(bank + word * 16) / 4], __ATOMIC_SEQ_CST);
    if (bits != 0) return word * 32 + 31 - __builtin_clz(bits);
  }
  return -1;
}

uint32_t Lapic::ppr() const {
  const uint32_t tpr = reg(kTpr) & 0xff;
  const int isr = highest(kIsr);
  const uint32_t serviced = isr < 0 ? 0 : isr & 0xf0;
  return (tpr & 0xf0) >= serviced ? tpr : serviced;
}

int Lapic::deliverable() const {
  if (!present()) return -1;
  const int vector = highest(kIrr);
  if (vector < 0 || static_cast<uint32_t>(vector & 0xf0) <= (ppr() & 0xf0)) return -1;
  return vector;
}

bool Lapic::takes_extint() const {
  if (!present()) return true;
  const uint32_t lvt0 = reg(kLvt0);
  return !(lvt0 & kLvtMasked) && (lvt0 >> 8 & 7) == static_cast<uint32_t>(DeliveryMode::kExtInt);
}

bool Lapic::has_interrupt() const {
  if (bus_.pic != nullptr) {
    if (bus_.pic->output() && takes_extint()) return true;
  } else if (external_vector_.load() >= 0 && takes_extint()) {
    return true;
  }
  return deliverable() >= 0;
}

int Lapic::acknowledge() {
  if (bus_.pic != nullptr) {
    if (bus_.pic->output() && takes_extint()) {
      const int vector = bus_.pic->acknowledge();
      if (vector >= 0) return vector;
    }
  } else if (takes_extint()) {
    const int vector = external_vector_.exchange(-1);
    if (vector >= 0) return vector;
  }
  const int vector = deliverable();
  if (vector < 0) return -1;
  clear_vector(kIrr, static_cast<uint8_t>(vector));
  set_vector(kIsr, static_cast<uint8_t>(vector));
  return vector;
}

void Lapic::set_external_vector(int vector) {
  external_vector_.store(vector);
  signal_.kick();
}

void Lapic::recheck() {
  if (has_interrupt()) signal_.kick();
}

void Lapic::set_cr8(uint64_t value) {
  __atomic_store_n(&regs_[kTpr / 4], static_cast<uint32_t>(value & 15) << 4, __ATOMIC_SEQ_CST);
  recheck();
}

void Lapic::eoi() {
  const int isr = highest(kIsr);
  if (isr < 0) return;
  const uint8_t vector = static_cast<uint8_t>(isr);
  clear_vector(kIsr, vector);
  const bool level = test_vector(kTmr, vector);
  if (bus_.ioapic != nullptr) {
    // Directed EOI (SVR bit 12) keeps level interrupts from being broadcast; the acknowledge notice goes out all the same.
    if (level || bus_.ioapic->has_vector(vector)) bus_.ioapic->eoi(vector, level, reg(kSvr) & 0x1000);
  } else if (level && bus_.router != nullptr && !(reg(kSvr) & 0x1000) && bus_.router->is_level_vector(vector)) {
    signal_.request_ioapic_eoi(vector);
  }
  recheck();
}

// --- messages from the bus

int Lapic::accept(DeliveryMode mode, uint8_t vector, bool assert_level, bool level_triggered) {
  switch (mode) {
    case DeliveryMode::kFixed:
    case DeliveryMode::kLowestPriority:
      if ((level_triggered && !assert_level) || !present() || !software_enabled()) return 0;
      if (test_vector(kTmr, vector) != level_triggered) {
        if (level_triggered)
          set_vector(kTmr, vector);
        else
          clear_vector(kTmr, vector);
      }
      // A bit that was already set has been kicked for, or waits for TPR or EOI, which look again.
      if (set_vector(kIrr, vector)) signal_.kick();
      return 1;
    case DeliveryMode::kSmi:
      signal_.request_smi();
      return 1;
    case DeliveryMode::kNmi:
      signal_.request_nmi();
      return 1;
    case DeliveryMode::kInit:
      if (level_triggered && !assert_level) return 0;  // INIT level de-assert: nothing since the Pentium 4
      signal_.request_init();
      return 1;
    case DeliveryMode::kStartup:
      signal_.request_sipi(vector);
      return 1;
    case DeliveryMode::kRemoteRead:
      signal_.kick();  // KVM's paravirtual unhalt comes as this mode; a halted vCPU looks around
      return 1;
    case DeliveryMode::kExtInt:
      return 0;  // has its own wire here
  }
  return 0;
}

int Lapic::deliver_local(uint32_t lvt) {
  const uint32_t value = reg(lvt);
  if (!present() || (value & kLvtMasked)) return 0;
  const int taken =
      accept(static_cast<DeliveryMode>(value >> 8 & 7), static_cast<uint8_t>(value), true, value >> 15 & 1);
  // A performance counter's entry masks itself, Intel SDM vol 3, 11.5.1.
  if (taken && lvt == kLvtPerf) set(lvt, value | kLvtMasked);
  return taken;
}

void Lapic::nmi_watchdog() {
  if ((reg(kLvt0) >> 8 & 7) == static_cast<uint32_t>(DeliveryMode::kNmi)) deliver_local(kLvt0);
}

bool Lapic::matches(const ApicMessage& message, const Lapic* source) const {
  switch (message.shorthand) {
    case Shorthand::kSelf: return this == source;
    case Shorthand::kAll: return true;
    case Shorthand::kOthers: return this != source;
    case Shorthand::kNone: break;
  }
  const bool x2 = x2apic();
  uint32_t destination = message.destination;
  // KVM's quirk: 0xff from the IOAPIC and MSIs reaches every x2APIC too.
  if (x2 && source == nullptr && destination == 0xff && !bus_.broadcast_quirk_disabled.load(std::memory_order_relaxed))
    destination = 0xffffffff;
  if (destination == (x2 ? 0xffffffffu : 0xffu)) return true;

  if (!message.logical) {
    if (x2) return destination == id_;
    // An id that does not fit the xAPIC register can still be addressed in full, so that a hot-plugged CPU can be started.
    if (id_ > 0xff && destination == id_) return true;
    const uint32_t id = reg(kId) >> 24;
    if (destination != id) return false;
    // An id cut to 8 bits is another vCPU's. With ids of 32 bits that one alone is meant, as with the kernel: else INIT and SIPI would start both.
    return id_ <= 0xff || !bus_.ids_are_32bit.load(std::memory_order_relaxed) || bus_.by_id(id) == nullptr;
  }
  const uint32_t ldr = reg(kLdr);
  if (x2) return ldr >> 16 == destination >> 16 && (ldr & destination & 0xffff) != 0;
  const uint32_t logical = ldr >> 24;
  switch (reg(kDfr) >> 28) {
    case 0xf: return (logical & destination) != 0;
    case 0x0: return logical >> 4 == destination >> 4 && (logical & destination & 0xf) != 0;
    default: return false;
  }
}

void Lapic::send_ipi(uint32_t low, uint32_t destination) {
  ApicMessage message;
  message.vector = static_cast<uint8_t>(low);
  message.mode = static_cast<DeliveryMode>(low >> 8 & 7);
  message.logical = low >> 11 & 1;
  message.assert_level = low >> 14 & 1;
  message.level_triggered = low >> 15 & 1;
  message.shorthand = static_cast<Shorthand>(low >> 18 & 3);
  message.destination = destination;
  bus_.deliver(message, this);
}

}  // namespace vireo::softkvm
