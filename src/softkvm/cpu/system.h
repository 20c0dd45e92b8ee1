// SPDX-License-Identifier: Apache-2.0
// What instructions run by name need and give: the functions below are FAST (general registers only, no libc). On kFault and
// kExit nothing of the guest's registers has changed, so the instruction can be run again from its start.
#pragma once

#include "softkvm/cpu/insn.h"
#include "softkvm/cpu/vcpu_state.h"

namespace vireo::softkvm {

// --- given by cpu/

// Runs one instruction of Form::kSystem (and far transfers). `insn` is at vcpu.rip; vcpu.rip is left alone on kNext.
Outcome execute_system(VcpuState& vcpu, const Insn& insn);

// Delivers vcpu.fault or another event through IVT, IDT (16, 32, 64 bit gates, task gates), with privilege change, IST, error codes;
// contributory faults become #DF, then shutdown (returns kExit with KVM_EXIT_SHUTDOWN filled in).
Outcome deliver(VcpuState& vcpu, const PendingException& event, unsigned insn_length);
Outcome deliver_interrupt(VcpuState& vcpu, uint8_t vector);  // external, maskable
Outcome deliver_nmi(VcpuState& vcpu);

// Loads a segment register in the current mode, with all checks (mov/pop sreg; not CS).
Outcome load_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector);
Outcome popf(VcpuState& vcpu, uint64_t value, unsigned size);  // size 2, 4, 8: privilege rules of POPF, VM86 with VME
Outcome pushf_image(VcpuState& vcpu, unsigned size, uint64_t& value);

bool read_msr(VcpuState& vcpu, uint32_t index, uint64_t& value, bool host);    // false: #GP (guest) or refused (host: KVM_GET_MSRS)
bool write_msr(VcpuState& vcpu, uint32_t index, uint64_t value, bool host);
bool io_permitted(VcpuState& vcpu, uint16_t port, unsigned size, Outcome& outcome);  // IOPL and the TSS bitmap; false: outcome is a fault

void reset_cpu(VcpuState& vcpu);  // power-on / INIT values (Intel SDM vol 3, table 10-1)
void init_cpu(VcpuState& vcpu);   // INIT: what survives it stays

// System management mode. enter_smm: an SMI at an instruction boundary (in_smm was clear); RSM is run by execute_system. kJump, or kExit with
// KVM_EXIT_SHUTDOWN where the save area cannot be written or holds what no CPU can be in.
Outcome enter_smm(VcpuState& vcpu);

// A write of PKRU, or of IA32_TSC and friends, is an instruction like the others; these are for the ABI, with no checks of privilege.
// Values the CPU could not hold are refused (false), as KVM_SET_SREGS, KVM_SET_XCRS and KVM_SET_DEBUGREGS do.
bool valid_cr0(const VcpuState& vcpu, uint64_t value);
bool valid_cr4(const VcpuState& vcpu, uint64_t value);
bool valid_efer(const VcpuState& vcpu, uint64_t value);
bool valid_xcr0(const VcpuState& vcpu, uint64_t value);

// --- given by the engine (mmu/, translate/)

enum class AccessType : uint8_t { kRead, kWrite, kReadWrite };

// Linear memory as the guest sees it, any size to 4096, page crossing included. `system`: as supervisor whatever the CPL (descriptor
// tables, TSS). kNext, kFault (#PF, or #GP/#SS for non-canonical by `stack`), kExit (device memory: run again later).
// A write to device memory is queued and leaves when the instruction has ended.
Outcome read_linear(VcpuState& vcpu, uint64_t linear, void* out, unsigned size, bool system = false, bool stack = false);
Outcome write_linear(VcpuState& vcpu, uint64_t linear, const void* in, unsigned size, bool system = false, bool stack = false);
// Would a write succeed? For instructions that must check before they change anything.
Outcome probe_write(VcpuState& vcpu, uint64_t linear, unsigned size, bool system = false, bool stack = false);

// Sets and clears bits of one byte as supervisor, by a locked instruction: accessed and busy bits of descriptors.
Outcome update_linear_byte(VcpuState& vcpu, uint64_t linear, uint8_t set, uint8_t clear);

