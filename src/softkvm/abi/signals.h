// SPDX-License-Identifier: Apache-2.0
// Signals and KVM_RUN. The kernel's KVM_RUN sets the mask of KVM_SET_SIGNAL_MASK for its duration and returns EINTR when a signal is
// pending; a signal that only this mask lets through is still pending afterwards, its handler has not run (callers take it by
// sigtimedwait). In user space the signal has to be taken to be seen: a handler of ours does, and queues it again at the end.
#pragma once

#include <signal.h>

#include <optional>

#include "softkvm/vm.h"

namespace vireo::softkvm::abi {

// For the length of one KVM_RUN: names the thread's vCPU to interrupt_this_thread(), and has the mask in force.
class RunSignals {
 public:
  RunSignals(Vcpu& vcpu, const std::optional<sigset_t>& mask);
  ~RunSignals();
  RunSignals(const RunSignals&) = delete;
  RunSignals& operator=(const RunSignals&) = delete;

 private:
  friend bool keep_signal(int number, siginfo_t* info, void* context);
  friend void take_signal(int number, siginfo_t* info, void* context);

  Vcpu& vcpu_;
  RunSignals* outer_;
  bool masked_;
  sigset_t old_mask_;
  uint64_t only_here_ = 0;  // signals (bit number - 1) that are blocked outside
};

// Around all of a KVM_RUN, before anything is held and until nothing is any more: signals that keep_signal_during_run() is asked about are kept
// from here on, though there may be no vCPU to interrupt yet.
class KeptSignals {
 public:
  KeptSignals();
  ~KeptSignals();
  KeptSignals(const KeptSignals&) = delete;
  KeptSignals& operator=(const KeptSignals&) = delete;
};

// Sends the signals again that were kept during the KVM_RUN that has just ended. Called where nothing is held: a handler may run now, and may
// leave by longjmp.
void resend_kept_signals();

// Lets the signals by which the engine notices faults through on this thread, once.
void unblock_fault_signals();

}  // namespace vireo::softkvm::abi
