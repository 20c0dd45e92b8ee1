// SPDX-License-Identifier: Apache-2.0
#include "kvm/system.h"

#include <cstring>

#include "kvm/vm.h"

namespace vireo::kvm {

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
    std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + room * sizeof(kvm_cpuid_entry2));
    auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.data());
    cpuid->nent = room;
    auto result = handle_.call(KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
    if (result) return std::vector<kvm_cpuid_entry2>(cpuid->entries, cpuid->entries + cpuid->nent);
    if (result.error().code != E2BIG) return std::unexpected(std::move(result).error());
  }
  return fail(ErrorKind::kInternal, "KVM_GET_SUPPORTED_CPUID: table without end");
}

Result<std::vector<uint32_t>> System::msr_indices() const {
  for (unsigned room = 256; room <= 65536; room *= 4) {
    std::vector<std::byte> buffer(sizeof(kvm_msr_list) + room * sizeof(uint32_t));
    auto* list = reinterpret_cast<kvm_msr_list*>(buffer.data());
    list->nmsrs = room;
    auto result = handle_.call(KVM_GET_MSR_INDEX_LIST, list, "KVM_GET_MSR_INDEX_LIST");
    if (result) return std::vector<uint32_t>(list->indices, list->indices + list->nmsrs);
    if (result.error().code != E2BIG) return std::unexpected(std::move(result).error());
  }
  return fail(ErrorKind::kInternal, "KVM_GET_MSR_INDEX_LIST: list without end");
}

}  // namespace vireo::kvm
