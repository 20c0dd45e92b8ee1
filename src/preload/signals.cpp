// SPDX-License-Identifier: Apache-2.0
// The program's signal handlers. Each is put behind one of ours, because softkvm has to see signals in two ways. A handler that would interrupt
// the kernel's KVM_RUN runs after it; here the signal comes in the middle of guest code, is kept, and is sent again when KVM_RUN has returned
// EINTR: so handlers see neither the guest's registers nor softkvm's GS base, and may leave by longjmp. And faults of guest code are softkvm's:
// its own handlers stay in place and hand on what is not theirs. Spec: sigaction(2), KVM_SET_SIGNAL_MASK in Documentation/virt/kvm/api.rst.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "preload/next.h"
#include "preload/state.h"
#include "softkvm/softkvm.h"

namespace softkvm = vireo::softkvm;
using SigactionCall = int(int, const struct sigaction*, struct sigaction*);

namespace {

constexpr int kSignals = 64;
constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

// What the program has asked for; in force where our handler, or softkvm's, is installed. Read by handlers: a change makes the version odd.
struct Wish {
  std::atomic<unsigned> version{0};
  struct sigaction action = {};
};
Wish wishes[kSignals + 1];
std::atomic_flag wishes_lock = ATOMIC_FLAG_INIT;

class Locked {
 public:
  Locked() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : kFaults) sigdelset(&all, fault);
    VIREO_NEXT_AS("pthread_sigmask", int(int, const sigset_t*, sigset_t*))(SIG_BLOCK, &all, &old_);
    while (wishes_lock.test_and_set(std::memory_order_acquire)) __builtin_ia32_pause();
  }
  ~Locked() {
    wishes_lock.clear(std::memory_order_release);
    VIREO_NEXT_AS("pthread_sigmask", int(int, const sigset_t*, sigset_t*))(SIG_SETMASK, &old_, nullptr);
  }

 private:
  sigset_t old_;
};

struct sigaction wish_of(int number) {
  struct sigaction action;
  unsigned before;
  do {
    before = wishes[number].version.load(std::memory_order_acquire);
    std::memcpy(&action, &wishes[number].action, sizeof action);
    std::atomic_thread_fence(std::memory_order_acquire);
  } while ((before & 1) || wishes[number].version.load(std::memory_order_relaxed) != before);
  return action;
}

void set_wish(int number, const struct sigaction& action) {
  wishes[number].version.fetch_add(1);
  std::memcpy(&wishes[number].action, &action, sizeof action);
  wishes[number].version.fetch_add(1);
}

bool is_fault(int number) { return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL; }
int libc_sigaction(int number, const struct sigaction* action, struct sigaction* old) {
  return VIREO_NEXT_AS("sigaction", SigactionCall)(number, action, old);
}

// No call of ours goes on around a handler of the program's, but for KVM_RUN's end, which it may leave by longjmp.
void run(const struct sigaction& action, int number, siginfo_t* info, void* context) {
  const unsigned within = std::exchange(vireo::preload::within, 0);
  if (action.sa_flags & SA_SIGINFO) action.sa_sigaction(number, info, context);
  else action.sa_handler(number);
  vireo::preload::within = within;
}

