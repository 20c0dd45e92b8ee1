// SPDX-License-Identifier: Apache-2.0
#include "softkvm/irqchip/irqfd.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <thread>
#include <vector>

#include "softkvm/irqchip/eventfd.h"

namespace vireo::softkvm {

struct Irqfds::Impl {
  struct Irqfd {
    Eventfd event;
    Eventfd resample;  // none: edge
    uint32_t gsi;
  };
  struct Storage {
    ResampleList list;
    std::vector<ResampleList::Entry> entries;
  };

  Router& router;
  ResampleTable& resamplers;
  TimerQueue& timers;
  const int timer_fd;
  OwnedFd epoll;
  OwnedFd stop;
  std::mutex mutex;  // held while an irqfd is served, so that whoever removes one waits for it
  std::vector<std::unique_ptr<Irqfd>> irqfds;
  std::unique_ptr<Storage> storage;
  std::thread thread;

  Impl(Router& r, ResampleTable& s, TimerQueue& t, int fd) : router(r), resamplers(s), timers(t), timer_fd(fd) {}

  void raise(const Irqfd& irqfd) {
    if (irqfd.resample.fd.valid()) {
      router.set_irq(IrqSource::kResample, irqfd.gsi, true);
    } else {
      router.set_irq(IrqSource::kUser, irqfd.gsi, true);
      router.set_irq(IrqSource::kUser, irqfd.gsi, false);
    }
  }

  void serve(uint64_t id) {
    std::lock_guard guard(mutex);
    for (const auto& irqfd : irqfds) {
      if (irqfd->event.id != id) continue;
      if (consume_eventfd(irqfd->event.fd.get())) raise(*irqfd);
      return;
    }
  }

  void publish_resamplers() {
    auto next = std::make_unique<Storage>();
    for (const auto& irqfd : irqfds)
      if (irqfd->resample.fd.valid()) next->entries.push_back({irqfd->gsi, irqfd->resample.fd.get()});
    next->list.count = static_cast<uint32_t>(next->entries.size());
    next->list.entries = next->entries.data();
    resamplers.list().replace(next->entries.empty() ? nullptr : &next->list);
    storage = std::move(next);
  }

  bool watch(int fd, uint64_t id) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = id;
    return epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0;
  }

  void run();
};

namespace {
// Ids of eventfds are small; these cannot be theirs.
constexpr uint64_t kStopId = ~0ull, kTimerId = ~0ull - 1;
}  // namespace

void Irqfds::Impl::run() {
  pthread_setname_np(pthread_self(), "softkvm-events");
  epoll_event events[32];
  for (;;) {
    const int count = epoll_wait(epoll.get(), events, 32, -1);
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[i].data.u64;
      if (id == kStopId) return;
      if (id == kTimerId) {
        uint64_t expirations;
        if (read(timer_fd, &expirations, sizeof expirations) > 0) timers.run_expired();
      } else {
        serve(id);
      }
    }
  }
}

Irqfds::Irqfds(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Irqfds>> Irqfds::create(Router& router, ResampleTable& resamplers, TimerQueue& timers,
                                               int timer_fd) {
  auto impl = std::make_unique<Impl>(router, resamplers, timers, timer_fd);
  impl->epoll.reset(epoll_create1(EPOLL_CLOEXEC));
  impl->stop.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->epoll.valid() || !impl->stop.valid()) return fail_errno("interrupt event thread");
  if (!impl->watch(impl->stop.get(), kStopId) || (timer_fd >= 0 && !impl->watch(timer_fd, kTimerId)))
    return fail_errno("interrupt event thread: epoll_ctl");
  // The caller's signals are the caller's: none is to be handled on this thread.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &old);
  impl->thread = std::thread([raw = impl.get()] { raw->run(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return std::unique_ptr<Irqfds>(new Irqfds(std::move(impl)));
}

Irqfds::~Irqfds() {
  signal_eventfd(impl_->stop.get());
  impl_->thread.join();
  impl_->resamplers.list().replace(nullptr);
}

int Irqfds::configure(const kvm_irqfd& request, bool resample_allowed) {
  if (request.flags & ~uint32_t{KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE}) return -EINVAL;
  Impl& impl = *impl_;

  if (request.flags & KVM_IRQFD_FLAG_DEASSIGN) {
    uint64_t id;
    if (int error = identify_eventfd(static_cast<int>(request.fd), id); error != 0) return error;
    std::lock_guard guard(impl.mutex);
    std::vector<std::unique_ptr<Impl::Irqfd>> gone;
    for (auto at = impl.irqfds.begin(); at != impl.irqfds.end();) {
      if ((*at)->event.id != id || (*at)->gsi != request.gsi) {
        ++at;
        continue;
      }
      epoll_ctl(impl.epoll.get(), EPOLL_CTL_DEL, (*at)->event.fd.get(), nullptr);
      gone.push_back(std::move(*at));
      at = impl.irqfds.erase(at);
    }
    impl.publish_resamplers();
    for (const auto& irqfd : gone) {
      // The line falls with the last resampled irqfd of a GSI.
      const bool last = std::none_of(impl.irqfds.begin(), impl.irqfds.end(), [&](const auto& other) {
        return other->gsi == irqfd->gsi && other->resample.fd.valid();
      });
      if (irqfd->resample.fd.valid() && last) impl.router.set_irq(IrqSource::kResample, irqfd->gsi, false);
    }
    return 0;
  }

  const bool resample = request.flags & KVM_IRQFD_FLAG_RESAMPLE;
  if (resample && !resample_allowed) return -EINVAL;
  auto irqfd = std::make_unique<Impl::Irqfd>();
  irqfd->gsi = request.gsi;
  if (int error = hold_eventfd(static_cast<int>(request.fd), irqfd->event); error != 0) return error;
  if (resample)
    if (int error = hold_eventfd(static_cast<int>(request.resamplefd), irqfd->resample); error != 0) return error;

  std::lock_guard guard(impl.mutex);
  for (const auto& other : impl.irqfds)
    if (other->event.id == irqfd->event.id) return -EBUSY;
  if (!impl.watch(irqfd->event.fd.get(), irqfd->event.id)) return -errno;
  impl.irqfds.push_back(std::move(irqfd));
  if (resample) impl.publish_resamplers();
  return 0;
}

}  // namespace vireo::softkvm
