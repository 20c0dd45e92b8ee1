// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/stub_process.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/audit.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "softkvm/native/stub_image.h"
#include "softkvm/native/stub_layout.h"

namespace vireo::softkvm {
namespace {

// High, so that dup2() of one does not close another that is still to be passed on.
constexpr int kFirstFile = 900;
constexpr int kListFile = kFirstFile + static_cast<int>(StubProcess::kMostFiles), kImageFile = kListFile + 1;
constexpr uint64_t kUserEnd = 0x7ffffffff000;
constexpr uint64_t kFilterAt = STUB_LIST_SIZE - 1024;  // behind the calls: the seccomp program

constexpr size_t kListFileSize = STUB_LIST_SIZE + StubProcess::kOwnPages * 4096;

struct Birth {
  std::span<const int> files;
  int list, image;
};

// In the child, on a stack of its own but in the parent's memory: only system calls.
int become_stub(void* argument) {
  const Birth& birth = *static_cast<Birth*>(argument);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (size_t i = 0; i < birth.files.size(); i++)
    if (dup2(birth.files[i], kFirstFile + static_cast<int>(i)) < 0) _exit(1);
  if (dup2(birth.list, kListFile) < 0 || dup2(birth.image, kImageFile) < 0) _exit(1);
  fcntl(kImageFile, F_SETFD, FD_CLOEXEC);
  syscall(SYS_close_range, 0u, static_cast<unsigned>(kFirstFile - 1), 0u);
  syscall(SYS_close_range, static_cast<unsigned>(kImageFile + 1), ~0u, 0u);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)) _exit(1);
  char* arguments[] = {const_cast<char*>("vireo-guest"), nullptr};
  char* environment[] = {nullptr};
  syscall(SYS_execveat, kImageFile, "", arguments, environment, AT_EMPTY_PATH);
  _exit(1);
}

// Each stop of a stub would be told to the process by SIGCHLD, and wake some thread of it. Where nobody handles the signal, nobody misses it.
void silence_stops() {
  struct sigaction now;
  if (sigaction(SIGCHLD, nullptr, &now) || now.sa_flags & SA_SIGINFO || now.sa_handler != SIG_DFL || now.sa_flags & SA_NOCLDSTOP) return;
  now.sa_flags |= SA_NOCLDSTOP;
  sigaction(SIGCHLD, &now, nullptr);
}

// What the list may hold, and nothing else: also for a host that emulates vsyscalls, which are no system calls to a tracer.
void write_filter(uint8_t* at) {
  const sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
  };
  const sock_fprog head{sizeof program / sizeof *program, reinterpret_cast<sock_filter*>(STUB_LIST + kFilterAt + sizeof(sock_fprog))};
  memcpy(at, &head, sizeof head);
  memcpy(at + sizeof head, program, sizeof program);
}

}  // namespace

int StubProcess::own_file() { return kListFile; }
uint64_t StubProcess::own_offset(unsigned n) { return STUB_LIST_SIZE + n * 4096ull; }
uint8_t* StubProcess::own_page(unsigned n) { return reinterpret_cast<uint8_t*>(list_) + own_offset(n); }
int StubProcess::file_of(unsigned n) { return kFirstFile + static_cast<int>(n); }

Result<std::unique_ptr<StubProcess>> StubProcess::create(std::span<const int> files, bool time_stamps) {
  if (files.size() > kMostFiles) return fail(ErrorKind::kUnsupported, "guest memory of more files than a stub process takes");
  const int image = TRY(stub_image());
  std::unique_ptr<StubProcess> stub(new StubProcess);
  stub->list_fd_.reset(memfd_create("vireo-guest-list", MFD_CLOEXEC));
  if (!stub->list_fd_.valid() || ftruncate(stub->list_fd_.get(), kListFileSize)) return fail_errno("memfd of a stub process");
  void* list = mmap(nullptr, kListFileSize, PROT_READ | PROT_WRITE, MAP_SHARED, stub->list_fd_.get(), 0);
  if (list == MAP_FAILED) return fail_errno("list of a stub process");
  stub->list_ = static_cast<Call*>(list);
  write_filter(static_cast<uint8_t*>(list) + kFilterAt);

  silence_stops();
  Birth birth{files, stub->list_fd_.get(), image};
  constexpr size_t kStack = 16384;
  const auto stack = std::make_unique_for_overwrite<char[]>(kStack);  // the child leaves it before clone returns
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // a handler in the child would run in our memory
  stub->pid_ = clone(become_stub, stack.get() + kStack, CLONE_VM | CLONE_VFORK, &birth);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (stub->pid_ < 0) return fail_errno("making a stub process", error);
  int status;
  if (!stub->wait(status) || !WIFSTOPPED(status)) return fail(ErrorKind::kUnsupported, "a stub process cannot be traced here");
  stub->pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, stub->pid_, 0u)));
  if (!stub->pidfd_.valid()) return fail_errno("pidfd of a stub process");
  if (ptrace(PTRACE_SETOPTIONS, stub->pid_, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP))
    return fail_errno("tracing a stub process");

  // One call by registers alone maps the list; the list does the rest.
  user_regs_struct r;
  if (!stub->registers(r)) return fail(ErrorKind::kIo, "a stub process ended at once");
  r.rip = stub_syscall();
  r.rbx = stub_nothing();
  r.rax = SYS_mmap;
  r.orig_rax = ~0ull;
  r.rdi = STUB_LIST, r.rsi = STUB_LIST_SIZE, r.rdx = PROT_READ, r.r10 = MAP_SHARED | MAP_FIXED, r.r8 = static_cast<unsigned>(kListFile), r.r9 = 0;
  if (!stub->set_registers(r) || !stub->resume(PTRACE_CONT) || !stub->wait(status) || status >> 8 != SIGTRAP)
    return fail(ErrorKind::kUnsupported, "a stub process could not map its list");
  stub->loop_ = r;
  stub->loop_.rip = stub_loop();
  stub->loop_.rbx = STUB_LIST;
  stub->add({SYS_munmap, {STUB_END, kUserEnd - STUB_END}});
  stub->add({SYS_prctl, {PR_SET_TSC, static_cast<uint64_t>(time_stamps ? PR_TSC_ENABLE : PR_TSC_SIGSEGV)}});
  stub->add({SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1}});
  stub->add({SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_FILTER, STUB_LIST + kFilterAt}});
  if (!stub->run_calls()) return fail(ErrorKind::kUnsupported, "a stub process could not be confined");

  alignas(64) uint8_t state[16384];
  iovec io{state, sizeof state};
  if (ptrace(PTRACE_GETREGSET, stub->pid_, NT_X86_XSTATE, &io)) return fail_errno("SIMD state of a stub process");
  stub->state_size_ = static_cast<unsigned>(io.iov_len);
  if (!switch_ticks() && !stub->measure_switch()) return fail(ErrorKind::kUnsupported, "a stub process does not run");
  return stub;
}

