// SPDX-License-Identifier: Apache-2.0
// A vCPU behind its descriptor: the engine's Vcpu, the pages it shares with user space, and what belongs to the ABI alone.
#pragma once

#include <linux/kvm.h>
#include <signal.h>

#include <memory>
#include <mutex>
#include <optional>

#include "softkvm/abi/file.h"
#include "softkvm/abi/vcpu_signal.h"
#include "softkvm/abi/stats.h"
#include "softkvm/abi/vm_file.h"
#include "softkvm/cpu/cpuid.h"
#include "softkvm/mmu/dirty_ring.h"

namespace vireo::softkvm::abi {

constexpr size_t kVcpuMmapSize = 3 * 4096;  // kvm_run, KVM_PIO_PAGE_OFFSET, KVM_COALESCED_MMIO_PAGE_OFFSET

class VcpuFile final : public File {
 public:
  explicit VcpuFile(VmFile& vm) : File(FileKind::kVcpu), vm(vm) {}
  ~VcpuFile() override;

  // KVM_CREATE_VCPU: a new vCPU and its descriptor, or -errno.
  static int create(const std::shared_ptr<VmFile>& vm, unsigned long id);

  bool has_lapic() const { return vcpu->lapic != nullptr; }
  kvm_run& run() { return *reinterpret_cast<kvm_run*>(pages); }
  kvm_coalesced_mmio_ring& coalesced_ring() {
    return *reinterpret_cast<kvm_coalesced_mmio_ring*>(pages + KVM_COALESCED_MMIO_PAGE_OFFSET * 4096);
  }

  VmFile& vm;
  std::byte* pages = nullptr;
  void* ring_pages = nullptr;
  std::unique_ptr<DirtyRing> dirty_ring;
  std::mutex mutex;  // one ioctl at a time
  std::unique_ptr<Vcpu> vcpu;
  std::unique_ptr<Lapic> lapic;  // with an irqchip
  PostedEvents signal;
  CpuidTable cpuid;
  std::optional<sigset_t> run_mask;  // KVM_SET_SIGNAL_MASK
  bool has_run = false;
  Statistics statistics;
  uint64_t vapic_address = 0;
  bool tpr_access_reporting = false;
};

}  // namespace vireo::softkvm::abi
