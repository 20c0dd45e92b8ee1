// SPDX-License-Identifier: Apache-2.0
// The local APIC's registers by MMIO and MSR, IA32_APIC_BASE, reset, and the state of KVM_GET/SET_LAPIC.
// Spec: Intel SDM vol 3, 11.4 (xAPIC), 11.12 (x2APIC), 11.4.7 (state after reset and INIT).
#include "softkvm/irqchip/lapic.h"

#include <cerrno>

#include "softkvm/irqchip/pic.h"

namespace vireo::softkvm {

using namespace apic;

namespace {

constexpr uint32_t kLvtCommon = kLvtMasked | 0x1000 | 0xff;        // mask, delivery status, vector
constexpr uint32_t kLvtModes = kLvtCommon | 0x700;                 // and delivery mode
constexpr uint32_t kLvtLint = kLvtModes | 0x2000 | 0x4000 | 0x8000;  // and polarity, remote IRR, trigger

constexpr uint64_t kBaseMode = kBaseEnable | kBaseX2apic;

constexpr uint32_t x2apic_ldr(uint32_t id) { return (id >> 4) << 16 | 1u << (id & 15); }

}  // namespace

bool Lapic::readable(uint32_t offset) const {
  switch (offset) {
    case kId: case kVersion: case kTpr: case kPpr: case kLdr: case kSvr: case kEsr: case kIcr: case kLvtTimer:
    case kLvtThermal: case kLvtPerf: case kLvt0: case kLvt1: case kLvtError: case kTmict: case kTmcct: case kTdcr:
      return true;
    case kApr: case kDfr: case kIcr2: return !x2apic();
    case kLvtCmci: return features_.cmci;
    default: return offset >= kIsr && offset < kEsr && offset % 16 == 0;
  }
}

uint32_t Lapic::read_register(uint32_t offset) const {
  switch (offset) {
    case kApr: return 0;
    case kPpr: return ppr();
    case kTmcct: return current_count();
    default: return reg(offset);
  }
}

uint64_t Lapic::mmio_read(uint32_t offset, unsigned size) {
  if (!present() || x2apic()) return ~0ull;
  const uint32_t lane = offset & 15;
  if (lane + size > 4 || !readable(offset & ~15u)) return 0;
  return read_register(offset & ~15u) >> (lane * 8);
}

void Lapic::mmio_write(uint32_t offset, unsigned size, uint64_t value) {
  if (!present() || x2apic()) return;
  if (size != 4 || (offset & 15) != 0) return;  // only aligned 32-bit stores reach a register
  if (offset == kIcr) {
    const uint32_t low = static_cast<uint32_t>(value) & ~0x1000u;  // never busy
    set(kIcr, low);
    send_ipi(low, reg(kIcr2) >> 24);
    return;
  }
  write_register(offset, static_cast<uint32_t>(value));
}

bool Lapic::write_register(uint32_t offset, uint32_t value) {
  const bool x2 = x2apic();
  const uint32_t masked = software_enabled() ? 0 : kLvtMasked;
  switch (offset) {
    case kId:
      if (x2) return false;
      set(kId, value & 0xff000000);
      note_id();
      return true;
    case kTpr:
      __atomic_store_n(&regs_[kTpr / 4], value & 0xff, __ATOMIC_SEQ_CST);
      recheck();
      return true;
    case kEoi: eoi(); return true;
    case kLdr:
      if (x2) return false;
      set(kLdr, value & 0xff000000);
      return true;
    case kDfr:
      if (x2) return false;
      set(kDfr, value | 0x0fffffff);
      return true;
    case kSvr: write_svr(value); return true;
    case kEsr: return !x2 || value == 0;
    case kIcr2:
      if (x2) return false;
      set(kIcr2, value & 0xff000000);
      return true;
    case kLvt0:
      set(kLvt0, (value | masked) & kLvtLint);
      recheck();
      return true;
    case kLvt1: set(kLvt1, (value | masked) & kLvtLint); return true;
    case kLvtThermal:
    case kLvtPerf: set(offset, (value | masked) & kLvtModes); return true;
    case kLvtError: set(offset, (value | masked) & kLvtCommon); return true;
    case kLvtCmci:
      if (!features_.cmci) return false;
      set(offset, (value | masked) & kLvtModes);
      return true;
    case kLvtTimer: write_lvt_timer(value | masked); return true;
    case kTmict: write_initial_count(value); return true;
    case kTdcr: write_divide(value); return true;
    case kSelfIpi:
      if (!x2 || (value & ~0xffu)) return false;
      send_ipi(value | static_cast<uint32_t>(Shorthand::kSelf) << 18 | 0x4000, 0);
      return true;
    default: return false;
  }
}

void Lapic::write_svr(uint32_t value) {
  set(kSvr, value & (features_.directed_eoi ? 0x13ffu : 0x3ffu));
  if (value & 0x100) return;
  // Switched off by software: every local vector is masked and cannot be unmasked before it is on again.
  for (uint32_t lvt : {kLvtThermal, kLvtPerf, kLvt0, kLvt1, kLvtError}) set(lvt, reg(lvt) | kLvtMasked);
  if (features_.cmci) set(kLvtCmci, reg(kLvtCmci) | kLvtMasked);
  write_lvt_timer(reg(kLvtTimer) | kLvtMasked);
}

// --- MSRs

bool Lapic::msr_read(uint32_t index, uint64_t& value) const {
  if (index == kMsrBase) {
    value = base();
    return true;
  }
  if (index == kMsrTscDeadline) {
    value = tsc_deadline();
    return true;
  }
  if (index < kMsrX2apicFirst || index > kMsrX2apicLast || !x2apic() || !present()) return false;
  const uint32_t offset = (index - kMsrX2apicFirst) << 4;
  if (offset >= KVM_APIC_REG_SIZE || !readable(offset)) return false;
  value = read_register(offset);
  if (offset == kIcr) value |= static_cast<uint64_t>(reg(kIcr2)) << 32;
  return true;
}

bool Lapic::msr_write(uint32_t index, uint64_t value) {
  if (index == kMsrBase) return set_base(value, false);
  if (index == kMsrTscDeadline) {
    set_tsc_deadline(value);
    return true;
  }
  if (index < kMsrX2apicFirst || index > kMsrX2apicLast || !x2apic() || !present()) return false;
  const uint32_t offset = (index - kMsrX2apicFirst) << 4;
  if (offset == kIcr) {
    constexpr uint64_t kReserved = 0xfff3'2000;  // bits 31-20, 17-16, 13
    if (value & kReserved) return false;
    const uint32_t low = static_cast<uint32_t>(value) & ~0x1000u;
    set(kIcr, low);
    set(kIcr2, static_cast<uint32_t>(value >> 32));
    send_ipi(low, static_cast<uint32_t>(value >> 32));
    return true;
  }
  if (value >> 32) return false;
  return write_register(offset, static_cast<uint32_t>(value));
}

bool Lapic::valid_base(uint64_t value, uint64_t old, bool host, bool x2apic, unsigned physical_bits) {
  const uint64_t reserved = ~((1ull << physical_bits) - 1) | 0x2ff | (x2apic ? 0 : kBaseX2apic);
  if ((value & reserved) || (value & kBaseMode) == kBaseX2apic) return false;
  if (host) return true;
  // x2APIC can be left only for off, and entered only from xAPIC (Intel SDM vol 3, 11.12.5).
  if ((old & kBaseMode) == kBaseMode && (value & kBaseMode) == kBaseEnable) return false;
  return (old & kBaseMode) != 0 || (value & kBaseMode) != kBaseMode;
}

bool Lapic::set_base(uint64_t value, bool host) {
  const uint64_t old = base();
  if (!valid_base(value, old, host, features_.x2apic, features_.physical_bits)) return false;
  base_.store(value, std::memory_order_relaxed);
  if ((old ^ value) & kBaseMode) set_id_register();
  recheck();  // what waits in IRR, or the PIC's output
  return true;
}

// The ID register as the present mode has it, and LDR, which x2APIC derives from it.
void Lapic::set_id_register() {
  if (x2apic()) {
    set(kId, id_);
    set(kLdr, x2apic_ldr(id_));
  } else if (present()) {
    set(kId, id_ << 24);
  }
  note_id();
}

void Lapic::note_id() {
  const bool foreign = !x2apic() && reg(kId) >> 24 != id_;
  if (foreign == foreign_id_) return;
  foreign_id_ = foreign;
  bus_.foreign_ids.fetch_add(foreign ? 1 : -1u);
}

// --- configuration, reset, state

void Lapic::set_version() {
  // 0x14: the integrated APIC's version as KVM has it; highest LVT entry; bit 24: EOI broadcast can be suppressed.
  set(kVersion, 0x14 | (features_.cmci ? 6 : 5) << 16 | (features_.directed_eoi ? 1 << 24 : 0));
}

void Lapic::set_features(const Features& features) {
  if (features.cmci && !features_.cmci) set(kLvtCmci, kLvtMasked);  // an entry that is new is as after reset
  features_ = features;
  set_version();
  SpinGuard guard(timer_lock_);
  update_timer_mode();
}

void Lapic::reset(bool init) {
  if (!init) base_.store(kDefaultBase | kBaseEnable | (bsp_ ? kBaseBsp : 0));
  {
    SpinGuard guard(timer_lock_);
    stop_timer();
  }
  const uint32_t old_id = reg(kId);
  for (uint32_t offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4) set(offset, 0);
  set(kId, init ? old_id : id_ << 24);
  if (x2apic()) {
    set(kId, id_);
    set(kLdr, x2apic_ldr(id_));
  }
  note_id();
  set_version();
  for (uint32_t lvt : {kLvtTimer, kLvtThermal, kLvtPerf, kLvt0, kLvt1, kLvtError}) set(lvt, kLvtMasked);
  if (features_.cmci) set(kLvtCmci, kLvtMasked);
  // KVM leaves the BSP's LINT0 as ExtINT for firmware that does not set up virtual wire mode (KVM_X86_QUIRK_LINT0_REENABLED).
  if (bsp_) set(kLvt0, static_cast<uint32_t>(DeliveryMode::kExtInt) << 8);
  set(kDfr, 0xffffffff);
  set(kSvr, 0xff);
  external_vector_.store(-1);
  SpinGuard guard(timer_lock_);
  update_timer_mode();
  update_divide();
}

int Lapic::get_state(kvm_lapic_state& state) const {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(state.regs);
  auto put = [bytes](uint32_t offset, uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) bytes[offset + i] = static_cast<uint8_t>(value >> (i * 8));
  };
  for (uint32_t offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4) put(offset, reg(offset));
  put(kPpr, ppr());
  put(kTmcct, current_count());
  if (x2apic()) {
    if (!bus_.ids_are_32bit.load()) put(kId, id_ << 24);
    put(kIcr + 4, reg(kIcr2));  // KVM keeps one 64-bit register there, and the xAPIC's half besides
  }
  return 0;
}

