// SPDX-License-Identifier: Apache-2.0
// KVM_CREATE_VCPU.
#include "softkvm/abi/vcpu_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "softkvm/abi/clock.h"
#include "softkvm/abi/coalesced.h"
#include "softkvm/abi/handles.h"
#include "softkvm/abi/irq.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/counters.h"
#include "softkvm/cpu/system.h"
#include "softkvm/translate/code_cache.h"

namespace vireo::softkvm::abi {

VcpuFile::~VcpuFile() {
  vcpu.reset();
  if (pages != nullptr) ::munmap(pages, kVcpuMmapSize);
  if (ring_pages != nullptr) ::munmap(ring_pages, vm.dirty_ring_entries * sizeof(kvm_dirty_gfn));
}

namespace {

constexpr size_t kDirtyRingOffset = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;

// What follows from the VM's settings; under its mutex.
int build(VmFile& vm, VcpuFile& file, int fd, unsigned id) {
  void* pages = ::mmap(nullptr, kVcpuMmapSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (pages == MAP_FAILED) return -ENOMEM;
  file.pages = static_cast<std::byte*>(pages);
  file.vcpu = Vcpu::create(*vm.vm, id, &file.run());
  if (!file.vcpu) return -ENOMEM;
  if (int error = create_statistics(file)) return error;
  Vcpu& v = *file.vcpu;
  if (vm.dirty_ring_entries != 0) {
    void* ring = ::mmap(nullptr, vm.dirty_ring_entries * sizeof(kvm_dirty_gfn), PROT_READ | PROT_WRITE, MAP_SHARED, fd, kDirtyRingOffset);
    if (ring == MAP_FAILED) return -ENOMEM;
    file.ring_pages = ring;
    file.dirty_ring = std::make_unique<DirtyRing>(static_cast<kvm_dirty_gfn*>(ring), vm.dirty_ring_entries);
    v.dirty_ring = file.dirty_ring.get();
  }
  v.vm = vm.vm.get();
  v.run = &file.run();
  v.id = id;
  v.is_bsp = id == vm.boot_cpu_id;
  v.user_apic_base = apic::kDefaultBase | apic::kBaseEnable | (v.is_bsp ? apic::kBaseBsp : 0);
  v.cpuid = &file.cpuid;
  v.physical_bits = file.cpuid.physical_bits;
  run_tsc_at(v, vm.tsc_khz);
  v.msr_exit_reasons = vm.msr_exit_reasons;
  v.disabled_quirks = vm.disabled_quirks;
  v.platform_info_shown = vm.platform_info_shown;
  file.signal.vcpu = &v;
  if (vm.irqchip) {
    file.lapic = vm.irqchip->create_lapic(id, v.is_bsp, file.signal);
    if (!file.lapic) return -EINVAL;
    v.lapic = file.lapic.get();
    v.lapic->leave();
    v.lapic->set_tsc_khz(v.tsc_khz);
    update_lapic_features(file);
  }
  reset_cpu(v);
  reset_fpu(v);
  synchronize_tsc(v, 0);
  v.mp_state = vm.irqchip && !v.is_bsp ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
  v.state_changed();
  return 0;
}

}  // namespace

int VcpuFile::create(const std::shared_ptr<VmFile>& vm, unsigned long id) {
  std::lock_guard lock(vm->mutex);
  const unsigned limit = vm->max_vcpu_ids != 0 ? vm->max_vcpu_ids : kMaxVcpuIds;
  if (id >= limit || vm->vcpus.size() >= kMaxVcpus) return -EINVAL;
  if (vm->vcpu_by_id(static_cast<unsigned>(id)) != nullptr) return -EEXIST;
  auto file = std::make_unique<VcpuFile>(*vm);
  char name[32];
  std::snprintf(name, sizeof name, "kvm-vcpu:%lu", id);
  // The ring lies behind a hole of pages that are never touched.
  const size_t ring = vm->dirty_ring_entries * sizeof(kvm_dirty_gfn);
  int fd = make_descriptor(*file, name, ring != 0 ? kDirtyRingOffset + ring : kVcpuMmapSize);
  if (fd < 0) return fd;
  if (int error = build(*vm, *file, fd, static_cast<unsigned>(id))) {
    if (file->lapic) vm->irqchip->destroy_lapic(std::move(file->lapic));
    ::close(fd);
    return error;
  }
  VcpuFile* made = file.get();
  vm->vcpus.push_back(std::move(file));
  vm->vcpu_count = static_cast<unsigned>(vm->vcpus.size());
  choose_ring(*vm);
  vm->vm->counters->vcpus = vm->vcpus.size();
  {
    std::lock_guard vcpus_lock(vm->vm->vcpus_mutex);
    std::lock_guard code_lock(vm->vm->code->mutex);  // who links jumps looks whether it is the only one
    auto& list = vm->vm->vcpus;
    if (std::ranges::find(list, made->vcpu.get()) == list.end()) list.push_back(made->vcpu.get());
  }
  // Shares the VM's life: a vCPU's descriptor keeps the VM.
  install(fd, std::shared_ptr<File>(vm, made));
  return fd;
}

}  // namespace vireo::softkvm::abi
