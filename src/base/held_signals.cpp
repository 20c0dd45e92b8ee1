// SPDX-License-Identifier: Apache-2.0
#include "base/held_signals.h"

#include <pthread.h>

namespace vireo {

std::atomic<bool> HeldSignals::expected_{false};

// Used where handlers call: must not be allocated lazily.
[[gnu::tls_model("initial-exec")]] static thread_local unsigned depth = 0;

void HeldSignals::hold() {
  if (depth == 0) {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&all, fault);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  depth++;
  held_ = true;
}

void HeldSignals::release() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (--depth != 0) return;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace vireo
