// SPDX-License-Identifier: Apache-2.0
// A host process that runs guest user code and nothing else. It is traced by the thread that made it, which is the only one that may call what
// is here; system calls of the code it runs are seen and never done (PTRACE_SYSEMU), those on its list are done before the guest's code goes on.
// It dies with its tracer. Spec: ptrace(2), seccomp(2).
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <memory>
#include <span>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::softkvm {

class StubProcess {
 public:
  // `files` are what the guest's pages are mapped from: the n-th is file_of(n) in the process. `time_stamps`: RDTSC
  // does not fault in it. Fails where the host forbids ptrace or pidfds.
  static Result<std::unique_ptr<StubProcess>> create(std::span<const int> files, bool time_stamps);
  ~StubProcess();

  static constexpr unsigned kMostFiles = 16;
  static int file_of(unsigned n);

  // Pages that are like the guest's but for some bytes: a file of its own, mapped in the process from own_file() at own_offset(n). Written by the
  // monitor through own_page(n).
  static constexpr unsigned kOwnPages = 16;
  static int own_file();
  static uint64_t own_offset(unsigned n);
  uint8_t* own_page(unsigned n);

  // System calls that the process is to do to itself.
  struct Call {
    int64_t number;
    uint64_t argument[6];
  };
  // Room for `n` more calls in one run_calls().
  bool has_room(unsigned n) const { return count_ + n <= kMostCalls; }
  void add(const Call& call);  // has_room(1)
  bool calls_waiting() const { return count_ != 0; }
  // The registers are not the guest's afterwards. False: one of them failed, or the process is gone; it is of no use any more.
  bool run_calls();
  // How long it takes to let a stub run and have it stop at once, by the host's TSC: measured when the process's first one was made, 0 before.
  static uint64_t switch_ticks();

  // The guest's registers. False: the process is gone.
  bool set_registers(const user_regs_struct& registers);
  bool registers(user_regs_struct& out);
  // SIMD and x87 state in the XSAVE standard format, of exactly state_size() bytes.
  unsigned state_size() const { return state_size_; }
  bool set_state(const void* xsave);
  bool state(void* xsave);

  struct Stop {
    enum Kind : uint8_t { kSystemCall, kSignal, kGone } kind;
    int signal = 0;         // of kSignal
    int code = 0;           // si_code
    uint64_t address = 0;   // si_addr
  };
  // Runs the guest's code until it stops. `file()` gets SIGUSR2 to stop it.
  Stop run();
  int pidfd() const { return pidfd_.get(); }
  // Lets it run on one host CPU only, the tracer's: a switch between CPUs would cost more than one between processes.
  void follow_cpu();

 private:
  bool run_list();
  bool measure_switch();
  static constexpr unsigned kMostCalls = 1000;
  StubProcess() = default;
  bool wait(int& status);
  bool resume(int request);

  pid_t pid_ = -1;
  user_regs_struct loop_{};  // at the start of the loop over the list
  OwnedFd pidfd_, list_fd_;
  Call* list_ = nullptr;
  unsigned count_ = 0, state_size_ = 0;
  int cpu_ = -1;
};

}  // namespace vireo::softkvm
