// SPDX-License-Identifier: Apache-2.0
// How a vCPU's local APIC reaches it: events are posted as flags and the vCPU is kicked. Called from any thread, in FAST code.
#pragma once

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/lapic.h"
#include "softkvm/vm.h"

namespace vireo::softkvm::abi {

class PostedEvents final : public VcpuSignal {
 public:
  void kick() override;
  void request_nmi() override;
  void request_smi() override;
  void request_init() override;
  void request_sipi(uint8_t vector) override;
  void request_ioapic_eoi(uint8_t vector) override;
  uint64_t guest_tsc() const override;

  bool has_ioapic_eoi() const;

  Vcpu* vcpu = nullptr;
  std::atomic<uint64_t> ioapic_eoi[4] = {};  // vectors that KVM_RUN has to report
};

}  // namespace vireo::softkvm::abi
