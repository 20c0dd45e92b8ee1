// SPDX-License-Identifier: Apache-2.0
// The engine's side of interrupts, in-kernel devices, ports and time. FAST.
#include "softkvm/translate/events.h"

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/system.h"
#include "softkvm/irqchip/coalesced.h"
#include "softkvm/irqchip/ioeventfd.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/irqchip/lapic.h"
#include "softkvm/irqchip/raw_syscall.h"
#include "softkvm/mmu/access.h"
#include "softkvm/mmu/dirty_ring.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/translate/breakpoints.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm {
namespace {

Vcpu& whole(VcpuState& vcpu) { return static_cast<Vcpu&>(vcpu); }

// A write that nobody has to be asked for.
bool taken(Vcpu& vcpu, bool pio, uint64_t address, unsigned size, uint64_t value) {
  expect_answer(vcpu);
  const bool rung = vcpu.vm->ioeventfds && vcpu.vm->ioeventfds->try_signal(pio, address, size, value);
  engine_of(vcpu).counters.doorbells += rung;
  return rung || (vcpu.vm->coalesced && vcpu.vm->coalesced->try_push(pio, address, size, value));
}

}  // namespace

bool interrupt_pending(Vcpu& vcpu) {
  if (vcpu.user_interrupt >= 0) return true;
  return vcpu.lapic && vcpu.lapic->has_interrupt();
}

int acknowledge_interrupt(Vcpu& vcpu) {
  if (vcpu.user_interrupt >= 0) {
    int vector = vcpu.user_interrupt;
    vcpu.user_interrupt = -1;
    return vector;
  }
  return vcpu.lapic ? vcpu.lapic->acknowledge() : -1;
}

bool window_exit(Vcpu& vcpu) {
  if (!vcpu.run->request_interrupt_window || (vcpu.vm->irqchip && !vcpu.vm->irqchip->split())) return false;
  if (!(vcpu.system_flags & kIF) || vcpu.user_interrupt >= 0) return false;
  if (vcpu.lapic && !(vcpu.lapic->takes_extint() && vcpu.lapic->external_vector_free())) return false;
  if (vcpu.interrupt_shadow_sti || vcpu.interrupt_shadow_mov_ss) {
    vcpu.attention = 1;  // after the next instruction
    return false;
  }
  vcpu.run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
  return true;
}

bool debug_trap_exit(Vcpu& vcpu, const PendingException& event) {
  uint32_t control = vcpu.guest_debug.control;
  if (!(control & KVM_GUESTDBG_ENABLE)) return false;
  bool wanted = (event.vector == kBP && control & KVM_GUESTDBG_USE_SW_BP) || (event.vector == kDB && control & KVM_GUESTDBG_USE_HW_BP);
  if (!wanted) return false;
  vcpu.run->exit_reason = KVM_EXIT_DEBUG;
  vcpu.run->debug.arch.exception = event.vector;
  vcpu.run->debug.arch.pc = rip_linear(vcpu);
  vcpu.run->debug.arch.dr6 = 0xffff0ff0 | event.payload;
  vcpu.run->debug.arch.dr7 = control & KVM_GUESTDBG_USE_HW_BP ? vcpu.guest_debug.arch.debugreg[7] : vcpu.dr7;
  return true;
}

bool device_mmio(VcpuState& state, uint64_t gpa, unsigned size, bool write, uint64_t& value) {
  Vcpu& vcpu = whole(state);
  if (vcpu.lapic && vcpu.lapic->covers(gpa) && !vcpu.lapic->x2apic() && vcpu.lapic->present()) {
    uint32_t offset = gpa & 0xfff;
    if (write) vcpu.lapic->mmio_write(offset, size, value);
    else value = vcpu.lapic->mmio_read(offset, size);
    return true;
  }
  if (vcpu.vm->irqchip && vcpu.vm->irqchip->mmio(gpa, size, write, value)) return true;
  if (!write) return false;
  return taken(vcpu, false, gpa, size, value);
}

bool device_pio(VcpuState& state, uint16_t port, unsigned size, bool write, uint32_t& value) {
  Vcpu& vcpu = whole(state);
  if (vcpu.vm->irqchip && vcpu.vm->irqchip->pio(port, size, write, value)) return true;
  if (!write) return false;
  return taken(vcpu, true, port, size, value);
}

