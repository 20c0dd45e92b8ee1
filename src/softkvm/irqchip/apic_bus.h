// SPDX-License-Identifier: Apache-2.0
// What connects local APICs with each other, the IOAPIC, the PIC and MSIs: messages with a destination. Delivery is an
// atomic OR into the target's IRR and a kick; it takes no lock. FAST code.
// Spec: Intel SDM vol 3, 11.6.2 (destinations), 11.11 (MSI).
#pragma once

#include <atomic>
#include <cstdint>

namespace vireo::softkvm {

class Lapic;
class Ioapic;
class Pic;
class Router;

enum class DeliveryMode : uint8_t { kFixed, kLowestPriority, kSmi, kRemoteRead, kNmi, kInit, kStartup, kExtInt };
enum class Shorthand : uint8_t { kNone, kSelf, kAll, kOthers };

struct ApicMessage {
  uint32_t destination = 0;  // 8 bits from xAPIC sources, 32 from x2APIC
  uint8_t vector = 0;
  DeliveryMode mode = DeliveryMode::kFixed;
  Shorthand shorthand = Shorthand::kNone;
  bool logical = false;
  bool level_triggered = false;
  bool assert_level = true;
  bool redirection_hint = false;  // an MSI's: to one of the set, whatever the mode
};

class ApicBus {
 public:
  static constexpr unsigned kMaxVcpus = 1024;  // KVM_CAP_MAX_VCPUS
  static constexpr unsigned kMaxIds = 4096;    // KVM_CAP_MAX_VCPU_ID

  // The number of APICs that took it. `source` is null for messages that are not IPIs.
  int deliver(const ApicMessage& message, const Lapic* source);

  // vCPUs come at any time and stay; one caller at a time.
  bool add(Lapic& lapic);
  void remove(Lapic& lapic);  // only while nothing can send
  unsigned count() const { return count_.load(std::memory_order_acquire); }
  Lapic* at(unsigned index) const { return lapics_[index].load(std::memory_order_acquire); }
  Lapic* by_id(uint32_t id) const { return id < kMaxIds ? by_id_[id].load(std::memory_order_acquire) : nullptr; }

  // The PIC's output rose: whoever has its LINT0 as ExtINT has to look.
  void kick_extint();
  // The PIT ticked: LINT0 lines that are programmed as NMI (the old watchdog's way).
  void nmi_watchdog();

  // KVM_CAP_X2APIC_API.
  std::atomic<bool> ids_are_32bit{false};
  std::atomic<bool> broadcast_quirk_disabled{false};
  // How many APICs have an xAPIC id that is not their own: then the table by id answers nothing.
  std::atomic<unsigned> foreign_ids{0};

  // Absent in a split irqchip.
  Ioapic* ioapic = nullptr;
  Pic* pic = nullptr;
  Router* router = nullptr;

 private:
  std::atomic<unsigned> count_{0};
  std::atomic<Lapic*> lapics_[kMaxVcpus] = {};
  std::atomic<Lapic*> by_id_[kMaxIds] = {};
};

}  // namespace vireo::softkvm