namespace {
std::atomic<uint64_t> measured_switch{0};
}

uint64_t StubProcess::switch_ticks() { return measured_switch.load(std::memory_order_relaxed); }

bool StubProcess::measure_switch() {
  constexpr int kTimes = 6;
  uint64_t least = ~0ull;
  for (int i = 0; i < kTimes; i++) {
    const uint64_t before = __builtin_ia32_rdtsc();
    if (!run_list()) return false;  // an empty one
    least = std::min<uint64_t>(least, __builtin_ia32_rdtsc() - before);
  }
  measured_switch = least;
  return true;
}

StubProcess::~StubProcess() {
  if (list_) munmap(list_, kListFileSize);
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  int status;
  while (waitpid(pid_, &status, __WALL) < 0 && errno == EINTR) {}
}

bool StubProcess::wait(int& status) {
  pid_t who;
  do who = waitpid(pid_, &status, __WALL);
  while (who < 0 && errno == EINTR);
  if (who == pid_ && !WIFEXITED(status) && !WIFSIGNALED(status)) return true;
  pid_ = -1;  // reaped
  return false;
}

bool StubProcess::resume(int request) { return pid_ > 0 && ptrace(static_cast<__ptrace_request>(request), pid_, nullptr, nullptr) == 0; }

void StubProcess::add(const Call& call) { list_[count_++] = call; }

bool StubProcess::run_calls() { return !count_ || run_list(); }

bool StubProcess::run_list() {
  list_[count_].number = -1;
  count_ = 0;
  user_regs_struct r = loop_;
  if (!set_registers(r)) return false;
  for (;;) {
    int status;
    if (!resume(PTRACE_CONT) || !wait(status)) return false;
    if (WIFSTOPPED(status) && status >> 8 == SIGTRAP) break;
    if (WIFSTOPPED(status) && WSTOPSIG(status) != SIGUSR2) return false;  // SIGUSR2: somebody wanted the guest's code to stop
  }
  return true;
}

bool StubProcess::set_registers(const user_regs_struct& registers) {
  return pid_ > 0 && ptrace(PTRACE_SETREGS, pid_, nullptr, &registers) == 0;
}
bool StubProcess::registers(user_regs_struct& out) { return pid_ > 0 && ptrace(PTRACE_GETREGS, pid_, nullptr, &out) == 0; }

bool StubProcess::set_state(const void* xsave) {
  iovec io{const_cast<void*>(xsave), state_size_};
  return pid_ > 0 && ptrace(PTRACE_SETREGSET, pid_, NT_X86_XSTATE, &io) == 0;
}
bool StubProcess::state(void* xsave) {
  iovec io{xsave, state_size_};
  return pid_ > 0 && ptrace(PTRACE_GETREGSET, pid_, NT_X86_XSTATE, &io) == 0 && io.iov_len == state_size_;
}

StubProcess::Stop StubProcess::run() {
  int status;
  if (!resume(PTRACE_SYSEMU) || !wait(status)) return {Stop::kGone};
  if (!WIFSTOPPED(status)) return {Stop::kGone};
  if (WSTOPSIG(status) == (SIGTRAP | 0x80)) return {Stop::kSystemCall};
  if (status >> 16) return {Stop::kSignal, SIGSYS};  // the filter's: a vsyscall
  const int signal = WSTOPSIG(status);
  if (signal == SIGUSR2) return {Stop::kSignal, signal};
  siginfo_t info;
  if (ptrace(PTRACE_GETSIGINFO, pid_, nullptr, &info)) return {Stop::kGone};
  return {Stop::kSignal, signal, info.si_code, reinterpret_cast<uint64_t>(info.si_addr)};
}

void StubProcess::follow_cpu() {
  const int now = sched_getcpu();
  if (now == cpu_ || now < 0) return;
  cpu_ = now;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(now), &one);
  sched_setaffinity(pid_, sizeof one, &one);  // where this is refused it costs time alone
}

}  // namespace vireo::softkvm
