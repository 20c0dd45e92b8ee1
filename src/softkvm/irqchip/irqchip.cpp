// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/irqchip.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>

#include "softkvm/irqchip/route_table.h"

namespace vireo::softkvm {

Irqchip::Irqchip(const Config& config, int timer_fd)
    : config_(config),
      timer_fd_(timer_fd),
      timers_(config.clock != nullptr ? *config.clock : host_clock(), timer_fd),
      router_(bus_, resamplers_) {
  bus_.router = &router_;
  if (!config.split) {
    ioapic_ = std::make_unique<Ioapic>(bus_, router_);
    pic_ = std::make_unique<Pic>(bus_, router_);
    bus_.ioapic = ioapic_.get();
    bus_.pic = pic_.get();
  }
  routes_ = std::make_unique<RouteBuilder>(router_, bus_, config.split, config.reserved_pins);
  routes_->set_default();
}

Result<std::unique_ptr<Irqchip>> Irqchip::create(const Config& config) {
  int timer_fd = -1;
  if (config.event_thread) {
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer_fd < 0) return fail_errno("interrupt controllers: timerfd_create");
  }
  std::unique_ptr<Irqchip> chip(new Irqchip(config, timer_fd));
  chip->irqfds_ = TRY(Irqfds::create(chip->router_, chip->resamplers_, chip->timers_, timer_fd));
  return chip;
}

Irqchip::~Irqchip() {
  irqfds_.reset();  // ends the event thread
  if (owned_pit_) timers_.detach(*owned_pit_);
  if (timer_fd_ >= 0) close(timer_fd_);
}

std::unique_ptr<Lapic> Irqchip::create_lapic(uint32_t id, bool bsp, VcpuSignal& signal) {
  auto lapic = std::make_unique<Lapic>(bus_, timers_, signal, id, bsp);
  if (!bus_.add(*lapic)) return nullptr;
  timers_.attach(*lapic);
  return lapic;
}

void Irqchip::destroy_lapic(std::unique_ptr<Lapic> lapic) {
  timers_.detach(*lapic);
  bus_.remove(*lapic);
}

int Irqchip::signal_msi(const kvm_msi& msi) {
  if (msi.flags & ~uint32_t{KVM_MSI_VALID_DEVID}) return -EINVAL;
  return router_.send_msi(msi.address_lo, msi.address_hi, msi.data);
}

int Irqchip::set_gsi_routing(const kvm_irq_routing& header, const kvm_irq_routing_entry* entries) {
  return routes_->set(entries, header.nr, header.flags);
}

int Irqchip::enable_x2apic_api(uint64_t flags) {
  if (flags & ~uint64_t{KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK}) return -EINVAL;
  if (flags & KVM_X2APIC_API_USE_32BIT_IDS) bus_.ids_are_32bit.store(true);
  if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) bus_.broadcast_quirk_disabled.store(true);
  return 0;
}

int Irqchip::get_irqchip(kvm_irqchip& chip) {
  if (config_.split) return -ENXIO;
  switch (chip.chip_id) {
    case KVM_IRQCHIP_PIC_MASTER:
    case KVM_IRQCHIP_PIC_SLAVE: pic_->get_state(chip.chip_id, chip.chip.pic); return 0;
    case KVM_IRQCHIP_IOAPIC: ioapic_->get_state(chip.chip.ioapic); return 0;
    default: return -EINVAL;
  }
}

int Irqchip::set_irqchip(const kvm_irqchip& chip) {
  if (config_.split) return -ENXIO;
  switch (chip.chip_id) {
    case KVM_IRQCHIP_PIC_MASTER:
    case KVM_IRQCHIP_PIC_SLAVE: pic_->set_state(chip.chip_id, chip.chip.pic); return 0;
    case KVM_IRQCHIP_IOAPIC: ioapic_->set_state(chip.chip.ioapic); return 0;
    default: return -EINVAL;
  }
}

int Irqchip::create_pit(uint32_t flags) {
  if (pit_.load() != nullptr) return -EEXIST;
  if (config_.split) return -ENOENT;
  owned_pit_ = std::make_unique<Pit>(timers_, router_, bus_, flags & KVM_PIT_SPEAKER_DUMMY);
  timers_.attach(*owned_pit_);
  router_.set_pit(owned_pit_.get());
  pit_.store(owned_pit_.get());
  return 0;
}

int Irqchip::get_pit2(kvm_pit_state2& state) {
  Pit* pit = pit_.load();
  if (pit == nullptr) return -ENXIO;
  pit->get_state(state);
  return 0;
}

int Irqchip::set_pit2(const kvm_pit_state2& state) {
  Pit* pit = pit_.load();
  if (pit == nullptr) return -ENXIO;
  pit->set_state(state);
  return 0;
}

int Irqchip::reinject_control(const kvm_reinject_control& control) {
  Pit* pit = pit_.load();
  if (pit == nullptr) return -ENXIO;
  pit->set_reinject(control.pit_reinject);
  return 0;
}

int Irqchip::irqfd(const kvm_irqfd& request) { return irqfds_->configure(request, !config_.split); }

}  // namespace vireo::softkvm
