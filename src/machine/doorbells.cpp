// SPDX-License-Identifier: Apache-2.0
#include "machine/doorbells.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace vireo {

// Devices may be gone by now: what was rung meanwhile is nobody's.
Doorbells::~Doorbells() {
  std::lock_guard lock(mutex_);
  for (auto& [where, bells] : attached_)
    for (auto& bell : bells) remove(*bell);
}

void Doorbells::add(Bell& bell) {
  kvm::DirectDoorbell& d = bell.direct;
  if (vm_.has_direct_doorbells()) {
    d.call = [](void* context) { static_cast<Bell*>(context)->ring(); };
    d.context = &bell;
    bell.active = vm_.doorbell(d, false).has_value();
    return;
  }
  bell.event.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell.event.valid()) return;
  auto watch = loop_.watch(bell.event.get(), EPOLLIN, [&bell](uint32_t) {
    uint64_t count;
    if (::read(bell.event.get(), &count, sizeof count) == sizeof count) bell.ring();
  });
  if (!watch) return;
  bell.active = vm_.ioeventfd(bell.event.get(), d.address, d.size, d.pio, d.match, d.value, false).has_value();
  if (!bell.active) loop_.unwatch(bell.event.get());
}

void Doorbells::remove(Bell& bell) {
  if (!bell.active) return;
  bell.active = false;
  kvm::DirectDoorbell& d = bell.direct;
  if (vm_.has_direct_doorbells()) {
    (void)vm_.doorbell(d, true);
  } else {
    (void)vm_.ioeventfd(bell.event.get(), d.address, d.size, d.pio, d.match, d.value, true);
    loop_.unwatch(bell.event.get());
  }
}

void Doorbells::attach(uint64_t start, bool pio, const std::vector<Doorbell>& doorbells) {
  std::lock_guard lock(mutex_);
  auto& bells = attached_[{pio, start}];
  for (const Doorbell& doorbell : doorbells) {
    auto bell = std::make_unique<Bell>();
    bell->ring = doorbell.ring;
    bell->direct = {.address = start + doorbell.offset, .size = doorbell.size, .pio = pio, .match = doorbell.match, .value = doorbell.value};
    add(*bell);
    bells.push_back(std::move(bell));
  }
}

void Doorbells::detach(uint64_t start, bool pio) {
  std::lock_guard lock(mutex_);
  auto found = attached_.find({pio, start});
  if (found == attached_.end()) return;
  const auto bells = std::make_shared<std::vector<std::unique_ptr<Bell>>>(std::move(found->second));
  attached_.erase(found);
  for (auto& bell : *bells) {
    remove(*bell);
    // A ring that came before the removal must not be lost.
    uint64_t count;
    if (bell->event.valid() && ::read(bell->event.get(), &count, sizeof count) == sizeof count) bell->ring();
  }
  // A direct one nobody is in once it is removed. A watched one's callback may be running: the loop frees it behind that.
  loop_.post([bells] {});
}

}  // namespace vireo
