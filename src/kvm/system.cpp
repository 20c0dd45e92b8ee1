// SPDX-License-Identifier: Apache-2.0
#include "kvm/system.h"

#include <algorithm>
#include <cstring>

#include "kvm/variable_structs.h"
#include "kvm/vm.h"

namespace vireo::kvm {
namespace {

// What Linux's module keeps for a vCPU and leaves out of its list: IA32_DEBUGCTL and the MTRRs (Intel SDM vol 4, table 2-2).
constexpr uint32_t kNotListed[] = {0x1d9, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d,
                                   0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff};

}  // namespace

Result<std::unique_ptr<System>> System::open(const Api& api) {
  int fd = api.open_system();
  if (fd < 0) return fail_errno(std::string(api.name) == "kvm" ? "/dev/kvm" : api.name, -fd);
  std::unique_ptr<System> system(new System(Handle(api, fd)));
  int version = TRY(system->handle_.call(KVM_GET_API_VERSION, uintptr_t{0}, "KVM_GET_API_VERSION"));
  if (version != KVM_API_VERSION)
    return fail(ErrorKind::kUnsupported, std::string(api.name) + ": API version " + std::to_string(version) + ", not 12");
  system->mapping_size_ = TRY(system->handle_.call(KVM_GET_VCPU_MMAP_SIZE, uintptr_t{0}, "KVM_GET_VCPU_MMAP_SIZE"));
  return system;
}

int System::extension(unsigned capability) const {
  return handle_.call(KVM_CHECK_EXTENSION, uintptr_t{capability}, "KVM_CHECK_EXTENSION").value_or(0);
}

Result<std::unique_ptr<Vm>> System::create_vm() {
  int fd = TRY(handle_.call(KVM_CREATE_VM, uintptr_t{0}, "KVM_CREATE_VM"));
  return std::unique_ptr<Vm>(new Vm(*this, Handle(api(), fd)));
}

Result<std::vector<kvm_cpuid_entry2>> System::supported_cpuid() const {
  for (unsigned room = 128; room <= 4096; room *= 2) {
    CpuidTable table(room);
    auto result = handle_.call(kGetSupportedCpuid, table.data(), "KVM_GET_SUPPORTED_CPUID");
    if (result) return table.elements();
    if (result.error().code != E2BIG) return std::unexpected(std::move(result).error());
  }
  return fail(ErrorKind::kInternal, "KVM_GET_SUPPORTED_CPUID: table without end");
}

Result<std::vector<uint32_t>> System::msr_indices() const {
  for (unsigned room = 256; room <= 65536; room *= 4) {
    MsrList list(room);
    auto result = handle_.call(kGetMsrIndexList, list.data(), "KVM_GET_MSR_INDEX_LIST");
    if (result) {
      std::vector<uint32_t> indices = list.elements();
      for (uint32_t index : kNotListed)
        if (std::ranges::find(indices, index) == indices.end()) indices.push_back(index);
      return indices;
    }
    if (result.error().code != E2BIG) return std::unexpected(std::move(result).error());
  }
  return fail(ErrorKind::kInternal, "KVM_GET_MSR_INDEX_LIST: list without end");
}

}  // namespace vireo::kvm