bool has_handler(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

// What the kernel does when nobody handles: a fault comes again and ends the process; one that was sent is sent again.
void by_default(int number, const siginfo_t* info) {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  libc_sigaction(number, &action, nullptr);
  if (info->si_code <= 0) ::raise(number);
}

void fault(int number, siginfo_t* info, void* context) {
  const struct sigaction action = wish_of(number);
  if (!has_handler(action)) {
    if (action.sa_handler == SIG_IGN && info->si_code <= 0) return;
    return by_default(number, info);
  }
  if (action.sa_flags & SA_RESETHAND) {
    struct sigaction reset = {};
    set_wish(number, reset);
  }
  // softkvm's handler runs with its own mask.
  sigset_t during = action.sa_mask, old;
  if (!(action.sa_flags & SA_NODEFER)) sigaddset(&during, number);
  for (int other : kFaults) sigdelset(&during, other);
  VIREO_NEXT_AS("pthread_sigmask", int(int, const sigset_t*, sigset_t*))(SIG_BLOCK, &during, &old);
  run(action, number, info, context);
  VIREO_NEXT_AS("pthread_sigmask", int(int, const sigset_t*, sigset_t*))(SIG_SETMASK, &old, nullptr);
}

void handler(int number, siginfo_t* info, void* context) {
  if (is_fault(number) && vireo::preload::used()) return fault(number, info, context);
  const struct sigaction action = wish_of(number);
  const int saved = errno;
  const bool kept = softkvm::keep_signal_during_run(number, info, context);
  errno = saved;
  if (kept) {
    // The kernel has reset it already, but it comes again.
    if (action.sa_flags & SA_RESETHAND) {
      struct sigaction ours = action;
      ours.sa_sigaction = handler;
      ours.sa_flags |= SA_SIGINFO;
      libc_sigaction(number, &ours, nullptr);
    }
    return;
  }
  if (has_handler(action)) run(action, number, info, context);
}

bool is_ours(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) && (action.sa_sigaction == handler || softkvm::is_our_signal_handler(action));
}

// Those of siginterrupt() (signal number - 1): signal() installs their handlers without SA_RESTART.
std::atomic<uint64_t> interrupting{0};
int restart_of(int number) { return number >= 1 && number <= kSignals && (interrupting.load() >> (number - 1) & 1) ? 0 : SA_RESTART; }

// A child of vfork has its parent's memory and thus wishes, but handlers of its own.
pid_t owner = ::getpid();
// The child of a fork has no other thread that could finish what it was changing.
const int child_goes_on = ::pthread_atfork(nullptr, nullptr, [] {
  owner = ::getpid();
  for (Wish& wish : wishes)
    if (wish.version.load() & 1) wish.version.fetch_add(1);
  wishes_lock.clear(std::memory_order_release);
});

// Under the lock.
int change(int number, const struct sigaction* action, struct sigaction* old) {
  struct sigaction now;
  if (int error = libc_sigaction(number, nullptr, &now)) return error;
  const struct sigaction wished = wish_of(number);
  const bool ours = is_ours(now);
  if (action != nullptr) {
    if (is_fault(number) && ours && vireo::preload::used()) {
      set_wish(number, *action);
    } else if (!has_handler(*action)) {
      if (int error = libc_sigaction(number, action, nullptr)) return error;
      set_wish(number, *action);
    } else {
      struct sigaction wrapped = *action;
      wrapped.sa_sigaction = handler;
      wrapped.sa_flags |= SA_SIGINFO;
      set_wish(number, *action);
      if (int error = libc_sigaction(number, &wrapped, nullptr)) {
        set_wish(number, wished);
        return error;
      }
    }
  }
  if (old != nullptr) *old = ours ? wished : now;
  return 0;
}

sighandler_t change_simply(int number, sighandler_t wanted, int flags) {
  struct sigaction action = {}, old = {};
  action.sa_handler = wanted;
  action.sa_flags = flags;
  if (wanted == SIG_ERR) {
    errno = EINVAL;
    return SIG_ERR;
  }
  if (!(flags & SA_NODEFER)) sigaddset(&action.sa_mask, number);
  return ::sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

using MaskCall = int(int, const sigset_t*, sigset_t*);

// Faults of guest code come whatever the program blocks: a blocked one would end the process.
int mask(MaskCall* next, int how, const sigset_t* set, sigset_t* old) {
  if (set == nullptr || how == SIG_UNBLOCK || !vireo::preload::used()) return next(how, set, old);
  sigset_t allowed = *set;
  for (int number : kFaults) sigdelset(&allowed, number);
  return next(how, &allowed, old);
}

}  // namespace

