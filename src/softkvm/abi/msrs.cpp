// SPDX-License-Identifier: Apache-2.0
// KVM_GET_MSRS and KVM_SET_MSRS of a vCPU, and the machine-check ioctls, which fill MSRs. Spec: Intel SDM vol 3, 16.3 (machine-check MSRs).
#include <cerrno>
#include <vector>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/msr_transfer.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/cpu/system.h"

namespace vireo::softkvm::abi {
namespace {

constexpr unsigned kMaxMsrEntries = 256;
constexpr unsigned kMaxMceBanks = 32;
constexpr uint64_t kMcgCtlPresent = 1 << 8, kMcgCmciPresent = 1 << 10, kMcgSoftwareRecovery = 1 << 24;
constexpr uint64_t kMcgStatusMcip = 4;
constexpr uint64_t kMciStatusValid = 1ull << 63, kMciStatusOverflow = 1ull << 62, kMciStatusUncorrected = 1ull << 61;

}  // namespace

const uint64_t kSupportedMceCapabilities = kMcgCtlPresent | kMcgCmciPresent | kMcgSoftwareRecovery;

const Capability kMsrsCapabilities[] = {
    {KVM_CAP_GET_MSR_FEATURES},
    {KVM_CAP_MCE, kMaxMceBanks},
};
CAPABILITIES(msrs_capabilities, kMsrsCapabilities)

int transfer_msrs(uintptr_t argument, bool write_back, bool (*transfer)(void* context, kvm_msr_entry& entry), void* context) {
  kvm_msrs header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  if (header.nmsrs >= kMaxMsrEntries) return -E2BIG;
  std::vector<kvm_msr_entry> entries(header.nmsrs);
  const size_t size = entries.size() * sizeof(kvm_msr_entry);
  if (!copy_in(entries.data(), argument + sizeof header, size)) return -EFAULT;
  int done = 0;
  for (kvm_msr_entry& entry : entries) {
    if (!transfer(context, entry)) break;
    done++;
  }
  if (write_back && !copy_out(argument + sizeof header, entries.data(), size)) return -EFAULT;
  return done;
}

int get_msrs(VcpuFile& file, uintptr_t argument) {
  auto transfer = [](void* vcpu, kvm_msr_entry& entry) {
    uint64_t value;
    if (!read_msr(*static_cast<Vcpu*>(vcpu), entry.index, value, true)) return false;
    entry.data = value;
    return true;
  };
  return transfer_msrs(argument, true, transfer, file.vcpu.get());
}

int set_msrs(VcpuFile& file, uintptr_t argument) {
  auto transfer = [](void* context, kvm_msr_entry& entry) {
    auto& file = *static_cast<VcpuFile*>(context);
    // User space may make any change of the APIC's mode; the guest may not.
    if (entry.index == apic::kMsrBase) return set_apic_base(file, entry.data);
    return write_msr(*file.vcpu, entry.index, entry.data, true);
  };
  int done = transfer_msrs(argument, false, transfer, &file);
  file.vcpu->state_changed();
  return done;
}

int setup_mce(VcpuFile& file, uintptr_t argument) {
  uint64_t capabilities;
  if (!copy_in(capabilities, argument)) return -EFAULT;
  unsigned banks = capabilities & 0xff;
  if (banks == 0 || banks > kMaxMceBanks || (capabilities & ~(kSupportedMceCapabilities | 0xff | 0xff0000))) return -EINVAL;
  Msrs& msr = file.vcpu->msr;
  msr.mcg_cap = capabilities;
  if (capabilities & kMcgCtlPresent) msr.mcg_ctl = ~0ull;
  for (unsigned bank = 0; bank < banks; bank++) msr.mce_banks[bank * 4] = ~0ull, msr.mce_ctl2[bank] = 0;
  update_lapic_features(file);
  file.vcpu->state_changed();
  return 0;
}

// KVM_X86_SET_MCE: the banks are CTL, STATUS, ADDR, MISC. An uncorrected error raises #MC, or shuts the CPU down where it cannot.
int set_mce(VcpuFile& file, uintptr_t argument) {
  kvm_x86_mce mce;
  if (!copy_in(mce, argument)) return -EFAULT;
  Vcpu& v = *file.vcpu;
  if (mce.bank >= (v.msr.mcg_cap & 0xff) || !(mce.status & kMciStatusValid)) return -EINVAL;
  uint64_t* bank = v.msr.mce_banks + mce.bank * 4;
  // Uncorrected, no action required: the error is logged and told by the corrected errors' interrupt. Intel SDM vol 3, 15.6.3.
  constexpr uint64_t kActionBits = 1ull << 57 | 1ull << 56 | 1ull << 55, kCmciEnable = 1ull << 30;  // PCC, S, AR
  if (mce.mcg_status == 0 && !(mce.status & kActionBits)) {
    bank[1] = mce.status;
    bank[2] = mce.addr;
    bank[3] = mce.misc;
    v.msr.mcg_status = 0;
    if ((v.msr.mcg_cap & kMcgCmciPresent) && (v.msr.mce_ctl2[mce.bank] & kCmciEnable) && v.lapic) v.lapic->deliver_local(apic::kLvtCmci);
    v.state_changed();
    return 0;
  }
  bool uncorrected = mce.status & kMciStatusUncorrected;
  if (uncorrected && (((v.msr.mcg_cap & kMcgCtlPresent) && v.msr.mcg_ctl != ~0ull) || bank[0] != ~0ull)) return 0;
  if (uncorrected) {
    if ((v.msr.mcg_status & kMcgStatusMcip) || !(v.cr4 & kCr4Mce)) {
      v.triple_fault_pending = true;
      v.state_changed();
      return 0;
    }
    if (bank[1] & kMciStatusValid) mce.status |= kMciStatusOverflow;
    bank[2] = mce.addr;
    bank[3] = mce.misc;
    v.msr.mcg_status = mce.mcg_status;
    bank[1] = mce.status;
    v.injected = {};
    v.injected.pending = true;
    v.injected.vector = kMC;
    v.injected_is_pending = true;
    v.injected_has_payload = false;
  } else if (!(bank[1] & kMciStatusValid) || !(bank[1] & kMciStatusUncorrected)) {
    if (bank[1] & kMciStatusValid) mce.status |= kMciStatusOverflow;
    bank[2] = mce.addr;
    bank[3] = mce.misc;
    bank[1] = mce.status;
  } else {
    bank[1] |= kMciStatusOverflow;
  }
  v.state_changed();
  return 0;
}

}  // namespace vireo::softkvm::abi
