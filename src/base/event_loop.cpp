// SPDX-License-Identifier: Apache-2.0
// epoll for descriptors, one timerfd for the nearest of all timers, one eventfd for posts. Sources: epoll(7),
// timerfd_create(2), eventfd(2).
#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <atomic>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "base/owned_fd.h"

namespace vireo {
namespace {

constexpr uint64_t kWakeId = 0;
constexpr uint64_t kTimerId = 1;
constexpr int kEventsPerRound = 64;
// A posted call may post again for ever; a loop that is asked to leave serves this many rounds of that.
constexpr int kLeaveRounds = 16;

uint64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

struct EventLoop::Impl {
  struct Watch {
    int fd;
    std::function<void(uint32_t)> callback;
  };
  struct TimerState {
    std::function<void()> callback;
    uint64_t deadline = 0;
    bool armed = false;
  };

  OwnedFd epoll, timer_fd, wake_fd;
  mutable std::mutex mutex;  // guards everything below
  std::condition_variable changed;
  std::deque<std::function<void()>> posts;
  bool wake_pending = false;
  bool stopping = false;
  unsigned waiters = 0;
  std::atomic<std::thread::id> owner{};  // the loop's thread, or none; written with the mutex held
  unsigned depth = 0;
  uint64_t next_id = 2;
  std::unordered_map<uint64_t, std::shared_ptr<Watch>> watches;  // by id, so that a reused fd is not mistaken for the old
  std::unordered_map<int, uint64_t> ids;
  std::set<std::pair<uint64_t, std::shared_ptr<TimerState>>> deadlines;

  void wake() {  // mutex held
    if (wake_pending) return;
    wake_pending = true;
    uint64_t one = 1;
    if (::write(wake_fd.get(), &one, sizeof one) != sizeof one) panic("event loop: eventfd: %s", strerror(errno));
  }

  void set_timer() {  // mutex held
    itimerspec spec{};
    if (!deadlines.empty()) {
      uint64_t at = std::max<uint64_t>(deadlines.begin()->first, 1);  // 0 would disarm
      spec.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000);
      spec.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000);
    }
    if (timerfd_settime(timer_fd.get(), TFD_TIMER_ABSTIME, &spec, nullptr) != 0)
      panic("event loop: timerfd_settime: %s", strerror(errno));
  }

  void arm(const std::shared_ptr<TimerState>& state, uint64_t deadline) {
    // The kernel takes seconds in a signed 64-bit; nobody waits for 292 years.
    deadline = std::min<uint64_t>(deadline, INT64_MAX);
    std::lock_guard lock(mutex);
    if (state->armed) deadlines.erase({state->deadline, state});
    state->armed = true;
    state->deadline = deadline;
    auto at = deadlines.insert({deadline, state}).first;
    if (at == deadlines.begin()) set_timer();
  }

  void cancel(const std::shared_ptr<TimerState>& state) {
    std::lock_guard lock(mutex);
    if (!state->armed) return;
    state->armed = false;
    deadlines.erase({state->deadline, state});  // a wake-up for nothing is cheaper than a system call now
  }

  void run_posts(std::unique_lock<std::mutex>& lock) {
    // Those that are there now, one by one: a call that turns the loop finds those behind it, which it may be waiting for.
    for (size_t left = posts.size(); left && !posts.empty(); --left) {
      std::function<void()> call = std::move(posts.front());
      posts.pop_front();
      lock.unlock();
      call();
      call = nullptr;
      lock.lock();
    }
  }

  void run_timers(std::unique_lock<std::mutex>& lock) {
    uint64_t now = monotonic_ns();
    std::vector<std::pair<uint64_t, std::shared_ptr<TimerState>>> due;
    for (auto& entry : deadlines) {
      if (entry.first > now) break;
      due.push_back(entry);
    }
    for (auto& [deadline, state] : due) {
      // A callback before this one may have cancelled it or armed it for later.
      if (!state->armed || state->deadline != deadline) continue;
      state->armed = false;
      deadlines.erase({deadline, state});
      lock.unlock();
      state->callback();
      lock.lock();
    }
    set_timer();
  }

  // Both with the mutex held. Between them the calling thread is the loop's.
  void enter(std::unique_lock<std::mutex>& lock) {
    auto self = std::this_thread::get_id();
    if (owner.load() != self) changed.wait(lock, [&] { return owner.load() == std::thread::id(); });
    owner = self;
    ++depth;
  }
  void leave(std::unique_lock<std::mutex>& lock) {
    if (depth == 1)
      for (int round = 0; !posts.empty() && (round < kLeaveRounds || waiters > 0); ++round) run_posts(lock);
    if (--depth == 0) {
      owner = std::thread::id();
      changed.notify_all();
    }
  }

  void round(std::unique_lock<std::mutex>& lock, int timeout_ms) {
    epoll_event events[kEventsPerRound];
    if (!posts.empty()) timeout_ms = 0;
    lock.unlock();
    int count = epoll_wait(epoll.get(), events, kEventsPerRound, timeout_ms);
    if (count < 0 && errno != EINTR) panic("event loop: epoll_wait: %s", strerror(errno));
    lock.lock();
    for (int i = 0; i < count; ++i) {
      uint64_t id = events[i].data.u64;
      if (id == kWakeId) {
        uint64_t value;
        if (::read(wake_fd.get(), &value, sizeof value) < 0 && errno != EAGAIN)
          panic("event loop: eventfd: %s", strerror(errno));
        wake_pending = false;
      } else if (id == kTimerId) {
        uint64_t value;
        if (::read(timer_fd.get(), &value, sizeof value) < 0 && errno != EAGAIN)
          panic("event loop: timerfd: %s", strerror(errno));
        run_timers(lock);
      } else if (auto found = watches.find(id); found != watches.end()) {
        auto watch = found->second;  // outlives an unwatch() in the callback
        lock.unlock();
        watch->callback(events[i].events);
        watch.reset();
        lock.lock();
      }
    }
    if (!posts.empty()) run_posts(lock);
  }
};