Outcome port_in_ahead(VcpuState& vcpu, uint16_t port, unsigned size, uint64_t wanted, uint32_t& value) {
  Engine& engine = engine_of(vcpu);
  if (engine.ahead_left && engine.io_port == port && engine.io_size == size && !engine.io_answered) {
    engine.ahead_left--;
    value = 0;
    copy_bytes(&value, engine.ahead + engine.ahead_next, size);
    engine.ahead_next = static_cast<uint16_t>(engine.ahead_next + size);
    return Outcome::kNext;
  }
  engine.ahead_left = 0;
  const bool answered = engine.io_answered;
  Outcome o = port_io(vcpu, port, size, false, value);
  if (o == Outcome::kExit && engine.io_open) {
    const uint64_t most = sizeof engine.ahead / size;
    engine.io_count = static_cast<uint16_t>(wanted < most ? wanted : most);
  } else if (answered && engine.io_count > 1) {
    engine.ahead_left = static_cast<uint16_t>(engine.io_count - 1);
    engine.ahead_next = static_cast<uint16_t>(size);
  }
  return o;
}

Outcome port_io(VcpuState& vcpu, uint16_t port, unsigned size, bool write, uint32_t& value) {
  Engine& engine = engine_of(vcpu);
  if (engine.watching) note_watched(whole(vcpu), port, size, BreakpointKind::kPort);
  if (engine.io_answered) {
    engine.io_answered = false;
    if (!write) value = engine.io_value;
    return Outcome::kNext;
  }
  if (device_pio(vcpu, port, size, write, value)) return Outcome::kNext;
  engine.io_open = true;
  engine.io_port = port;
  engine.io_size = static_cast<uint8_t>(size);
  engine.io_write = write;
  engine.io_value = value;
  engine.io_count = 1;
  return Outcome::kExit;
}

uint64_t guest_tsc(const VcpuState& vcpu) { return scale_tsc(vcpu, __builtin_ia32_rdtsc()) + vcpu.msr.tsc_offset; }

uint64_t read_cr8(VcpuState& vcpu) { return whole(vcpu).lapic ? whole(vcpu).lapic->cr8() : whole(vcpu).user_cr8; }

void write_cr8(VcpuState& vcpu, uint64_t value) {
  Vcpu& v = whole(vcpu);
  if (v.lapic) v.lapic->set_cr8(value);
  else v.user_cr8 = value;
  vcpu.attention = 1;
}

bool read_apic_msr(VcpuState& vcpu, uint32_t index, uint64_t& value) {
  Vcpu& v = whole(vcpu);
  if (v.lapic) return v.lapic->msr_read(index, value);
  // The APIC's timer is user space's, too: no deadline is ever armed here.
  value = index == apic::kMsrBase ? v.user_apic_base : 0;
  return index == apic::kMsrBase || index == apic::kMsrTscDeadline;
}

bool write_apic_msr(VcpuState& vcpu, uint32_t index, uint64_t value) {
  Vcpu& v = whole(vcpu);
  if (v.lapic) return v.lapic->msr_write(index, value);
  if (index == apic::kMsrTscDeadline) return true;
  if (index != apic::kMsrBase || !Lapic::valid_base(value, v.user_apic_base, false, has(v, kCpuidX2apic), v.physical_bits)) return false;
  v.user_apic_base = value;
  return true;
}

void tsc_moved(VcpuState& vcpu) {
  if (Lapic* lapic = whole(vcpu).lapic) lapic->tsc_changed();
  constexpr uint32_t kSystemTime = 0x4b564d01;
  if (vcpu.msr.system_time & 1) write_paravirtual_msr(vcpu, kSystemTime, vcpu.msr.system_time);
}

void write_paravirtual_msr(VcpuState& vcpu, uint32_t, uint64_t) {
  engine_of(vcpu).requests.fetch_or(kRequestParavirtual);
  vcpu.attention = 1;
}

namespace {

// KVM_HC_SEND_IPI: to the APIC ids whose bits are set in a 128-bit map that starts at `first`; the number of vCPUs reached.
uint64_t send_ipis(Vcpu& vcpu, const uint64_t (&map)[2], uint64_t first, uint64_t icr, bool wide) {
  constexpr int64_t kEinval = -22;
  DeliveryMode mode = static_cast<DeliveryMode>(icr >> 8 & 7);
  if (!vcpu.vm->irqchip || !vcpu.lapic || (mode != DeliveryMode::kFixed && mode != DeliveryMode::kNmi) || icr & ~0x4fffull)
    return static_cast<uint64_t>(kEinval);
  ApicBus& bus = vcpu.vm->irqchip->bus();
  uint64_t reached = 0;
  for (unsigned word = 0; word < 2; word++)
    for (uint64_t bits = map[word]; bits; bits &= bits - 1) {
      uint64_t id = (first & 0xffffffff) + word * (wide ? 64 : 32) + static_cast<unsigned>(__builtin_ctzll(bits));
      Lapic* target = id < ApicBus::kMaxIds ? bus.by_id(static_cast<uint32_t>(id)) : nullptr;
      if (target && target->present()) reached += static_cast<unsigned>(target->accept(mode, static_cast<uint8_t>(icr), true, false));
    }
  return reached;
}

}  // namespace

