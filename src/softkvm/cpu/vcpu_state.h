// SPDX-License-Identifier: Apache-2.0
// The architectural state of one vCPU, as the ABI's structs can carry it at a safe point, and the few words that system
// instructions and the engine share. Translated code reaches its members GS-relative, so this is a plain struct.
// While translated code runs, general registers, status flags, SIMD and x87 live in the host's registers; at a call-out and
// whenever KVM_RUN is not running, all of it is here (SIMD and x87 only after save_fpu()).
// Spec: Intel SDM vol 3, chapters 2, 3, 4; vol 1, chapter 3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "softkvm/cpu/insn.h"

struct kvm_run;

namespace vireo::softkvm {

enum Gpr : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };

// A segment register with its hidden part: the cache, not the selector, is the truth in every mode.
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;       // bytes, granularity applied (as kvm_segment has it)
  uint16_t selector = 0;
  uint16_t access = 0;      // bits 0-3 type, 4 S, 5-6 DPL, 7 P, 8-11 zero, 12 AVL, 13 L, 14 D/B, 15 G (VMX access-rights layout)
  bool unusable = false;

  unsigned type() const { return access & 15; }
  bool s() const { return access & 0x10; }
  unsigned dpl() const { return access >> 5 & 3; }
  bool present() const { return access & 0x80; }
  bool long_mode() const { return access & 0x2000; }
  bool db() const { return access & 0x4000; }
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;
};

// Control register and EFER bits.
constexpr uint64_t kCr0Pe = 1, kCr0Mp = 2, kCr0Em = 4, kCr0Ts = 8, kCr0Et = 16, kCr0Ne = 32, kCr0Wp = 1 << 16, kCr0Am = 1 << 18,
                   kCr0Nw = 1 << 29, kCr0Cd = 1 << 30, kCr0Pg = 1ull << 31;
constexpr uint64_t kCr4Vme = 1, kCr4Pvi = 2, kCr4Tsd = 4, kCr4De = 8, kCr4Pse = 16, kCr4Pae = 32, kCr4Mce = 64, kCr4Pge = 128,
                   kCr4Pce = 256, kCr4Osfxsr = 512, kCr4Osxmmexcpt = 1024, kCr4Umip = 1 << 11, kCr4La57 = 1 << 12,
                   kCr4Vmxe = 1 << 13, kCr4Fsgsbase = 1 << 16, kCr4Pcide = 1 << 17, kCr4Osxsave = 1 << 18, kCr4Smep = 1 << 20,
                   kCr4Smap = 1 << 21, kCr4Pke = 1 << 22, kCr4Pks = 1 << 24;
constexpr uint64_t kEferSce = 1, kEferLme = 1 << 8, kEferLma = 1 << 10, kEferNx = 1 << 11, kEferSvme = 1 << 12, kEferFfxsr = 1 << 14;

// Exception vectors.
enum Vector : uint8_t { kDE = 0, kDB = 1, kNMI = 2, kBP = 3, kOFv = 4, kBR = 5, kUD = 6, kNM = 7, kDFv = 8, kTS = 10, kNP = 11, kSSv = 12,
                        kGP = 13, kPFv = 14, kMFv = 16, kACv = 17, kMC = 18, kXM = 19 };

// How a system instruction, a memory access or a delivery ended.
enum class Outcome : uint8_t {
  kNext,   // done; rip stays for the engine to advance over the instruction
  kJump,   // done; rip, mode or memory mapping changed: the engine looks the next block up anew (rip is already the new one)
  kFault,  // Vcpu::fault holds an exception; nothing else changed
  kExit,   // KVM_RUN has to return before this can go on (kvm_run is filled); the instruction will be run again with what user space answers
  kHalt,   // done, and the vCPU waits for an event (rip is behind the instruction)
};

struct PendingException {
  bool pending = false;
  uint8_t vector = 0;
  bool has_error = false;
  uint32_t error = 0;
  bool interrupt = false; // an external interrupt (only in VcpuState::injected)
  bool software = false;  // int n, int3, into: gates' DPL is checked, rip is the next instruction
  uint64_t payload = 0;   // CR2 for #PF, DR6 bits for #DB
};

struct Msrs {
  uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t tsc_aux = 0, tsc_offset = 0, tsc_adjust = 0;  // guest tsc = host tsc (scaled by tsc_ratio) + offset
  uint64_t pat = 0x0007040600070406ull;
  uint64_t misc_enable = 1, feature_control = 0, spec_ctrl = 0, arch_capabilities = 0, xss = 0, debugctl = 0, smbase = 0x30000;
  uint64_t mtrr_def_type = 0, mtrr_fixed[11] = {}, mtrr_base[8] = {}, mtrr_mask[8] = {};
  uint64_t mcg_cap = 0, mcg_status = 0, mcg_ctl = 0, mce_banks[4 * 32] = {}, mce_ctl2[32] = {};
  uint64_t system_time = 0, wall_clock = 0, steal_time = 0, pv_eoi = 0, poll_control = 1, async_pf = 0, microcode = 0x100000000ull, bios_sign = 0;
  uint64_t platform_info = 0, power_ctl = 0;
  uint64_t misc_features = 0;  // MSR_MISC_FEATURES_ENABLES: bit 0 makes CPUID fault above CPL 0
  uint64_t async_pf_int = 0, async_pf_ack = 0, migration_control = 0, smi_count = 0;
  uint64_t hwcr = 0, virt_spec_ctrl = 0;  // AMD
};

class Vm;

