// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/system_ioctls.h"

#include <linux/kvm.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <span>
#include <vector>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/msr_transfer.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_file.h"
#include "softkvm/abi/vm_file.h"
#include "softkvm/cpu/cpuid_supported.h"
#include "softkvm/cpu/msrs.h"

namespace vireo::softkvm::abi {
namespace {

constexpr int kApiVersion = 12;

int recommended_vcpus(const VmFile*) {
  cpu_set_t set;
  int count = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::clamp(count, 1, static_cast<int>(kMaxVcpus));
}

}  // namespace

const Capability kSystemCapabilities[] = {
    {KVM_CAP_NR_VCPUS, 0, recommended_vcpus},
    {KVM_CAP_CHECK_EXTENSION_VM},
    {KVM_CAP_VM_TYPES, 1},  // bit 0: type 0
    {KVM_CAP_EXT_EMUL_CPUID},
    {KVM_CAP_SYS_ATTRIBUTES},
};
CAPABILITIES(system_capabilities, kSystemCapabilities)

namespace {

int copy_cpuid(uintptr_t argument, std::span<const CpuidEntry> list) {
  kvm_cpuid2 header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  if (header.nent < std::max<size_t>(1, list.size())) return -E2BIG;
  std::vector<kvm_cpuid_entry2> entries;
  for (const CpuidEntry& e : list) entries.push_back({e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx, {}});
  header.nent = static_cast<uint32_t>(entries.size());
  if (!copy_out(argument + sizeof header, entries.data(), entries.size() * sizeof(kvm_cpuid_entry2))) return -EFAULT;
  return copy_out(argument, &header, sizeof header) ? 0 : -EFAULT;
}

std::atomic<bool> foreign_callers{false};

std::vector<CpuidEntry> offered() {
  CpuidOptions options;
  options.paravirtual = kParavirtualClock | kParavirtualStealTime;
  options.xcr0 = Vcpu::supported_xcr0();
  options.pku = !foreign_callers || CpuidHost::bare().xcr0 >> 9 & 1;
  options.pks = true;
  return supported_cpuid(CpuidHost::bare(), options);
}

int get_supported_cpuid(uintptr_t argument) { return copy_cpuid(argument, offered()); }

// Nothing is offered that the guest's CPUID would not show as a feature of the CPU.
int get_emulated_cpuid(uintptr_t argument) { return copy_cpuid(argument, {}); }

int get_msr_index_list(uintptr_t argument, std::span<const uint32_t> list) {
  kvm_msr_list header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  const uint32_t room = header.nmsrs;
  header.nmsrs = static_cast<uint32_t>(list.size());
  if (!copy_out(argument, &header, sizeof header)) return -EFAULT;
  if (room < list.size()) return -E2BIG;
  return copy_out(argument + sizeof header, list.data(), list.size_bytes()) ? 0 : -EFAULT;
}

int get_feature_msrs(uintptr_t argument) {
  auto transfer = [](void*, kvm_msr_entry& entry) {
    uint64_t value;
    if (!read_feature_msr(entry.index, value)) return false;
    entry.data = value;
    return true;
  };
  return transfer_msrs(argument, true, transfer, nullptr);
}

// The one attribute: the XCR0 components a guest may be given.
int device_attribute(uintptr_t argument, bool get) {
  kvm_device_attr attribute;
  if (!copy_in(attribute, argument)) return -EFAULT;
  if (attribute.group != 0 || attribute.attr != KVM_X86_XCOMP_GUEST_SUPP) return -ENXIO;
  if (!get) return 0;
  uint64_t components = offered_cpuid().xcr0_supported;
  return copy_out(attribute.addr, components) ? 0 : -EFAULT;
}

}  // namespace

void expect_foreign_callers() { foreign_callers = true; }

const CpuidTable& offered_cpuid() {
  static const std::unique_ptr<CpuidTable> table = make_cpuid_table(offered());
  return *table;
}

int system_ioctl(unsigned long request, uintptr_t argument) {
  switch (request) {
    case KVM_GET_API_VERSION: return argument == 0 ? kApiVersion : -EINVAL;
    case KVM_CREATE_VM: return argument == 0 ? VmFile::create() : -EINVAL;
    case KVM_CHECK_EXTENSION: return check_extension(nullptr, argument);
    case KVM_GET_VCPU_MMAP_SIZE: return argument == 0 ? static_cast<int>(kVcpuMmapSize) : -EINVAL;
    case KVM_GET_SUPPORTED_CPUID: return get_supported_cpuid(argument);
    case KVM_GET_EMULATED_CPUID: return get_emulated_cpuid(argument);
    case KVM_GET_MSR_INDEX_LIST: return get_msr_index_list(argument, msr_index_list());
    case KVM_GET_MSR_FEATURE_INDEX_LIST: return get_msr_index_list(argument, msr_feature_index_list());
    case KVM_GET_MSRS: return get_feature_msrs(argument);
    case KVM_X86_GET_MCE_CAP_SUPPORTED: return copy_out(argument, kSupportedMceCapabilities) ? 0 : -EFAULT;
    case KVM_HAS_DEVICE_ATTR: return device_attribute(argument, false);
    case KVM_GET_DEVICE_ATTR: return device_attribute(argument, true);
    default: return -EINVAL;
  }
}

}  // namespace vireo::softkvm::abi