int Lapic::set_state(const kvm_lapic_state& state) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(state.regs);
  auto get = [bytes](uint32_t offset) {
    uint32_t value = 0;
    for (unsigned i = 0; i < 4; ++i) value |= static_cast<uint32_t>(bytes[offset + i]) << (i * 8);
    return value;
  };
  if (x2apic() && bus_.ids_are_32bit.load() && get(kId) != id_) return -EINVAL;
  {
    SpinGuard guard(timer_lock_);
    cancel();
    running_ = false;
  }
  for (uint32_t offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4) set(offset, get(offset));
  set(kIcr + 4, 0);
  if (x2apic()) {
    set(kId, id_);
    set(kLdr, x2apic_ldr(id_));
  }
  note_id();
  set_version();
  {
    SpinGuard guard(timer_lock_);
    const uint32_t remaining = get(kTmcct);
    set(kTmcct, 0);
    const uint32_t initial = reg(kTmict);
    update_timer_mode();
    set(kTmict, initial);
    update_divide();
    period_ns_ = count_ns(initial);
    limit_period();
    // The deadline is not in the registers: one that is armed stays so where the mode stays, as with the kernel.
    if (timer_mode_ == TimerMode::kTscDeadline) {
      arm_deadline();
    } else if (period_ns_ != 0) {
      uint64_t first = count_ns(remaining);
      if (first == 0 && timer_mode_ == TimerMode::kPeriodic) first = period_ns_;
      if (first > period_ns_) first = period_ns_;
      start_timer(first);
    }
  }
  signal_.kick();
  return 0;
}

}  // namespace vireo::softkvm