struct VcpuState {
  // --- hot words, GS-relative
  uint64_t gpr[16] = {};      // by number; rsp included
  uint64_t rip = 0;           // offset in CS (linear in 64-bit mode); precise outside of translated code
  uint8_t flag_of = 0;        // status flags: OF as 0/1 (al of "seto al") ...
  uint8_t flag_ah = 2;        // ... and SF ZF AF PF CF as LAHF gives them: the two bytes are one 16-bit word at flag_of
  uint32_t system_flags = 0;  // DF TF IF IOPL NT RF VM AC VIF VIP ID at their places; bits of kStatusFlags are zero
  volatile uint32_t attention = 0;  // nonzero: leave translated code at the next poll (kick, timer, interrupt, signal)
  uint32_t mode = 0;          // the block key's mode bits, see translate/mode.h; update_mode() after any change they depend on
  uint64_t page_base = 0;     // linear address of the page of the running block
  uint64_t seg_base_fs_copy = 0, seg_base_gs_copy = 0;  // kept equal to segment[kFS/kGS].base by update_mode() and the base writes

  // --- system state
  Segment segment[6];
  Segment ldtr, tr;
  DescriptorTable gdtr, idtr;
  uint64_t cr0 = kCr0Et, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0, xcr0 = 1;
  uint64_t pdpte[4] = {};     // PAE's four, loaded with CR3
  uint64_t dr[4] = {}, dr6 = 0xffff0ff0, dr7 = 0x400;
  uint32_t pkru = 0;
  uint8_t cpl = 0;            // SS.DPL; 0 in real mode, 3 in virtual-8086 mode
  Msrs msr;

  // --- events
  PendingException fault;        // raised by the instruction at hand
  PendingException injected;     // to be delivered first on the next entry (KVM_SET_VCPU_EVENTS, KVM_INTERRUPT)
  bool interrupt_shadow_sti = false, interrupt_shadow_mov_ss = false;  // hold for one instruction
  uint8_t nmi_pending = 0;  // one more than the hardware's latch may wait while none is being serviced: they arrived at once
  bool nmi_masked = false, smi_pending = false, in_smm = false;
  bool smm_nmi_masked = false;  // nmi_masked from before SMM
  bool halted = false;
  bool single_step_pending = false;  // #DB due after the instruction that has just run (TF)
  uint8_t held_breakpoints = 0;      // DR6 bits of data breakpoints hit by the instruction that cast a MOV SS shadow: due after the next
  // An exit of an instruction run by name whose answer user space has put into kvm_run: the instruction, run again, takes it.
  enum class OpenExit : uint8_t { kNone, kRdmsr, kWrmsr, kHypercall } open_exit = OpenExit::kNone;

  // --- environment
  Vm* vm = nullptr;
  kvm_run* run = nullptr;
  unsigned id = 0;
  const struct CpuidTable* cpuid = nullptr;  // what KVM_SET_CPUID2 gave (cpuid.h)
  uint8_t physical_bits = 40, linear_bits = 48;
  bool vendor_is_amd = false;  // decides where AMD and Intel differ
  bool is_bsp = false;         // APIC_BASE.BSP; who starts at the reset vector
  bool breakpoint_exits = false;    // KVM_GUESTDBG_ENABLE with KVM_GUESTDBG_USE_SW_BP: INT3 leaves with KVM_EXIT_DEBUG
  uint64_t debugger_dr7 = 0;        // KVM_GUESTDBG_USE_HW_BP: user space's DR7 (with its fixed bit), which is in force instead of the guest's
  uint32_t disabled_quirks = 0;     // KVM_CAP_DISABLE_QUIRKS2
  bool platform_info_shown = true;  // KVM_CAP_MSR_PLATFORM_INFO
  bool paravirtual_enforced = false;  // KVM_CAP_ENFORCE_PV_FEATURE_CPUID: only what leaf 0x40000001 shows is there
  uint32_t msr_exit_reasons = 0;    // KVM_CAP_X86_USER_SPACE_MSR: KVM_MSR_EXIT_REASON_*
  uint32_t tsc_khz = 0;
  uint64_t tsc_ratio = 0;           // the guest's TSC rate over the host's, 32 fraction bits; 0: the host's
  uint32_t pkrs = 0;                // IA32_PKRS
  uint16_t user_keys = 0, supervisor_keys = 0;  // whose rights cached translations may hold, a bit a key; flush_tlb() clears them

  uint64_t rflags() const {
    return system_flags | 2u | (flag_ah & (kCF | kPF | kAF | kZF | kSF)) | (flag_of ? kOF : 0u);
  }
  void set_status_flags(uint64_t f) {
    flag_ah = static_cast<uint8_t>((f & (kCF | kPF | kAF | kZF | kSF)) | 2);
    flag_of = f & kOF ? 1 : 0;
  }
  void set_rflags(uint64_t f) {
    set_status_flags(f);
    system_flags = static_cast<uint32_t>(f) & (kTF | kIF | kDF | kIOPL | kNT | kRF | kVM | kAC | kVIF | kVIP | kID);
  }
  bool long_mode_active() const { return efer & kEferLma; }
  bool in_64bit() const { return long_mode_active() && segment[kCS].long_mode(); }
  bool protected_mode() const { return cr0 & kCr0Pe; }
  bool vm86() const { return system_flags & kVM; }
  CodeMode code_mode() const {
    return in_64bit() ? CodeMode::k64 : segment[kCS].db() ? CodeMode::k32 : CodeMode::k16;
  }

  Outcome raise(uint8_t vector) {
    fault = PendingException{};
    fault.pending = true;
    fault.vector = vector;
    return Outcome::kFault;
  }
  Outcome raise(uint8_t vector, uint32_t error) {
    raise(vector);
    fault.has_error = true;
    fault.error = error;
    return Outcome::kFault;
  }
};

}  // namespace vireo::softkvm
