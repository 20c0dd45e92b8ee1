// SPDX-License-Identifier: Apache-2.0
// KVM_RUN: what user space has put into kvm_run goes in, the engine runs the guest, what kvm_run says about the vCPU comes out.
#include <cerrno>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/signals.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm::abi {

const Capability kRunCapabilities[] = {
    {KVM_CAP_HLT},
    {KVM_CAP_IMMEDIATE_EXIT},
    {KVM_CAP_INTERNAL_ERROR_DATA},
    {KVM_CAP_NOP_IO_DELAY},
};
CAPABILITIES(run_capabilities, kRunCapabilities)

namespace {

// KVM_CAP_SYNC_REGS: each struct is copied before it is looked at, since user space may be writing it.
int take_synced(VcpuFile& file) {
  kvm_run& run = file.run();
  const uint64_t dirty = run.kvm_dirty_regs;
  if ((run.kvm_valid_regs & ~static_cast<uint64_t>(KVM_SYNC_X86_VALID_FIELDS)) ||
      (dirty & ~static_cast<uint64_t>(KVM_SYNC_X86_VALID_FIELDS))) {
    return -EINVAL;
  }
  if (dirty & KVM_SYNC_X86_REGS) {
    kvm_regs regs = run.s.regs.regs;
    load_regs(*file.vcpu, regs);
    run.kvm_dirty_regs &= ~KVM_SYNC_X86_REGS;
  }
  if (dirty & KVM_SYNC_X86_SREGS) {
    kvm_sregs sregs = run.s.regs.sregs;
    if (load_sregs(file, sregs) != 0) return -EINVAL;
    run.kvm_dirty_regs &= ~KVM_SYNC_X86_SREGS;
  }
  if (dirty & KVM_SYNC_X86_EVENTS) {
    kvm_vcpu_events events = run.s.regs.events;
    if (load_events(file, events) != 0) return -EINVAL;
    run.kvm_dirty_regs &= ~KVM_SYNC_X86_EVENTS;
  }
  return 0;
}

void give_synced(VcpuFile& file) {
  kvm_run& run = file.run();
  const uint64_t wanted = run.kvm_valid_regs;
  if (wanted & KVM_SYNC_X86_REGS) {
    kvm_regs regs;
    save_regs(*file.vcpu, regs);
    run.s.regs.regs = regs;
  }
  if (wanted & KVM_SYNC_X86_SREGS) {
    kvm_sregs sregs;
    save_sregs(file, sregs);
    run.s.regs.sregs = sregs;
  }
  if (wanted & KVM_SYNC_X86_EVENTS) {
    kvm_vcpu_events events;
    save_events(file, events);
    run.s.regs.events = events;
  }
}

// Split irqchip: a level-triggered vector that user space's IOAPIC has to hear of.
int take_ioapic_eoi(VcpuFile& file) {
  for (unsigned word = 0; word < 4; word++) {
    uint64_t bits = file.signal.ioapic_eoi[word].load();
    if (bits == 0) continue;
    unsigned bit = static_cast<unsigned>(__builtin_ctzll(bits));
    file.signal.ioapic_eoi[word].fetch_and(~(1ull << bit));
    return static_cast<int>(word * 64 + bit);
  }
  return -1;
}

int enter(VcpuFile& file) {
  Vcpu& v = *file.vcpu;
  kvm_run& run = file.run();
  if (v.triple_fault_pending && !run.immediate_exit) {
    v.triple_fault_pending = false;
    run.exit_reason = KVM_EXIT_SHUTDOWN;
    return 0;
  }
  settle_injected_exception(v, true);
  const bool at_once = run.immediate_exit;  // kvm_run then keeps what the last exit said
  int result;
  {
    RunSignals signals(v, file.run_mask);
    if (file.signal.has_ioapic_eoi()) v.request_exit();
    if (v.lapic) v.lapic->enter();
    result = v.run_guest();
    if (v.lapic) v.lapic->leave();
  }
  settle_injected_exception(v, false);
  if (result == -EINTR && !at_once) {
    run.exit_reason = KVM_EXIT_INTR;
    if (!run.immediate_exit) {
      if (int vector = take_ioapic_eoi(file); vector >= 0) {
        run.exit_reason = KVM_EXIT_IOAPIC_EOI;
        run.eoi.vector = static_cast<uint8_t>(vector);
        return 0;
      }
    }
  }
  return result;
}

void count(VcpuCounters& counters, int result, uint32_t reason) {
  counters.exits++;
  if (result == -EINTR) {
    counters.signal_exits++;
    return;
  }
  switch (result == 0 ? reason : KVM_EXIT_UNKNOWN) {
    case KVM_EXIT_IO: counters.io_exits++; break;
    case KVM_EXIT_MMIO: counters.mmio_exits++; break;
    case KVM_EXIT_HLT: break;  // counted with those that do not leave
    case KVM_EXIT_IRQ_WINDOW_OPEN: counters.irq_window_exits++; break;
    default: counters.other_exits++;
  }
}

}  // namespace

int run(VcpuFile& file, uintptr_t argument) {
  if (argument != 0) return -EINVAL;
  kvm_run& run = file.run();
  Vcpu& v = *file.vcpu;
  unblock_fault_signals();
  if (int error = take_synced(file)) return error;
  if (!file.has_lapic()) {
    uint64_t cr8 = run.cr8;
    if (cr8 > 15) return -EINVAL;
    v.user_cr8 = cr8;
  }
  file.has_run = true;
  VcpuCounters& counters = v.engine->counters;
  counters.running = 1;
  int result = enter(file);
  counters.running = 0;
  count(counters, result, run.exit_reason);
  run.if_flag = (v.system_flags & kIF) != 0;
  run.flags = v.in_smm ? KVM_RUN_X86_SMM : 0;
  run.cr8 = task_priority(file);
  run.apic_base = apic_base(file);
  run.ready_for_interrupt_injection = ready_for_interrupt(file);
  if (run.kvm_valid_regs != 0) give_synced(file);
  return result;
}

}  // namespace vireo::softkvm::abi
