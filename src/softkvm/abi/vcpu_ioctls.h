// SPDX-License-Identifier: Apache-2.0
// The ioctls of a vCPU, one function each, by noun: the vCPU's mutex is held, `argument` is the ioctl's. Results are >= 0 or -errno.
// Spec: the kernel's Documentation/virt/kvm/api.rst, section 4.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

#include "softkvm/abi/vcpu_file.h"

namespace vireo::softkvm::abi {

int vcpu_ioctl(VcpuFile& file, unsigned long request, uintptr_t argument);

// run.cpp
int run(VcpuFile& file, uintptr_t argument);

// signals.cpp
int set_signal_mask(VcpuFile& file, uintptr_t argument);

// regs.cpp: struct level, for KVM_CAP_SYNC_REGS too
void load_regs(Vcpu& vcpu, const kvm_regs& regs);
void save_regs(const Vcpu& vcpu, kvm_regs& regs);
int get_regs(VcpuFile& file, uintptr_t argument);
int set_regs(VcpuFile& file, uintptr_t argument);

// sregs.cpp
int load_sregs(VcpuFile& file, const kvm_sregs& sregs);
void save_sregs(VcpuFile& file, kvm_sregs& sregs);
int get_sregs(VcpuFile& file, uintptr_t argument);
int set_sregs(VcpuFile& file, uintptr_t argument);
int get_sregs2(VcpuFile& file, uintptr_t argument);
int set_sregs2(VcpuFile& file, uintptr_t argument);
void settle_cpl(Vcpu& vcpu);  // CPL is not in the ABI: it follows from CR0.PE, RFLAGS.VM and SS.DPL

// fpu.cpp
int get_fpu(VcpuFile& file, uintptr_t argument);
int set_fpu(VcpuFile& file, uintptr_t argument);
int get_xsave(VcpuFile& file, uintptr_t argument);
int set_xsave(VcpuFile& file, uintptr_t argument);
int get_xcrs(VcpuFile& file, uintptr_t argument);
int set_xcrs(VcpuFile& file, uintptr_t argument);
void reset_fpu(Vcpu& vcpu);  // power-on values

// events.cpp
int load_events(VcpuFile& file, const kvm_vcpu_events& events);
void save_events(VcpuFile& file, kvm_vcpu_events& events);
void settle_injected_exception(Vcpu& vcpu, bool before_run);
int get_events(VcpuFile& file, uintptr_t argument);
int set_events(VcpuFile& file, uintptr_t argument);
int interrupt(VcpuFile& file, uintptr_t argument);
int nmi(VcpuFile& file);
int smi(VcpuFile& file);
int get_mp_state(VcpuFile& file, uintptr_t argument);
int set_mp_state(VcpuFile& file, uintptr_t argument);

// debug.cpp
int get_debugregs(VcpuFile& file, uintptr_t argument);
int set_debugregs(VcpuFile& file, uintptr_t argument);
int set_guest_debug(VcpuFile& file, uintptr_t argument);
int translate(VcpuFile& file, uintptr_t argument);

// msrs.cpp
int get_msrs(VcpuFile& file, uintptr_t argument);
int set_msrs(VcpuFile& file, uintptr_t argument);
int setup_mce(VcpuFile& file, uintptr_t argument);
int set_mce(VcpuFile& file, uintptr_t argument);

// cpuid.cpp
int set_cpuid(VcpuFile& file, uintptr_t argument);
int set_cpuid2(VcpuFile& file, uintptr_t argument);
int get_cpuid2(VcpuFile& file, uintptr_t argument);

// lapic.cpp
int get_lapic(VcpuFile& file, uintptr_t argument);
int set_lapic(VcpuFile& file, uintptr_t argument);
int tpr_access_reporting(VcpuFile& file, uintptr_t argument);
int set_vapic_addr(VcpuFile& file, uintptr_t argument);

// clock.cpp
int set_tsc_khz(VcpuFile& file, uintptr_t khz);
int get_tsc_khz(VcpuFile& file);
int kvmclock_ctrl(VcpuFile& file);
int has_vcpu_attribute(VcpuFile& file, uintptr_t argument);
int get_vcpu_attribute(VcpuFile& file, uintptr_t argument);
int set_vcpu_attribute(VcpuFile& file, uintptr_t argument);

// stats.cpp
int create_statistics(VcpuFile& file);  // once, before anything counts: 0 or -errno
int get_stats_fd(VcpuFile& file);

}  // namespace vireo::softkvm::abi
