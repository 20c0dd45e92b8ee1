// SPDX-License-Identifier: Apache-2.0
// A host process that runs guest user code and nothing else. Its registers lie in memory that it shares with the monitor; it stops by a system call
// that seccomp tells of and holds (docs/native.md), so that nothing the guest's code does can pass for a stop. System calls of that code are never
// done; those on its list are, before the code goes on. It dies with the thread that made it, which is the only one that may call what is here.
// Spec: seccomp(2), seccomp_unotify(2), sigaltstack(2); the kernel's admin-guide/syscall-user-dispatch.rst; arch/x86/include/uapi/asm/sigcontext.h.
#pragma once

#include <signal.h>
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
  // does not fault in it. Fails where the host forbids what is needed.
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

  // System calls that the process is to do to itself before the guest's code runs on. They may be done more than once in a row.
  struct Call {
    int64_t number;
    uint64_t argument[6];
  };
  bool has_room(unsigned n) const { return count_ + n <= kMostCalls; }
  void add(const Call& call);  // has_room(1); mappings are from STUB_END on
  bool calls_waiting() const { return count_ != 0; }
  // Does them now, where there is no room for more. False: one of them failed, or the process is gone; it is of no use any more.
  bool run_calls();
  // How long it takes to let a stub run and have it stop at once, by the host's TSC: measured when the process's first one was made, 0 before.
  static uint64_t switch_ticks();

  // The guest's registers. After a stop they are what its code has made of them, until others are set. Segment bases have to be canonical.
  void set_registers(const user_regs_struct& registers);
  const user_regs_struct& registers() const { return registers_; }
  // SIMD and x87 state in the XSAVE standard format, of exactly state_size() bytes. What state() gives can be loaded.
  unsigned state_size() const { return state_size_; }
  void set_state(const void* xsave);
  void state(void* xsave) const;

  struct Stop {
    enum Kind : uint8_t {
      kSystemCall,  // registers() stand behind it, as if nothing had been done
      kSignal,
      kFailed,      // a call on the list: nothing was run, and it is of no use any more
      kLost,        // the guest's code has brought its stub into a state in which nothing can be known of it: no better than a wild jump
      kGone,        // somebody has killed it
    } kind;
    int signal = 0;         // of kSignal
    int code = 0;           // si_code
    uint64_t address = 0;   // si_addr
    uint64_t error = 0;     // of a page fault: its error code
  };
  // Before it runs again, while nobody can know pidfd(): where signals have met its own code, it leaves their handlers. False: it is of no use any more.
  bool settle();
  // Runs the guest's code until it stops. pidfd() gets SIGUSR2 to stop it.
  Stop run();
  int pidfd() const { return pidfd_.get(); }
  // Lets it run on one host CPU only, the caller's: a switch between CPUs would cost more than one between processes.
  void follow_cpu();

 private:
  static constexpr unsigned kMostCalls = 1000;
  enum class Reason : uint8_t { kFrame, kListDone, kListFailed, kUnwound, kGone };
  enum class Frame : uint8_t { kGuest, kAsSet, kBetween, kWild };
  StubProcess() = default;
  Result<> be_born(std::span<const int> files, bool time_stamps);
  void write_first_list(bool time_stamps);
  void put_call(const Call& call);
  Reason go_on();
  Reason answer(uint32_t flags, int64_t value);
  Reason next_stop();
  bool wait_for_stop() const;
  bool alive() const;
  siginfo_t end();
  Stop gone();
  Frame take_frame(Stop& stop);
  uint64_t trap(int times);
  bool measure();
  template <class T>
  T& shared(uint64_t address) const;

  pid_t pid_ = -1;
  OwnedFd pidfd_, listener_;
  uint8_t* shared_ = nullptr;  // its list and all that follows, from STUB_LIST on; own pages behind
  uint64_t stopped_ = 0;       // the notification of its stop
  uint64_t frame_ = 0;         // ... and what it said: 0, 1, 2, or where a signal's frame lies in the process
  bool nested_ = false;        // it stands in a handler that has interrupted its own code
  bool open_ = false;          // the list's system calls may be allowed: until it is seen to have come to its end
  uint64_t fpstate_ = 0;       // where in the process the guest's SIMD state is since it stopped; 0: as it was set
  uint64_t fs_base_ = 0, gs_base_ = 0;  // as the process has them
  user_regs_struct registers_{};
  unsigned count_ = 0, state_size_ = 0;
  int cpu_ = -1;
};

}  // namespace vireo::softkvm
