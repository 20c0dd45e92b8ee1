// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/vcpu_signal.h"

#include "softkvm/cpu/system.h"

namespace vireo::softkvm::abi {

void PostedEvents::kick() { vcpu->kick(); }

void PostedEvents::request_nmi() {
  if (vcpu->nmi_request.load() < 2) vcpu->nmi_request.fetch_add(1);
  vcpu->kick();
}

void PostedEvents::request_smi() {
  vcpu->smi_request = true;
  vcpu->kick();
}

void PostedEvents::request_init() {
  vcpu->sipi_pending = false;
  vcpu->init_pending = true;
  vcpu->kick();
}

void PostedEvents::request_sipi(uint8_t vector) {
  vcpu->sipi_vector = vector;
  vcpu->sipi_pending = true;
  vcpu->kick();
}

void PostedEvents::request_ioapic_eoi(uint8_t vector) {
  ioapic_eoi[vector / 64].fetch_or(1ull << vector % 64);
  vcpu->request_exit();
}

uint64_t PostedEvents::guest_tsc() const { return softkvm::guest_tsc(*vcpu); }

bool PostedEvents::has_ioapic_eoi() const {
  return (ioapic_eoi[0] | ioapic_eoi[1] | ioapic_eoi[2] | ioapic_eoi[3]) != 0;
}

}  // namespace vireo::softkvm::abi