// Guest physical memory, RAM only (PDPTEs, the SMM save area): false where a byte of it is in no slot (or read-only, for writes).
// In SMM, of SMM's address space.
bool read_physical(VcpuState& vcpu, uint64_t physical, void* out, unsigned size);
bool write_physical(VcpuState& vcpu, uint64_t physical, const void* in, unsigned size);

// segment:offset to linear, with limit, rights and canonical checks (#GP/#SS) for `size` bytes.
Outcome linear_address(VcpuState& vcpu, SegmentRegister segment, uint64_t offset, unsigned size, AccessType type, uint64_t& linear);
// The offset of the instruction's modrm memory operand, in its address size.
uint64_t effective_offset(const VcpuState& vcpu, const Insn& insn);
// Both of the above.
Outcome memory_operand(VcpuState& vcpu, const Insn& insn, unsigned size, AccessType type, uint64_t& linear);

// To be called by whoever changes CR0/3/4, EFER, XCR0, PKRU, segments, CPL, flags that the mode depends on.
void update_mode(VcpuState& vcpu);
// Of all address spaces. `as_before`: nothing has changed by which addresses are translated, so that what the page tables say now may stay.
void flush_tlb(VcpuState& vcpu, bool keep_global, bool as_before = false);
// CR3 names another address space: the old one's entries may be kept for when it comes back, under its PCID, but not used. `flush`: what is kept under the new PCID goes.
void switch_address_space(VcpuState& vcpu, bool flush);
void flush_tlb_page(VcpuState& vcpu, uint64_t linear);
// What is kept of a page goes, too, by a page fault there: SDM vol 3, 4.10.4.1.
void flush_faulted_page(VcpuState& vcpu, uint64_t linear);
// PKRU (`user`) or IA32_PKRS gets another value: drops translations where some hold rights of a key that changes.
void change_keys(VcpuState& vcpu, bool user, uint32_t value);
void flush_tlb_pcid(VcpuState& vcpu, unsigned pcid, bool keep_global);

// Port I/O of an already permitted access: in-kernel devices and doorbells answer at once (kNext); else kExit with KVM_EXIT_IO, and the
// repeated call gives user space's answer. `value` in and out.
Outcome port_io(VcpuState& vcpu, uint16_t port, unsigned size, bool write, uint32_t& value);

// Exits to user space that are not memory or ports (KVM_EXIT_X86_RDMSR ... use kvm_run directly).
uint64_t guest_tsc(const VcpuState& vcpu);
// A reading of the host's TSC at the guest's rate.
inline uint64_t scale_tsc(const VcpuState& vcpu, uint64_t host) {
  return vcpu.tsc_ratio == 0 ? host : static_cast<uint64_t>(static_cast<unsigned __int128>(host) * vcpu.tsc_ratio >> 32);
}
// KVM_SET_MSRS of IA32_TSC: sets tsc_offset so that the guest's TSC is `value` now; writes of several vCPUs within a second that agree get one
// offset, so that their counters stay equal (as the kernel's module does).
void synchronize_tsc(VcpuState& vcpu, uint64_t value);
// KVM_X86_SET_MSR_FILTER: may the guest's own RDMSR/WRMSR reach this MSR?
bool msr_filter_allows(VcpuState& vcpu, uint32_t index, bool write);
// A hypercall of the KVM paravirtual interface, made at CPL 0: kNext with the value for RAX, kExit with KVM_EXIT_HYPERCALL filled in (run
// again with open_exit = kHypercall), kHalt never. Unknown ones answer -KVM_ENOSYS.
Outcome hypercall(VcpuState& vcpu, uint64_t number, const uint64_t (&arguments)[4], uint64_t& result);

// The interrupt controller as the CPU sees it (irqchip/): TPR by CR8, APIC base and x2APIC MSRs; false: #GP.
uint64_t read_cr8(VcpuState& vcpu);
void write_cr8(VcpuState& vcpu, uint64_t value);
bool read_apic_msr(VcpuState& vcpu, uint32_t index, uint64_t& value);
bool write_apic_msr(VcpuState& vcpu, uint32_t index, uint64_t value);
// The guest's TSC has jumped: what was computed from it, the APIC timer's deadline and kvmclock's page, is anew.
void tsc_moved(VcpuState& vcpu);
// kvmclock and friends changed: the engine's host half updates guest memory.
void write_paravirtual_msr(VcpuState& vcpu, uint32_t index, uint64_t value);

}  // namespace vireo::softkvm
