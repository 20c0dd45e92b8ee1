// SPDX-License-Identifier: Apache-2.0
// Doorbells of mapped devices, handed to the hypervisor: a direct call where it is softkvm, an eventfd that the event loop reads where it
// is the kernel. What the hypervisor refuses simply stays an ordinary write.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_loop.h"
#include "base/owned_fd.h"
#include "devices/doorbell.h"
#include "kvm/vm.h"

namespace vireo {

class Doorbells {
 public:
  Doorbells(kvm::Vm& vm, EventLoop& loop) : vm_(vm), loop_(loop) {}
  ~Doorbells();

  // For a region of a device that begins at `start`.
  void attach(uint64_t start, bool pio, const std::vector<Doorbell>& doorbells);
  void detach(uint64_t start, bool pio);

 private:
  struct Bell {
    std::function<void()> ring;
    kvm::DirectDoorbell direct;
    OwnedFd event;
    bool active = false;
  };
  void add(Bell& bell);
  void remove(Bell& bell);

  kvm::Vm& vm_;
  EventLoop& loop_;
  std::mutex mutex_;
  std::map<std::pair<bool, uint64_t>, std::vector<std::unique_ptr<Bell>>> attached_;
};

}  // namespace vireo
