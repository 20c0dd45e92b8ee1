// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/signals.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "base/held_signals.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/softkvm.h"
#include "softkvm/translate/host_faults.h"

namespace vireo::softkvm {
namespace abi {

bool keep_signal(int number, siginfo_t* info, void* context);
void take_signal(int number, siginfo_t* info, void* context);

namespace {

// Read by signal handlers: must not be allocated lazily.
[[gnu::tls_model("initial-exec")]] thread_local RunSignals* running = nullptr;
[[gnu::tls_model("initial-exec")]] thread_local Vcpu* running_vcpu = nullptr;
[[gnu::tls_model("initial-exec")]] thread_local unsigned keeping = 0;

// The threads that have run a vCPU, for who wants one out of its KVM_RUN without a signal.
struct Runner {
  const pthread_t thread = ::pthread_self();
  std::mutex mutex;
  Vcpu* vcpu = nullptr;
  bool interrupted = false;  // before there was a vCPU to interrupt

  Runner();
  ~Runner();
  void set(Vcpu* running) {
    std::lock_guard lock(mutex);
    vcpu = running;
    if (vcpu != nullptr && std::exchange(interrupted, false)) vcpu->request_exit();
  }
};
struct Runners {
  std::mutex mutex;
  std::vector<Runner*> all;
};
Runners& runners() {
  static auto* instance = new Runners;  // threads may outlive the program's end
  return *instance;
}
Runner::Runner() {
  std::lock_guard lock(runners().mutex);
  runners().all.push_back(this);
}
Runner::~Runner() {
  std::lock_guard lock(runners().mutex);
  std::erase(runners().all, this);
}
Runner& this_runner() {
  static thread_local Runner runner;
  return runner;
}

constexpr int kSignals = 64;
// What handlers have kept for after the KVM_RUN, at most one of each number: it is blocked from then on.
struct Kept {
  unsigned count;
  uint64_t unblock;         // blocked by the keeping only
  uint64_t sent_again;      // `info` is what the handler of a signal sent again is to see
  siginfo_t info[kSignals + 1];
  uint8_t numbers[kSignals];
};
[[gnu::tls_model("initial-exec")]] thread_local Kept kept;
struct sigaction previous[kSignals + 1];  // the caller's own dispositions of signals that we handle
std::mutex previous_mutex;

bool is_fault(int number) {
  return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP || number == SIGSYS;
}

bool in_set(const sigset_t& set, int number) { return sigismember(&set, number) == 1; }

void hook(int number) {
  struct sigaction ours = {}, old;
  ours.sa_sigaction = take_signal;
  ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  std::lock_guard lock(previous_mutex);
  if (::sigaction(number, nullptr, &old) != 0) return;
  if ((old.sa_flags & SA_SIGINFO) && old.sa_sigaction == take_signal) return;
  previous[number] = old;
  ::sigaction(number, &ours, nullptr);
}

// The signal was not for a KVM_RUN: what would have happened without us.
void pass_on(int number, siginfo_t* info, void* context) {
  const struct sigaction& action = previous[number];
  if (action.sa_flags & SA_SIGINFO) {
    action.sa_sigaction(number, info, context);
  } else if (action.sa_handler == SIG_DFL) {
    if (number == SIGCHLD || number == SIGURG || number == SIGWINCH || number == SIGCONT) return;
    ::signal(number, SIG_DFL);
    ::raise(number);  // blocked while its handler runs: takes effect on return
  } else if (action.sa_handler != SIG_IGN) {
    action.sa_handler(number);
  }
}

}  // namespace

KeptSignals::KeptSignals() {
  keeping++;
  std::atomic_signal_fence(std::memory_order_seq_cst);
}
KeptSignals::~KeptSignals() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  keeping--;
}

// Without a KVM_RUN on this thread: false.
bool keep_signal(int number, siginfo_t* info, void* context) {
  RunSignals* run = running;
  if ((run == nullptr && keeping == 0) || kept.count == kSignals) return false;
  kept.info[number] = *info;
  kept.numbers[kept.count++] = static_cast<uint8_t>(number);
  if (run == nullptr || !(run->only_here_ >> (number - 1) & 1)) kept.unblock |= 1ull << (number - 1);
  sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, number);  // the next one stays pending by itself
  if (run != nullptr) run->vcpu_.request_exit();
  return true;
}