Outcome hypercall(VcpuState& state, uint64_t number, const uint64_t (&arguments)[4], uint64_t& result) {
  engine_of(state).counters.hypercalls++;
  // KVM_HC_VAPIC_POLL_IRQ asks only to be looked at; the others come with features that are not there.
  constexpr uint64_t kVapicPollIrq = 1, kSendIpi = 10, kSchedYield = 11;
  constexpr int64_t kEnosys = -1000;
  // What leaf 0x40000001 has to show for it, where that is enforced.
  constexpr unsigned kFeatureSendIpi = cpuid_bit(kWordKvmEax, 11), kFeatureSchedYield = cpuid_bit(kWordKvmEax, 13);
  const bool hidden = state.paravirtual_enforced && ((number == kSendIpi && !has(state, kFeatureSendIpi)) ||
                                                     (number == kSchedYield && !has(state, kFeatureSchedYield)));
  switch (hidden ? ~0ull : number) {
    case kVapicPollIrq: result = 0; break;
    case kSendIpi: result = send_ipis(whole(state), {arguments[0], arguments[1]}, arguments[2], arguments[3], state.in_64bit()); break;
    case kSchedYield:  // to the vCPU named, which the host cannot be told; to whoever waits, then
      raw_syscall(SYS_sched_yield);
      result = 0;
      break;
    default: result = static_cast<uint64_t>(kEnosys);
  }
  return Outcome::kNext;
}

Outcome update_linear_byte(VcpuState& vcpu, uint64_t linear, uint8_t set, uint8_t clear) {
  uint8_t byte;
  Outcome o = probe_write(vcpu, linear, 1, true);
  if (o == Outcome::kNext) o = read_linear(vcpu, linear, &byte, 1, true);
  if (o != Outcome::kNext) return o;
  Outcome unused = Outcome::kNext;
  if (uint8_t* at = system_host_address(vcpu, linear, unused)) {
    if (set) __atomic_fetch_or(at, set, __ATOMIC_SEQ_CST);
    if (clear) __atomic_fetch_and(at, static_cast<uint8_t>(~clear), __ATOMIC_SEQ_CST);
    return Outcome::kNext;
  }
  byte = static_cast<uint8_t>((byte | set) & ~clear);
  return write_linear(vcpu, linear, &byte, 1, true);
}

namespace {
uint64_t seen_by(const VcpuState& vcpu, uint64_t physical) { return vcpu.in_smm ? physical | kSmmSpace : physical; }
}  // namespace

bool read_physical(VcpuState& vcpu, uint64_t physical, void* out, unsigned size) { return vcpu.vm->read_physical(seen_by(vcpu, physical), out, size); }
bool write_physical(VcpuState& vcpu, uint64_t physical, const void* in, unsigned size) {
  return vcpu.vm->write_physical(seen_by(vcpu, physical), in, size);
}

void Vm::dirtied(const Slot& slot, uint64_t gpa) {
  if (slot.mark_dirty(gpa) && !vcpus.empty() && vcpus.front()->dirty_ring) vcpus.front()->dirty_ring->push(slot.id, (gpa - slot.gpa) >> 12);
}

bool Vm::read_physical(uint64_t gpa, void* out, size_t size) {
  const Slot* slot = slots->find(gpa);
  if (!slot || slot->gpa + slot->size - gpa < size) return false;
  copy_bytes(out, slot->host + (gpa - slot->gpa), size);
  return true;
}

bool Vm::write_physical(uint64_t gpa, const void* in, size_t size) {
  const Slot* slot = slots->find(gpa);
  if (!slot || slot->gpa + slot->size - gpa < size || !slot->writable()) return false;
  copy_bytes(slot->host + (gpa - slot->gpa), in, size);
  dirtied(*slot, gpa);
  dirtied(*slot, gpa + size - 1);
  return true;
}

}  // namespace vireo::softkvm