namespace vireo::preload {

void take_over_signals() {
  Locked lock;
  for (int number : kFaults) {
    struct sigaction now, wrapped = {};
    if (libc_sigaction(number, nullptr, &now) != 0) continue;
    if (!is_ours(now)) set_wish(number, now);
    wrapped.sa_sigaction = handler;
    wrapped.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    libc_sigaction(number, &wrapped, nullptr);
  }
}

}  // namespace vireo::preload

VIREO_EXPORT int sigaction(int number, const struct sigaction* action, struct sigaction* old) noexcept {
  if (number < 1 || number > kSignals || ::getpid() != owner) return libc_sigaction(number, action, old);
  struct sigaction copy, result;
  if (action != nullptr) copy = *action;
  int error;
  {
    Locked lock;
    error = change(number, action != nullptr ? &copy : nullptr, &result);
  }
  if (error == 0 && old != nullptr) *old = result;
  return error;
}
VIREO_EXPORT int __sigaction(int number, const struct sigaction* action, struct sigaction* old) noexcept { return ::sigaction(number, action, old); }
VIREO_EXPORT sighandler_t signal(int number, sighandler_t wanted) noexcept { return change_simply(number, wanted, restart_of(number)); }
VIREO_EXPORT sighandler_t bsd_signal(int number, sighandler_t wanted) noexcept { return ::signal(number, wanted); }
VIREO_EXPORT sighandler_t ssignal(int number, sighandler_t wanted) noexcept { return ::signal(number, wanted); }
VIREO_EXPORT sighandler_t sysv_signal(int number, sighandler_t wanted) noexcept {
  return change_simply(number, wanted, static_cast<int>(SA_RESETHAND) | SA_NODEFER);
}
VIREO_EXPORT sighandler_t __sysv_signal(int number, sighandler_t wanted) noexcept {
  return change_simply(number, wanted, static_cast<int>(SA_RESETHAND) | SA_NODEFER);
}

VIREO_EXPORT int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  return mask(VIREO_NEXT_AS("pthread_sigmask", MaskCall), how, set, old);
}
VIREO_EXPORT int sigprocmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  return mask(VIREO_NEXT_AS("sigprocmask", MaskCall), how, set, old);
}

VIREO_EXPORT int siginterrupt(int number, int interrupt) noexcept {
  struct sigaction action;
  if (::sigaction(number, nullptr, &action) != 0) return -1;
  const uint64_t bit = 1ull << (number - 1);
  if (interrupt != 0) {
    interrupting.fetch_or(bit);
    action.sa_flags &= ~SA_RESTART;
  } else {
    interrupting.fetch_and(~bit);
    action.sa_flags |= SA_RESTART;
  }
  return ::sigaction(number, &action, nullptr);
}

// System V's, which libc makes of its own sigaction and sigprocmask.
VIREO_EXPORT int sighold(int number) noexcept {
  sigset_t one;
  sigemptyset(&one);
  return sigaddset(&one, number) == 0 ? ::sigprocmask(SIG_BLOCK, &one, nullptr) : -1;
}
VIREO_EXPORT int sigignore(int number) noexcept {
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  return ::sigaction(number, &action, nullptr);
}
VIREO_EXPORT sighandler_t sigset(int number, sighandler_t wanted) noexcept {
  struct sigaction action = {}, old;
  sigset_t one, before;
  sigemptyset(&one);
  if (wanted == SIG_ERR || sigaddset(&one, number) != 0) {
    errno = EINVAL;
    return SIG_ERR;
  }
  action.sa_handler = wanted;
  const bool hold = wanted == SIG_HOLD;
  if (::sigaction(number, hold ? nullptr : &action, &old) != 0) return SIG_ERR;
  if (::sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &one, &before) != 0) return SIG_ERR;
  return sigismember(&before, number) == 1 ? SIG_HOLD : old.sa_handler;
}
