// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/vm_file.h"

#include <cerrno>

#include "softkvm/abi/clock.h"
#include "softkvm/abi/handles.h"
#include "softkvm/abi/msr_filter.h"
#include "softkvm/abi/vcpu_file.h"
#include "softkvm/abi/vm_ioctls.h"

namespace vireo::softkvm::abi {

VmFile::VmFile() : File(FileKind::kVm), vm(Vm::create()), tsc_khz(host_tsc_khz()) {}

// Nothing runs any more: the last descriptor is gone, and KVM_RUN holds a reference. What posts events to the vCPUs goes first.
VmFile::~VmFile() {
  irqchip.reset();
  if (vm) {
    vm->irqchip = nullptr;
    delete vm->msr_filter.replace(nullptr);
    std::lock_guard lock(vm->vcpus_mutex);  // a thread that drops code may be looking for those that run
    vm->vcpus.clear();
  }
  vcpus.clear();
}

VcpuFile* VmFile::vcpu_by_id(unsigned id) {
  for (const auto& file : vcpus) {
    if (file->vcpu->id == id) return file.get();
  }
  return nullptr;
}

int VmFile::create() {
  auto file = std::make_shared<VmFile>();
  if (!file->vm) return -ENOMEM;
  if (int error = create_statistics(*file)) return error;
  file->vm->ioeventfds = &file->ioeventfds;
  file->vm->coalesced = &file->coalesced.writes;
  start_clock(*file->vm);
  int fd = make_descriptor(*file, "kvm-vm", 0);
  if (fd >= 0) install(fd, std::move(file));
  return fd;
}

}  // namespace vireo::softkvm::abi