void take_signal(int number, siginfo_t* info, void* context) {
  int saved_errno = errno;
  RunSignals* run = running;
  const bool only_here = run != nullptr && (run->only_here_ >> (number - 1) & 1);
  if (!only_here || !keep_signal(number, info, context)) pass_on(number, info, context);
  errno = saved_errno;
}

RunSignals::RunSignals(Vcpu& vcpu, const std::optional<sigset_t>& mask)
    : vcpu_(vcpu), outer_(running), masked_(mask.has_value()) {
  running_vcpu = &vcpu;
  running = this;
  this_runner().set(&vcpu);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (kept.count != 0) vcpu.request_exit();  // before there was one to ask
  if (!masked_) return;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &old_mask_);
  sigset_t during = *mask;
  for (int number = 1; number <= kSignals; number++) {
    if (is_fault(number)) {
      sigdelset(&during, number);
    } else if (kept.unblock >> (number - 1) & 1) {
      sigaddset(&during, number);  // that it is blocked is our doing: one was kept since KVM_RUN was entered
    } else if (in_set(old_mask_, number) && !in_set(during, number)) {
      hook(number);
      only_here_ |= 1ull << (number - 1);
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &during, nullptr);
}

RunSignals::~RunSignals() {
  if (masked_) ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  running = outer_;
  this_runner().set(outer_ != nullptr ? &outer_->vcpu_ : nullptr);
  running_vcpu = outer_ != nullptr ? &outer_->vcpu_ : nullptr;
}

void resend_kept_signals() {
  if (kept.count == 0) return;
  const uint64_t unblock = kept.unblock;
  const unsigned count = kept.count;
  uint8_t numbers[kSignals];
  std::memcpy(numbers, kept.numbers, count);
  kept.count = 0, kept.unblock = 0;
  for (unsigned i = 0; i < count; i++) {
    const int number = numbers[i];
    // The kernel lets only a process's first thread queue a siginfo of a kind that is not SI_QUEUE, even to itself.
    if (::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::gettid(), number, &kept.info[number]) == 0) continue;
    kept.sent_again |= 1ull << (number - 1);
    ::syscall(SYS_tgkill, ::getpid(), ::gettid(), number);
  }
  if (unblock == 0) return;
  sigset_t set;
  sigemptyset(&set);
  std::memcpy(&set, &unblock, sizeof unblock);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void unblock_fault_signals() {
  static thread_local bool done = false;
  if (done) return;
  sigset_t faults;
  sigemptyset(&faults);
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigaddset(&faults, number);
  ::pthread_sigmask(SIG_UNBLOCK, &faults, nullptr);
  done = true;
}

int set_signal_mask(VcpuFile& file, uintptr_t argument) {
  if (argument == 0) {
    file.run_mask.reset();
    return 0;
  }
  kvm_signal_mask header;
  if (!copy_in(&header, argument, sizeof header)) return -EFAULT;
  uint64_t bits;  // the kernel's sigset_t
  if (header.len != sizeof bits) return -EINVAL;
  if (!copy_in(bits, argument + sizeof header)) return -EFAULT;
  sigset_t set;
  sigemptyset(&set);
  std::memcpy(&set, &bits, sizeof bits);
  sigdelset(&set, SIGKILL);
  sigdelset(&set, SIGSTOP);
  file.run_mask = set;
  return 0;
}

}  // namespace abi

bool keep_signal_during_run(int number, siginfo_t* info, void* context) {
  if (abi::kept.sent_again >> (number - 1) & 1 && info->si_code == SI_TKILL) {
    abi::kept.sent_again &= ~(1ull << (number - 1));
    *info = abi::kept.info[number];
  }
  return abi::keep_signal(number, info, context);
}

bool is_our_signal_handler(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) && (action.sa_sigaction == abi::take_signal || is_host_fault_handler(action));
}

void interrupt_thread(pthread_t thread) {
  HeldSignals held;
  std::lock_guard lock(abi::runners().mutex);
  for (abi::Runner* runner : abi::runners().all) {
    if (!::pthread_equal(runner->thread, thread)) continue;
    std::lock_guard runner_lock(runner->mutex);
    if (runner->vcpu != nullptr) runner->vcpu->request_exit();
    else runner->interrupted = true;
  }
}

void interrupt_this_thread() {
  if (Vcpu* vcpu = abi::running_vcpu) vcpu->request_exit();
}

}  // namespace vireo::softkvm
