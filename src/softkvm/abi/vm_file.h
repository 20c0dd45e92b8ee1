// SPDX-License-Identifier: Apache-2.0
// A VM behind its descriptor: the engine's Vm, its interrupt controllers, its vCPUs, and what user space has switched on.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "softkvm/abi/file.h"
#include "softkvm/abi/stats.h"
#include "softkvm/irqchip/coalesced.h"
#include "softkvm/irqchip/ioeventfd.h"
#include "softkvm/irqchip/irqchip.h"
#include "softkvm/vm.h"

namespace vireo::softkvm::abi {

class VcpuFile;

constexpr unsigned kMaxVcpus = 1024;     // KVM_CAP_MAX_VCPUS
constexpr unsigned kMaxVcpuIds = 4096;   // KVM_CAP_MAX_VCPU_ID
constexpr unsigned kMaxSlots = 32764;    // KVM_CAP_NR_MEMSLOTS
constexpr unsigned kAddressSpaces = 2;   // KVM_CAP_MULTI_ADDRESS_SPACE
constexpr unsigned kMaxRoutes = 4096;    // KVM_CAP_IRQ_ROUTING

enum class IrqchipMode : uint8_t { kNone, kKernel, kSplit };

struct Coalesced {
  CoalescedWrites writes;
  std::mutex mutex;  // of the zones
  std::vector<kvm_coalesced_mmio_zone> list;
  CoalescedZones table;
};

class VmFile final : public File {
 public:
  VmFile();
  ~VmFile() override;

  // A new VM and its descriptor, or -errno.
  static int create();

  bool has_lapics() const { return irqchip_mode.load() != IrqchipMode::kNone; }
  VcpuFile* vcpu_by_id(unsigned id);  // under `mutex`

  std::unique_ptr<Vm> vm;
  std::unique_ptr<Irqchip> irqchip;
  Ioeventfds ioeventfds;
  std::mutex mutex;  // what changes the VM as a whole: devices, vCPUs, capabilities
  std::mutex slots_mutex;  // memory slots and dirty logs; taken alone
  std::atomic<IrqchipMode> irqchip_mode{IrqchipMode::kNone};
  std::vector<std::unique_ptr<VcpuFile>> vcpus;

  unsigned boot_cpu_id = 0;
  unsigned max_vcpu_ids = 0;  // 0: not limited by KVM_CAP_MAX_VCPU_ID
  uint64_t tss_address = 0, identity_map_address = 0xfffbc000;  // used by no code of ours: real mode needs no help
  uint64_t x2apic_api = 0;
  bool manual_dirty_log = false;
  uint32_t dirty_ring_entries = 0;  // of each vCPU; 0: bitmaps
  std::atomic<bool> exception_payload{false}, triple_fault_event{false};
  uint32_t msr_exit_reasons = 0;
  uint32_t disabled_quirks = 0;
  bool platform_info_shown = true;
  uint32_t tsc_khz = 0;  // 0: the host's

  Statistics statistics;

  std::atomic<unsigned> vcpu_count{0};
  Coalesced coalesced;
};

}  // namespace vireo::softkvm::abi
