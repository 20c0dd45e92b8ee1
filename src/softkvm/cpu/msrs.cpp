// SPDX-License-Identifier: Apache-2.0
// The model-specific registers: what each holds, which bits are reserved, who may touch it.
// Spec: Intel SDM vol 4; vol 3, 11.11 (MTRRs), 11.12 (PAT), 15.3 (machine check), 17.17 (TSC); AMD APM vol 2, appendix A.
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/descriptor.h"
#include "softkvm/cpu/msr_index.h"
#include "softkvm/cpu/msr_values.h"

namespace vireo::softkvm {

using namespace msr_index;

namespace {

constexpr uint64_t kEferLmeLma = kEferLme | kEferLma;
constexpr uint64_t kMcgCtlP = 1 << 8, kMcgCmciP = 1 << 10;
constexpr uint64_t kMciCtl2Known = 1ull << 30 | 0x7fff;  // CMCI_EN and the threshold
constexpr uint64_t kHwcrMcStatusWrEn = 1 << 18, kHwcrTscFreqSel = 1 << 24;
// KVM_FEATURE_* bits of leaf 0x40000001.
constexpr unsigned kPvClocksource = cpuid_bit(kWordKvmEax, 0), kPvClocksource2 = cpuid_bit(kWordKvmEax, 3),
                   kPvAsyncPf = cpuid_bit(kWordKvmEax, 4), kPvStealTime = cpuid_bit(kWordKvmEax, 5), kPvEoi = cpuid_bit(kWordKvmEax, 6),
                   kPvPollControl = cpuid_bit(kWordKvmEax, 12), kPvAsyncPfInt = cpuid_bit(kWordKvmEax, 14),
                   kPvMigrationControl = cpuid_bit(kWordKvmEax, 17);

bool valid_pat_type(unsigned type) { return type < 8 && type != 2 && type != 3; }
bool valid_mtrr_type(unsigned type) { return type < 7 && type != 2 && type != 3; }

bool all_bytes(uint64_t value, bool (*valid)(unsigned)) {
  for (unsigned i = 0; i < 8; i++)
    if (!valid(value >> i * 8 & 0xff)) return false;
  return true;
}

// The fixed-range MTRR's place in Msrs::mtrr_fixed, or -1.
int fixed_mtrr(uint32_t index) {
  if (index == kMtrrFix64k) return 0;
  if (index == kMtrrFix16k0 || index == kMtrrFix16k1) return static_cast<int>(index - kMtrrFix16k0) + 1;
  if (index >= kMtrrFix4k0 && index <= kMtrrFix4k7) return static_cast<int>(index - kMtrrFix4k0) + 3;
  return -1;
}

bool has_spec_ctrl(const VcpuState& v) {
  return has(v, kCpuidSpecCtrl) || has(v, kCpuidStibp) || has(v, kCpuidSsbd) || has(v, kCpuidAmdIbrs) || has(v, kCpuidAmdStibp) ||
         has(v, kCpuidAmdSsbd);
}
bool has_pred_cmd(const VcpuState& v) { return has(v, kCpuidSpecCtrl) || has(v, kCpuidIbpb); }

// Registers that hold nothing here but that kernels touch without asking: they read as zero and take any value.
bool inert(uint32_t index) {
  switch (index) {
    case kPlatformId: case kEblCrPoweron: case kPerfCtl: case kRaplPowerUnit: case kPkgEnergy: case kDramEnergy: case kPp0Energy:
    case kPp1Energy: case kPerfctr0: case kPerfctr1: case kEvntsel0: case kEvntsel1: case kAmdSyscfg: case kNbCfg: case kIntPendingMsg:
    case kMmioConfBase: case kTsegAddress: case kTsegMask: case kDcCfg: case kTwCfg: case kBuCfg2: case kExCfg:
      return true;
    default:
      return (index >= kLastBranchFrom && index <= kLastIntTo) || (index >= kK7Evntsel0 && index <= kK7Perfctr3);
  }
}

bool write_efer(VcpuState& v, uint64_t value, bool host) {
  // A host may set what the guest's CPUID does not show, but no bit that no CPU has.
  constexpr uint64_t kKnown = kEferSce | kEferLme | kEferLma | kEferNx | kEferSvme | kEferFfxsr;
  if ((value & ~kKnown) || (!valid_efer(v, value) && !host)) return false;
  if (!host) {
    if ((v.cr0 & kCr0Pg) && ((value ^ v.efer) & kEferLme)) return false;
    value = (value & ~kEferLma) | (v.efer & kEferLma);
  }
  uint64_t changed = value ^ v.efer;
  v.efer = value;
  if (changed & (kEferNx | kEferLmeLma)) flush_tlb(v, false);
  update_mode(v);
  return true;
}

bool write_mce(VcpuState& v, uint32_t index, uint64_t value, bool host) {
  unsigned banks = v.msr.mcg_cap & 0xff, at = index - kMc0Ctl;
  if (banks > 32) banks = 32;
  if (at >= banks * 4) return false;
  switch (at & 3) {
    case 0:
      // All ones or zero; Linux leaves bit 10 of bank 4 out, and bit 0 of some others.
      if (value != 0 && (value | (1 << 10) | 1) != ~0ull) return false;
      break;
    case 1:
      if (!host && value != 0 && !(v.msr.hwcr & kHwcrMcStatusWrEn)) return false;
      break;
    default: break;
  }
  v.msr.mce_banks[at] = value;
  return true;
}

bool write_variable_mtrr(VcpuState& v, uint32_t index, uint64_t value) {
  unsigned at = (index - kMtrrPhysbase0) / 2;
  bool mask = index & 1;
  uint64_t reserved = ~0ull << v.physical_bits | (mask ? 0x7ff : 0xf00);
  if ((value & reserved) || (!mask && !valid_mtrr_type(value & 0xff))) return false;
  uint64_t& slot = mask ? v.msr.mtrr_mask[at] : v.msr.mtrr_base[at];
  slot = value;
  return true;
}

bool write_tsc(VcpuState& v, uint64_t value, bool host) {
  if (host) {
    synchronize_tsc(v, value);
  } else {
    uint64_t delta = value - guest_tsc(v);
    v.msr.tsc_offset += delta;
    v.msr.tsc_adjust += delta;
  }
  tsc_moved(v);
  return true;
}

// The feature that an MSR belongs to, or -1: not a paravirtual one.
int paravirtual_feature(uint32_t index) {
  switch (index) {
    case kWallClockOld: case kSystemTimeOld: return kPvClocksource;
    case kKvmWallClock: case kKvmSystemTime: return kPvClocksource2;
    case kKvmAsyncPf: return kPvAsyncPf;
    case kKvmAsyncPfInt: case kKvmAsyncPfAck: return kPvAsyncPfInt;
    case kKvmStealTime: return kPvStealTime;
    case kKvmPvEoi: return kPvEoi;
    case kKvmPollControl: return kPvPollControl;
    case kKvmMigrationControl: return kPvMigrationControl;
    default: return -1;
  }
}

bool has_paravirtual(const VcpuState& v, uint32_t index) {
  const int feature = paravirtual_feature(index);
  return feature < 0 || has(v, static_cast<unsigned>(feature));
}

// Paravirtual registers: stored here, acted on by the host half.
bool write_paravirtual(VcpuState& v, uint32_t index, uint64_t value, bool host) {
  uint64_t* slot;
  unsigned feature;
  uint64_t reserved = 0;
  switch (index) {
    case kWallClockOld: slot = &v.msr.wall_clock; feature = kPvClocksource; break;
    case kKvmWallClock: slot = &v.msr.wall_clock; feature = kPvClocksource2; break;
    case kSystemTimeOld: slot = &v.msr.system_time; feature = kPvClocksource; break;
    case kKvmSystemTime: slot = &v.msr.system_time; feature = kPvClocksource2; break;
    case kKvmAsyncPf: slot = &v.msr.async_pf; feature = kPvAsyncPf; reserved = 0x30; break;
    case kKvmAsyncPfInt: slot = &v.msr.async_pf_int; feature = kPvAsyncPfInt; reserved = ~0xffull; break;
    case kKvmAsyncPfAck: slot = &v.msr.async_pf_ack; feature = kPvAsyncPfInt; break;
    case kKvmStealTime: slot = &v.msr.steal_time; feature = kPvStealTime; reserved = 0x3e; break;
    case kKvmPvEoi: slot = &v.msr.pv_eoi; feature = kPvEoi; reserved = 2; break;
    case kKvmPollControl: slot = &v.msr.poll_control; feature = kPvPollControl; reserved = ~1ull; break;
    case kKvmMigrationControl: slot = &v.msr.migration_control; feature = kPvMigrationControl; reserved = ~1ull; break;
    default: return false;
  }
  if (value & reserved) return false;
  // What CPUID shows decides only under KVM_CAP_ENFORCE_PV_FEATURE_CPUID (api.rst), or of what nobody acts on here.
  const bool there = slot == &v.msr.wall_clock || slot == &v.msr.system_time || slot == &v.msr.steal_time;
  const bool usable = has(v, feature) || (there && !v.paravirtual_enforced);
  if (!usable && !(host && value == *slot)) {
    // A host restores what it saved: zero (and poll_control's one) even where the guest has no such feature.
    if (!host || (value != 0 && index != kKvmPollControl)) return false;
  }
  *slot = value;
  write_paravirtual_msr(v, index, value);
  return true;
}

}  // namespace

bool read_msr(VcpuState& v, uint32_t index, uint64_t& value, bool host) {
  const Msrs& m = v.msr;
  if (!host && v.paravirtual_enforced && !has_paravirtual(v, index)) return false;
  switch (index) {
    case kFsBase: value = v.segment[kFS].base; return true;
    case kGsBase: value = v.segment[kGS].base; return true;
    case kKernelGsBase: value = m.kernel_gs_base; return true;
    case kTscDeadline:
      if (!host && !has(v, kCpuidTscDeadline)) return false;
      return read_apic_msr(v, index, value);
    case kPkrs:
      value = v.pkrs;
      return host || has(v, kCpuidPks);
    case kApicBase: return read_apic_msr(v, index, value);
    case kTsc: value = guest_tsc(v); return true;
    case kSpecCtrl:
      if (!host && !has_spec_ctrl(v)) return false;
      value = m.spec_ctrl;
      return true;
    case kEfer: value = v.efer; return true;
    case kStar: value = m.star; return true;
    case kLstar: value = m.lstar; return true;
    case kCstar: value = m.cstar; return true;
    case kSfmask: value = m.sfmask; return true;
    case kTscAux:
      if (!host && !has(v, kCpuidRdtscp) && !has(v, kCpuidRdpid)) return false;
      value = m.tsc_aux;
      return true;
    case kSysenterCs: value = m.sysenter_cs; return true;
    case kSysenterEsp: value = m.sysenter_esp; return true;
    case kSysenterEip: value = m.sysenter_eip; return true;
    case kTscAdjust:
      if (!host && !has(v, kCpuidTscAdjust)) return false;
      value = m.tsc_adjust;
      return true;
    case kArchCapabilities:
      if (!host && !has(v, kCpuidArchCapabilities)) return false;
      value = m.arch_capabilities;
      return true;
    case kXss:
      if (!host && !has(v, kCpuidXsaves)) return false;
      value = m.xss;
      return true;
    case kFeatureControl: value = m.feature_control; return true;
    case kBiosSignId: value = m.microcode; return true;
    case kPlatformInfo: value = m.platform_info; return host || v.platform_info_shown;
    case kPowerCtl: value = m.power_ctl; return true;
    case kMiscFeatures: value = m.misc_features; return true;
    case kMiscEnable: value = m.misc_enable; return true;
    case kDebugctl: value = m.debugctl; return true;
    case kSmbase:
      if (!host && !v.in_smm) return false;
      value = m.smbase;
      return true;
    case kSmiCount: value = m.smi_count; return true;
    case kPat: value = m.pat; return true;
    case kMtrrCap: value = 0x508; return true;  // write combining, fixed ranges, eight variable ranges
    case kMtrrDefType: value = m.mtrr_def_type; return true;
    case kMcgCap: value = m.mcg_cap; return true;
    case kMcgStatus: value = m.mcg_status; return true;
    case kMcgCtl:
      if (!(m.mcg_cap & kMcgCtlP) && !host) return false;
      value = m.mcg_ctl;
      return true;
    case kEbcFrequencyId: value = 1 << 24; return true;
    case kFsbFreq: value = 3; return true;
    case kPerfStatus: value = 1000 | 4ull << 40; return true;  // a ratio that old kernels divide by
    case kBblCrCtl3: value = 0xbe702111; return true;          // L2 present and enabled, as old Windows wants
    case kWallClockOld: case kKvmWallClock: value = m.wall_clock; return true;
    case kSystemTimeOld: case kKvmSystemTime: value = m.system_time; return true;
    case kKvmAsyncPf: value = m.async_pf; return true;
    case kKvmAsyncPfInt: value = m.async_pf_int; return true;
    case kKvmAsyncPfAck: value = 0; return true;
    case kKvmStealTime: value = m.steal_time; return true;
    case kKvmPvEoi: value = m.pv_eoi; return true;
    case kKvmPollControl: value = m.poll_control; return true;
    case kKvmMigrationControl: value = m.migration_control; return true;
    case kHwcr: value = m.hwcr; return true;
    case kVirtSpecCtrl:
      if (!host && !has(v, kCpuidVirtSsbd)) return false;
      value = m.virt_spec_ctrl;
      return true;
    case kDeCfg: value = 2; return true;  // LFENCE serializes
    case kOsvwLength: value = 0; return v.vendor_is_amd || host;
    case kOsvwStatus: value = 0; return v.vendor_is_amd || host;
    default: break;
  }
  if (index >= kX2apicFirst && index <= kX2apicLast) return read_apic_msr(v, index, value);
  if (index >= kMtrrPhysbase0 && index <= kMtrrPhysmask7) {
    unsigned at = (index - kMtrrPhysbase0) / 2;
    value = index & 1 ? m.mtrr_mask[at] : m.mtrr_base[at];
    return true;
  }
  if (int at = fixed_mtrr(index); at >= 0) {
    value = m.mtrr_fixed[at];
    return true;
  }
  if (index >= kMc0Ctl2 && index <= kMc31Ctl2) {
    if (index - kMc0Ctl2 >= (m.mcg_cap & 0xff) || (!host && !(m.mcg_cap & kMcgCmciP))) return false;
    value = m.mce_ctl2[index - kMc0Ctl2];
    return true;
  }
  if (index >= kMc0Ctl && index <= kMcLast) {
    unsigned banks = m.mcg_cap & 0xff, at = index - kMc0Ctl;
    if (banks > 32) banks = 32;
    if (at >= banks * 4) return false;
    value = m.mce_banks[at];
    return true;
  }
  value = 0;
  return inert(index);
}

bool write_msr(VcpuState& v, uint32_t index, uint64_t value, bool host) {
  Msrs& m = v.msr;
  bool canonical_value = canonical(value, supported_linear_bits(v));
  switch (index) {
    case kFsBase: case kGsBase:
      if (!canonical_value) return false;
      v.segment[index == kFsBase ? kFS : kGS].base = value;
      (index == kFsBase ? v.seg_base_fs_copy : v.seg_base_gs_copy) = value;
      return true;
    case kKernelGsBase:
      if (!canonical_value) return false;
      m.kernel_gs_base = value;
      return true;
    case kTscDeadline:
      if (!host && !has(v, kCpuidTscDeadline)) return false;
      return write_apic_msr(v, index, value);
    case kPkrs:
      if ((!host && !has(v, kCpuidPks)) || value >> 32) return false;
      if (value == v.pkrs) return true;
      change_keys(v, false, static_cast<uint32_t>(value));
      return true;
    case kApicBase: return write_apic_msr(v, index, value);
    case kSpecCtrl:
      if ((!host && !has_spec_ctrl(v)) || (value & ~7ull)) return false;
      m.spec_ctrl = value;
      return true;
    case kPredCmd:  // IBPB: nothing is shared with another guest to be cleared
      return (host || has_pred_cmd(v)) && !(value & ~1ull);
    case kFlushCmd: return (host || has(v, kCpuidFlushL1d)) && !(value & ~1ull);
    case kTsc: return write_tsc(v, value, host);
    case kEfer: return write_efer(v, value, host);
    case kStar: m.star = value; return true;
    case kLstar:
      if (!canonical_value) return false;
      m.lstar = value;
      return true;
    case kCstar:
      if (!canonical_value) return false;
      m.cstar = value;
      return true;
    case kSfmask: m.sfmask = value & 0xffffffff; return true;
    case kTscAux:
      if (!host && !has(v, kCpuidRdtscp) && !has(v, kCpuidRdpid)) return false;
      if (value >> 32 && !v.vendor_is_amd) return false;
      m.tsc_aux = static_cast<uint32_t>(value);
      return true;
    case kSysenterCs: m.sysenter_cs = static_cast<uint32_t>(value); return true;
    case kSysenterEsp: case kSysenterEip:
      // Intel holds them to be canonical, AMD keeps 32 bits.
      if (v.vendor_is_amd)
        value = static_cast<uint32_t>(value);
      else if (!canonical_value)
        return false;
      (index == kSysenterEsp ? m.sysenter_esp : m.sysenter_eip) = value;
      return true;
    case kTscAdjust:
      if (!host && !has(v, kCpuidTscAdjust)) return false;
      if (!host) {
        m.tsc_offset += value - m.tsc_adjust;
        tsc_moved(v);
      }
      m.tsc_adjust = value;
      return true;
    case kArchCapabilities:
      if (!host) return false;
      m.arch_capabilities = value;
      return true;
    case kXss:
      if (!host && !has(v, kCpuidXsaves)) return false;
      if (value && (!v.cpuid || (value & ~v.cpuid->xss_supported))) return false;
      m.xss = value;
      return true;
    case kFeatureControl:
      if (!host && ((m.feature_control & 1) || (value & ~1ull))) return false;
      m.feature_control = value;
      return true;
    case kBiosSignId:
      if (host) m.microcode = value;
      return true;
    case kBiosUpdtTrig: return true;
    case kPlatformInfo:
      // CPUID faulting cannot be taken away while it is on.
      if (!host || (!(value & kPlatformInfoCpuidFault) && (m.misc_features & 1))) return false;
      m.platform_info = value;
      return true;
    case kPowerCtl: m.power_ctl = value; return true;
    case kMiscFeatures:
      if ((value & ~1ull) || (value && !(m.platform_info & kPlatformInfoCpuidFault))) return false;
      m.misc_features = value;
      return true;
    case kMiscEnable:
      // What it says of BTS, PEBS and the PMU is not the guest's to change.
      if (!host && ((value ^ m.misc_enable) & (1 << 7 | 1 << 11 | 1 << 12))) return false;
      m.misc_enable = value;
      return true;
    case kDebugctl:
      // Branch records and single-stepping by branches are not there: their bits do not stick.
      if (value & ~3ull) return false;
      m.debugctl = 0;
      return true;
    case kSmbase:
      if (!host) return false;
      m.smbase = static_cast<uint32_t>(value);
      return true;
    case kSmiCount:
      if (!host) return false;
      m.smi_count = value;
      return true;
    case kPat:
      if (!all_bytes(value, valid_pat_type)) return false;
      m.pat = value;
      return true;
    case kMtrrDefType:
      if ((value & ~0xcffull) || !valid_mtrr_type(value & 0xff)) return false;
      m.mtrr_def_type = value;
      return true;
    case kMcgStatus:
      if (!host && value != 0) return false;
      m.mcg_status = value;
      return true;
    case kMcgCtl:
      if (!(m.mcg_cap & kMcgCtlP) && (value || !host)) return false;
      if (value != 0 && value != ~0ull) return false;
      m.mcg_ctl = value;
      return true;
    case kHwcr:
      value &= ~(0x40ull | 0x100 | 0x8);  // TLB filter and cache switches, IGNNE emulation: nothing to switch
      if (value & ~(kHwcrMcStatusWrEn | kHwcrTscFreqSel)) return false;
      m.hwcr = value;
      return true;
    case kVirtSpecCtrl:
      if ((!host && !has(v, kCpuidVirtSsbd)) || (value & ~4ull)) return false;
      m.virt_spec_ctrl = value;
      return true;
    case kDeCfg: return host || !(value & ~2ull);
    case kMcgCap: case kMtrrCap: case kPerfStatus: case kEbcFrequencyId: case kFsbFreq: case kOsvwLength: case kOsvwStatus: {
      uint64_t now = 0;
      return host && read_msr(v, index, now, true) && now == value;
    }
    case kBblCrCtl3: return true;
    case kWallClockOld: case kSystemTimeOld: case kKvmWallClock: case kKvmSystemTime: case kKvmAsyncPf: case kKvmStealTime: case kKvmPvEoi:
    case kKvmPollControl: case kKvmAsyncPfInt: case kKvmAsyncPfAck: case kKvmMigrationControl:
      return write_paravirtual(v, index, value, host);
    default: break;
  }
  if (index >= kX2apicFirst && index <= kX2apicLast) return write_apic_msr(v, index, value);
  if (index >= kMtrrPhysbase0 && index <= kMtrrPhysmask7) return write_variable_mtrr(v, index, value);
  if (int at = fixed_mtrr(index); at >= 0) {
    if (!all_bytes(value, valid_mtrr_type)) return false;
    m.mtrr_fixed[at] = value;
    return true;
  }
  if (index >= kMc0Ctl2 && index <= kMc31Ctl2) {
    if (index - kMc0Ctl2 >= (m.mcg_cap & 0xff) || (value & ~kMciCtl2Known)) return false;
    if (!(m.mcg_cap & kMcgCmciP) && (value != 0 || !host)) return false;
    m.mce_ctl2[index - kMc0Ctl2] = value;
    return true;
  }
  if (index >= kMc0Ctl && index <= kMcLast) return write_mce(v, index, value, host);
  return inert(index);
}

}  // namespace vireo::softkvm
