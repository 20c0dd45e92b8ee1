// SPDX-License-Identifier: Apache-2.0
// KVM_IRQFD, and the VM's event thread: one epoll loop that reads irqfds, as the kernel consumes them, and runs the timers.
// Spec: Documentation/virt/kvm/api.rst, 4.75.
#pragma once

#include <linux/kvm.h>

#include <memory>

#include "base/result.h"
#include "softkvm/irqchip/routing.h"
#include "softkvm/irqchip/timers.h"

namespace vireo::softkvm {

class Irqfds {
 public:
  // `timer_fd` is served too: its expiry calls timers.run_expired().
  static Result<std::unique_ptr<Irqfds>> create(Router& router, ResampleTable& resamplers, TimerQueue& timers,
                                                int timer_fd);
  ~Irqfds();

  // 0 or -errno. After DEASSIGN the fd's last interrupt has been delivered and none will follow.
  int configure(const kvm_irqfd& request, bool resample_allowed);

 private:
  struct Impl;
  explicit Irqfds(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vireo::softkvm
