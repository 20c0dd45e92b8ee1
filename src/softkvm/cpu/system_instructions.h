// SPDX-License-Identifier: Apache-2.0
// The instructions run by name, one function each or one a family, as execute_system() calls them. All are FAST.
#pragma once

#include "softkvm/cpu/system.h"

namespace vireo::softkvm {

// far_transfer.cpp, iret.cpp
Outcome jump_far(VcpuState& vcpu, const Insn& insn, uint16_t selector, uint64_t offset);
Outcome call_far(VcpuState& vcpu, const Insn& insn, uint16_t selector, uint64_t offset);
Outcome return_far(VcpuState& vcpu, const Insn& insn, unsigned release);
Outcome iret(VcpuState& vcpu, const Insn& insn);

// syscall.cpp
Outcome syscall(VcpuState& vcpu, const Insn& insn);
Outcome sysret(VcpuState& vcpu, const Insn& insn);
Outcome sysenter(VcpuState& vcpu, const Insn& insn);
Outcome sysexit(VcpuState& vcpu, const Insn& insn);

// control_registers.cpp
Outcome move_from_control(VcpuState& vcpu, const Insn& insn);
Outcome move_to_control(VcpuState& vcpu, const Insn& insn);
Outcome clts(VcpuState& vcpu, const Insn& insn);
Outcome smsw(VcpuState& vcpu, const Insn& insn);
Outcome lmsw(VcpuState& vcpu, const Insn& insn);
Outcome xgetbv(VcpuState& vcpu);
Outcome xsetbv(VcpuState& vcpu, const Insn& insn);
Outcome rdpkru(VcpuState& vcpu);
Outcome wrpkru(VcpuState& vcpu, const Insn& insn);
Outcome invlpg(VcpuState& vcpu, const Insn& insn);
Outcome invpcid(VcpuState& vcpu, const Insn& insn);
// Writes CR0 with MOV's checks, for MOV, CLTS, LMSW. kNext or kFault.
Outcome write_cr0(VcpuState& vcpu, uint64_t value);
Outcome write_cr3(VcpuState& vcpu, uint64_t value);

// debug_registers.cpp
Outcome move_from_debug(VcpuState& vcpu, const Insn& insn);
Outcome move_to_debug(VcpuState& vcpu, const Insn& insn);

// descriptor_tables.cpp
Outcome lgdt_lidt(VcpuState& vcpu, const Insn& insn, bool interrupt_table);
Outcome sgdt_sidt(VcpuState& vcpu, const Insn& insn, bool interrupt_table);
Outcome lldt(VcpuState& vcpu, const Insn& insn);
Outcome ltr(VcpuState& vcpu, const Insn& insn);
Outcome sldt_str(VcpuState& vcpu, const Insn& insn, uint16_t selector);
Outcome lar_lsl(VcpuState& vcpu, const Insn& insn, bool limit);
Outcome verr_verw(VcpuState& vcpu, const Insn& insn, bool write);
Outcome arpl(VcpuState& vcpu, const Insn& insn);

// segment_moves.cpp
Outcome move_from_segment(VcpuState& vcpu, const Insn& insn);
Outcome move_to_segment(VcpuState& vcpu, const Insn& insn);
Outcome push_segment(VcpuState& vcpu, const Insn& insn, SegmentRegister which);
Outcome pop_segment(VcpuState& vcpu, const Insn& insn, SegmentRegister which);
Outcome load_far_pointer(VcpuState& vcpu, const Insn& insn, SegmentRegister which);
Outcome fs_gs_base(VcpuState& vcpu, const Insn& insn);
Outcome swapgs(VcpuState& vcpu);

// flags.cpp
Outcome cli(VcpuState& vcpu, const Insn& insn);
Outcome sti(VcpuState& vcpu, const Insn& insn);
Outcome stac_clac(VcpuState& vcpu, const Insn& insn, bool set);
Outcome pushf_instruction(VcpuState& vcpu, const Insn& insn);
Outcome popf_instruction(VcpuState& vcpu, const Insn& insn);

// decimal_adjust.cpp
Outcome daa(VcpuState& vcpu);
Outcome das(VcpuState& vcpu);
Outcome aaa(VcpuState& vcpu);
Outcome aas(VcpuState& vcpu);
Outcome aam(VcpuState& vcpu, uint8_t base);
Outcome aad(VcpuState& vcpu, uint8_t base);

// port_instructions.cpp
Outcome in_port(VcpuState& vcpu, uint16_t port, unsigned size);
Outcome out_port(VcpuState& vcpu, uint16_t port, unsigned size);

// msr_instructions.cpp
Outcome rdmsr(VcpuState& vcpu, const Insn& insn);
Outcome wrmsr(VcpuState& vcpu, const Insn& insn);

// processor.cpp: identification, time, random numbers, waiting, calls to the hypervisor
Outcome cpuid_instruction(VcpuState& vcpu);
Outcome rdtsc(VcpuState& vcpu);
Outcome rdtscp(VcpuState& vcpu);
Outcome rdpid(VcpuState& vcpu, const Insn& insn);
Outcome rdpru(VcpuState& vcpu);
Outcome random_number(VcpuState& vcpu, const Insn& insn, bool seed);
Outcome hlt(VcpuState& vcpu, const Insn& insn);
Outcome monitor_mwait(VcpuState& vcpu, bool mwait, unsigned feature);
Outcome vmcall(VcpuState& vcpu, bool amd);
Outcome bound(VcpuState& vcpu, const Insn& insn);

// smm.cpp
Outcome rsm(VcpuState& vcpu);

}  // namespace vireo::softkvm
