// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/apic_bus.h"

#include "softkvm/irqchip/lapic.h"

namespace vireo::softkvm {

bool ApicBus::add(Lapic& lapic) {
  const unsigned index = count_.load();
  if (index >= kMaxVcpus || lapic.id() >= kMaxIds || by_id_[lapic.id()].load() != nullptr) return false;
  by_id_[lapic.id()].store(&lapic, std::memory_order_release);
  lapics_[index].store(&lapic, std::memory_order_release);
  count_.store(index + 1, std::memory_order_release);
  return true;
}

void ApicBus::remove(Lapic& lapic) {
  const unsigned count = count_.load();
  for (unsigned i = 0; i < count; ++i) {
    if (lapics_[i].load() != &lapic) continue;
    for (unsigned j = i; j + 1 < count; ++j) lapics_[j].store(lapics_[j + 1].load());
    lapics_[count - 1].store(nullptr);
    by_id_[lapic.id()].store(nullptr);
    count_.store(count - 1);
    return;
  }
}

int ApicBus::deliver(const ApicMessage& original, const Lapic* source) {
  ApicMessage message = original;
  // Lowest priority to everybody cannot be arbitrated; it is taken as fixed, as KVM does.
  if (message.mode == DeliveryMode::kLowestPriority && !message.logical && message.shorthand == Shorthand::kNone &&
      message.destination == 0xff)
    message.mode = DeliveryMode::kFixed;
  const bool to_one = message.mode == DeliveryMode::kLowestPriority || message.redirection_hint;

  if (message.shorthand == Shorthand::kSelf) {
    Lapic* self = by_id(source->id());
    return self->present() ? self->accept(message.mode, message.vector, message.assert_level, message.level_triggered)
                           : 0;
  }
  if (!to_one && !message.logical && message.shorthand == Shorthand::kNone && message.destination != 0xff &&
      message.destination != 0xffffffff && foreign_ids.load(std::memory_order_relaxed) == 0) {
    Lapic* target = by_id(message.destination);
    if (target == nullptr || !target->present() || !target->matches(message, source)) return 0;
    return target->accept(message.mode, message.vector, message.assert_level, message.level_triggered);
  }

  const unsigned total = count();
  int result = 0;
  unsigned candidates = 0;
  for (unsigned i = 0; i < total; ++i) {
    Lapic* lapic = at(i);
    if (!lapic->present() || !lapic->matches(message, source)) continue;
    if (to_one) {
      if (lapic->software_enabled()) ++candidates;
      continue;
    }
    result += lapic->accept(message.mode, message.vector, message.assert_level, message.level_triggered);
  }
  if (candidates == 0) return result;

  // One of the set, chosen by vector: spreads vectors over CPUs and keeps each on one, as KVM's vector hashing does.
  unsigned chosen = message.vector % candidates;
  for (unsigned i = 0; i < total; ++i) {
    Lapic* lapic = at(i);
    if (!lapic->present() || !lapic->matches(message, source) || !lapic->software_enabled()) continue;
    if (chosen-- == 0) return lapic->accept(message.mode, message.vector, message.assert_level, message.level_triggered);
  }
  return result;
}

void ApicBus::kick_extint() {
  const unsigned total = count();
  for (unsigned i = 0; i < total; ++i) {
    if (!at(i)->takes_extint()) continue;
    at(i)->signal().kick();
    return;
  }
}

void ApicBus::nmi_watchdog() {
  const unsigned total = count();
  for (unsigned i = 0; i < total; ++i) at(i)->nmi_watchdog();
}

}  // namespace vireo::softkvm