namespace {

template <class Impl, class State>
class LoopTimer final : public Timer {
 public:
  LoopTimer(std::shared_ptr<Impl> impl, std::function<void()> callback)
      : impl_(std::move(impl)), state_(std::make_shared<State>()) {
    state_->callback = std::move(callback);
  }
  ~LoopTimer() override { impl_->cancel(state_); }
  void arm(uint64_t deadline_ns) override { impl_->arm(state_, deadline_ns); }
  void cancel() override { impl_->cancel(state_); }

 private:
  std::shared_ptr<Impl> impl_;
  std::shared_ptr<State> state_;
};

}  // namespace

EventLoop::EventLoop(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  auto impl = std::make_shared<Impl>();
  impl->epoll = OwnedFd(epoll_create1(EPOLL_CLOEXEC));
  if (!impl->epoll.valid()) return fail_errno("event loop: epoll_create1");
  impl->timer_fd = OwnedFd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!impl->timer_fd.valid()) return fail_errno("event loop: timerfd_create");
  impl->wake_fd = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake_fd.valid()) return fail_errno("event loop: eventfd");
  auto add = [&](const OwnedFd& fd, uint64_t id) {
    epoll_event event{.events = EPOLLIN, .data = {.u64 = id}};
    return epoll_ctl(impl->epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0;
  };
  if (!add(impl->timer_fd, kTimerId) || !add(impl->wake_fd, kWakeId)) return fail_errno("event loop: epoll_ctl");
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
}

uint64_t EventLoop::now_ns() const { return monotonic_ns(); }

std::unique_ptr<Timer> EventLoop::create(std::function<void()> callback) {
  return std::make_unique<LoopTimer<Impl, Impl::TimerState>>(impl_, std::move(callback));
}

Result<> EventLoop::watch(int fd, uint32_t events, std::function<void(uint32_t)> callback) {
  std::lock_guard lock(impl_->mutex);
  uint64_t id = impl_->next_id++;
  epoll_event event{.events = events, .data = {.u64 = id}};
  if (epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("event loop: cannot watch a descriptor");
  if (auto stale = impl_->ids.find(fd); stale != impl_->ids.end()) impl_->watches.erase(stale->second);
  impl_->ids[fd] = id;
  impl_->watches[id] = std::make_shared<Impl::Watch>(fd, std::move(callback));
  return {};
}

void EventLoop::change(int fd, uint32_t events) {
  std::lock_guard lock(impl_->mutex);
  auto found = impl_->ids.find(fd);
  if (found == impl_->ids.end()) return;
  epoll_event event{.events = events, .data = {.u64 = found->second}};
  epoll_ctl(impl_->epoll.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::unwatch(int fd) {
  std::shared_ptr<Impl::Watch> dropped;  // its captures are destroyed after the lock is released
  std::lock_guard lock(impl_->mutex);
  auto found = impl_->ids.find(fd);
  if (found == impl_->ids.end()) return;
  epoll_ctl(impl_->epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
  auto watch = impl_->watches.find(found->second);
  dropped = std::move(watch->second);
  impl_->watches.erase(watch);
  impl_->ids.erase(found);
}

void EventLoop::post(std::function<void()> call) {
  std::lock_guard lock(impl_->mutex);
  impl_->posts.push_back(std::move(call));
  // On its own thread the loop looks at the posts before it sleeps.
  if (!on_loop_thread()) impl_->wake();
}

void EventLoop::call(const std::function<void()>& call) {
  std::unique_lock lock(impl_->mutex);
  auto self = std::this_thread::get_id();
  if (impl_->owner.load() == self) {
    lock.unlock();
    call();
    return;
  }
  bool done = false;
  impl_->posts.push_back([&] {
    call();
    std::lock_guard inner(impl_->mutex);
    done = true;
    impl_->changed.notify_all();
  });
  ++impl_->waiters;
  impl_->wake();
  while (!done) {
    if (impl_->owner.load() == std::thread::id()) {
      impl_->enter(lock);
      impl_->run_posts(lock);
      impl_->leave(lock);
    } else {
      impl_->changed.wait(lock);
    }
  }
  --impl_->waiters;
}

bool EventLoop::on_loop_thread() const { return impl_->owner.load() == std::this_thread::get_id(); }

void EventLoop::run() {
  std::unique_lock lock(impl_->mutex);
  impl_->enter(lock);
  while (!impl_->stopping) impl_->round(lock, -1);
  impl_->stopping = false;
  impl_->leave(lock);
}

void EventLoop::stop() {
  std::lock_guard lock(impl_->mutex);
  impl_->stopping = true;
  impl_->wake();
}

void EventLoop::step(int timeout_ms) {
  std::unique_lock lock(impl_->mutex);
  impl_->enter(lock);
  impl_->round(lock, timeout_ms);
  impl_->leave(lock);
}

}  // namespace vireo
