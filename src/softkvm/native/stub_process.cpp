// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/stub_process.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/log.h"
#include "softkvm/native/cpu_hold.h"
#include "softkvm/native/host_segment_bases.h"
#include "softkvm/native/stub_filter.h"
#include "softkvm/native/stub_image.h"
#include "softkvm/native/stub_layout.h"

namespace vireo::softkvm {
namespace {

// As the stub has them, whatever numbers they have in the monitor.
constexpr int kFirstFile = 900;
constexpr int kSharedFile = kFirstFile + static_cast<int>(StubProcess::kMostFiles), kImageFile = kSharedFile + 1;
static_assert(kSharedFile == STUB_FILE);
constexpr uint64_t kUserEnd = 0x7ffffffff000;
constexpr uint64_t kOwnAt = STUB_END - STUB_LIST;  // own pages, in the file
constexpr size_t kFileSize = kOwnAt + StubProcess::kOwnPages * 4096;
constexpr int kCaught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGUSR2};
constexpr int kSignals = 64;
constexpr int kPidfd = 3;  // P_PIDFD, of waitid(2)
constexpr int kTaken = 0;  // in place of the signal's number, in a frame that was taken
// Of user code: arch/x86/include/asm/segment.h.
constexpr uint16_t kUser32Cs = 0x23, kUserCs = 0x33, kUserSs = 0x2b;
constexpr uint64_t kVsyscallPage = 0xffffffffff600000 >> 12;
#ifndef SYS_USER_DISPATCH
constexpr int SYS_USER_DISPATCH = 2;  // si_code of SIGSYS
#endif

// What the kernel puts on a handler's stack. Spec: arch/x86/include/uapi/asm/ucontext.h, sigcontext.h; arch/x86/include/asm/sigframe.h.
constexpr uint64_t kInfoBehind = 304;  // struct rt_sigframe: siginfo behind ucontext
constexpr uint64_t kFrameSize = kInfoBehind + sizeof(siginfo_t);
constexpr uint64_t kContextAt = offsetof(ucontext_t, uc_mcontext);
struct SignalContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trap, mask, cr2, fpstate;
};
// The XSAVE area: where software may write, its header, and what of it XRSTOR does not take (SDM vol 1, 13.4.2, 13.8).
constexpr unsigned kSoftwareAt = 464, kHeaderAt = 512, kHeaderEnd = 576, kMxcsrAt = 24;
constexpr uint32_t kMxcsrAtReset = 0x1f80, kMagic = 0x46505853;
struct SoftwareBytes {
  uint32_t magic, extended_size;
  uint64_t components;
  uint32_t size;
};

struct KernelSigaction {
  uint64_t handler, flags, restorer, mask;
};

struct Birth {
  std::span<const int> files;
  int shared, image;
  sock_fprog filter;
  int listener = -1;  // in the parent's table, which the child shares at first
  int error = 0;
};

// In the child: gives it the birth's descriptors under the stub's numbers, and no other. False: errno.
// The monitor's numbers may be any, those of the stub too: all are lifted out of the way before the first takes its place.
bool take_descriptors(const Birth& birth) {
  struct {
    int from, to;
  } moves[StubProcess::kMostFiles + 2];
  unsigned count = 0;
  for (int file : birth.files) moves[count] = {file, kFirstFile + static_cast<int>(count)}, count++;
  const int first_unused = kFirstFile + static_cast<int>(count);
  moves[count++] = {birth.shared, kSharedFile};
  moves[count++] = {birth.image, kImageFile};
  for (unsigned i = 0; i < count; i++)
    if ((moves[i].from = fcntl(moves[i].from, F_DUPFD, kImageFile + 1)) < 0) return false;
  for (unsigned i = 0; i < count; i++)
    if (dup2(moves[i].from, moves[i].to) < 0) return false;
  auto close_all = [](int first, unsigned last) { return syscall(SYS_close_range, static_cast<unsigned>(first), last, 0u) == 0; };
  return fcntl(kImageFile, F_SETFD, FD_CLOEXEC) == 0 && close_all(0, kFirstFile - 1) && close_all(kImageFile + 1, ~0u) &&
         (first_unused == kSharedFile || close_all(first_unused, kSharedFile - 1));
}

// In the child, on a stack of its own but in the parent's memory: only system calls.
int become_stub(void* argument) {
  Birth& birth = *static_cast<Birth*>(argument);
  auto check = [&](long result) {
    if (result >= 0) return;
    birth.error = errno;
    _exit(1);
  };
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  const long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &birth.filter);
  check(listener);
  birth.listener = static_cast<int>(listener);
  check(unshare(CLONE_FILES));
  check(take_descriptors(birth) ? 0 : -1);
  const rlimit no_core{0, 0};  // until it has made itself undumpable, which exec() resets
  setrlimit(RLIMIT_CORE, &no_core);
  // What the terminal or others send to a group of processes is not for it. Kept over exec; it sets handlers for some.
  const KernelSigaction ignored{reinterpret_cast<uint64_t>(SIG_IGN), 0, 0, 0};
  for (int signal = 1; signal <= kSignals; signal++)
    if (signal != SIGKILL && signal != SIGSTOP) syscall(SYS_rt_sigaction, signal, &ignored, nullptr, 8);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  char* arguments[] = {const_cast<char*>("vireo-guest"), nullptr};
  char* environment[] = {nullptr};
  check(syscall(SYS_execveat, kImageFile, "", arguments, environment, AT_EMPTY_PATH));
  _exit(1);
}

// Does waiting for a notification end when nobody is left who could send one? So it does since Linux 6.11; a release more, for those who count
// differently.
bool waiting_ends() {
  static const bool ends = [] {
    utsname host;
    int major = 0, minor = 0;
    return uname(&host) == 0 && sscanf(host.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 12));
  }();
  return ends;
}

// Which bits MXCSR has is the host's: MM (bit 17) is AMD's (SDM vol 1, 11.6.6; APM vol 2, 11.5.10).
uint32_t mxcsr_mask() {
  static const uint32_t mask = [] {
    constexpr unsigned kMaskAt = 28;
    constexpr uint32_t kWithoutMask = 0xffbf;
    alignas(16) uint8_t area[512] = {};
    asm volatile("fxsave64 %0" : "=m"(area));
    uint32_t value;
    memcpy(&value, area + kMaskAt, sizeof value);
    return value ? value : kWithoutMask;
  }();
  return mask;
}

std::atomic<uint64_t> measured_switch{0};

}  // namespace

int StubProcess::own_file() { return kSharedFile; }
uint64_t StubProcess::own_offset(unsigned n) { return kOwnAt + n * 4096ull; }
uint8_t* StubProcess::own_page(unsigned n) { return shared_ + own_offset(n); }
int StubProcess::file_of(unsigned n) { return kFirstFile + static_cast<int>(n); }

template <class T>
T& StubProcess::shared(uint64_t address) const {
  return *reinterpret_cast<T*>(shared_ + (address - STUB_LIST));
}

Result<std::unique_ptr<StubProcess>> StubProcess::create(std::span<const int> files, bool time_stamps) {
  std::unique_ptr<StubProcess> stub(new StubProcess);
  TRY_VOID(stub->be_born(files, time_stamps));
  return stub;
}

void StubProcess::write_first_list(bool time_stamps) {
  uint64_t at = STUB_SETUP;
  auto put = [&](const void* bytes, size_t size) {
    const uint64_t where = at;
    if (size > STUB_XSAVE - where) panic("softkvm: a stub process's setup has no room");
    memcpy(&shared<uint8_t>(where), bytes, size);
    at += (size + 7) & ~size_t{7};
    return where;
  };
  put_call({SYS_munmap, {STUB_END, kUserEnd - STUB_END}});
  put_call({SYS_mmap, {STUB_STACK, STUB_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, static_cast<uint64_t>(kSharedFile), STUB_STACK - STUB_LIST}});
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(STUB_STACK + STUB_SEEN_SIZE);
  stack.ss_size = STUB_STACK_SIZE - STUB_SEEN_SIZE;
  put_call({SYS_sigaltstack, {put(&stack, sizeof stack), 0}});
  // Nothing is blocked in the handler, for it does not return by rt_sigreturn().
  constexpr uint64_t kRestorer = 0x04000000;
  const KernelSigaction action{stub_places().handler, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART | kRestorer, stub_places().trap, 0};
  const uint64_t action_at = put(&action, sizeof action);
  for (int signal : kCaught) put_call({SYS_rt_sigaction, {static_cast<uint64_t>(signal), action_at, 0, 8}});
  put_call({SYS_prctl, {PR_SET_TSC, static_cast<uint64_t>(time_stamps ? PR_TSC_ENABLE : PR_TSC_SIGSEGV)}});
  // Its core would hold the guest's memory. A limit of its size does not bind a program that the host's kernel pipes cores to (core(5)).
  put_call({SYS_prctl, {PR_SET_DUMPABLE, 0}});
  const std::vector<sock_filter> filter = stub_filter();
  const uint64_t filter_at = put(filter.data(), filter.size() * sizeof(sock_filter));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), reinterpret_cast<sock_filter*>(filter_at)};
  put_call({SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, put(&program, sizeof program)}});
}

Result<> StubProcess::be_born(std::span<const int> files, bool time_stamps) {
  if (files.size() > kMostFiles) return fail(ErrorKind::kUnsupported, "guest memory of more files than a stub process takes");
  const int image = TRY(stub_image());
  const OwnedFd shared_file(memfd_create("vireo-guest-list", MFD_CLOEXEC));
  if (!shared_file.valid() || ftruncate(shared_file.get(), kFileSize)) return fail_errno("memfd of a stub process");
  void* memory = mmap(nullptr, kFileSize, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file.get(), 0);
  if (memory == MAP_FAILED) return fail_errno("memory of a stub process");
  shared_ = static_cast<uint8_t*>(memory);
  shared<uint64_t>(STUB_BASES) = host_keeps_segment_bases();
  shared<uint32_t>(STUB_XSAVE + kMxcsrAt) = kMxcsrAtReset;
  write_first_list(time_stamps);
  shared<Call>(STUB_LIST + count_ * sizeof(Call)).number = -1;
  shared<uint64_t>(STUB_HOLD) = 1;

  std::vector<sock_filter> filter = stop_filter();
  Birth birth{.files = files, .shared = shared_file.get(), .image = image, .filter = {static_cast<unsigned short>(filter.size()), filter.data()}};
  constexpr size_t kStack = 16384;
  const auto stack = std::make_unique_for_overwrite<char[]>(kStack);  // the child leaves it before clone returns
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // a handler in the child would run in our memory
  int pidfd = -1;
  pid_ = clone(become_stub, stack.get() + kStack, CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD, &birth, &pidfd);
  const int error = errno;
  pidfd_.reset(pidfd);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  listener_.reset(birth.listener);
  if (pid_ < 0) return fail_errno("making a stub process", error);
  if (birth.error) return fail_errno("a stub process cannot be confined here", birth.error);
  if (next_stop() != Reason::kListDone) return fail(ErrorKind::kUnsupported, "a stub process could not be confined");
  count_ = 0;
  if (!measure()) return fail(ErrorKind::kUnsupported, "a stub process does not run");
  return {};
}

StubProcess::~StubProcess() {
  if (shared_) munmap(shared_, kFileSize);
  if (pid_ >= 0) end();
}

// By its pidfd, for its number may be another's already: a program that ignores SIGCHLD, or waits for all of its children, has taken it from us. How it
// has ended; zeroes where that is not to be known.
siginfo_t StubProcess::end() {
  syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0u);
  siginfo_t how{};
  while (waitid(static_cast<idtype_t>(kPidfd), static_cast<id_t>(pidfd_.get()), &how, WEXITED | __WALL) < 0)
    if (errno != EINTR) break;
  pid_ = -1;
  return how;
}

// Traps `times` times: the ticks of the quickest, 0 if the stub does not do what it should.
uint64_t StubProcess::trap(int times) {
  uint64_t least = ~0ull;
  for (int i = 0; i < times; i++) {
    user_regs_struct r{};
    r.rip = stub_places().trap;
    r.eflags = 2;
    set_registers(r);
    const uint64_t before = __builtin_ia32_rdtsc();
    const Stop stop = run();
    least = std::min<uint64_t>(least, __builtin_ia32_rdtsc() - before);
    if (stop.kind != Stop::kSystemCall) return 0;
  }
  return least;
}

// What a trap costs, and how much SIMD state a signal's frame has. Both on one CPU, where they are kept later: from one CPU to another a switch takes
// several times as long, and a VM that had measured that left nearly all code in translation. Each stub alike, and the least counts: where others ran
// meanwhile, or the host took the CPU away, the next one shows it. (Until 2026-12-01 those after the first trapped once, wherever they were: a VM whose
// first had been disturbed compiled with gcc in 0.9 s instead of 0.5 as long as it lived.)
bool StubProcess::measure() {
  constexpr int kTimes = 6;
  CpuHold hold;
  hold.take(__builtin_ia32_rdtsc(), 1);
  follow_cpu();
  const uint64_t ticks = trap(kTimes);
  hold.release();
  if (ticks) {
    uint64_t known = switch_ticks();
    while ((!known || ticks < known) && !measured_switch.compare_exchange_weak(known, ticks, std::memory_order_relaxed)) {
    }
  }
  return ticks && state_size_;
}

uint64_t StubProcess::switch_ticks() { return measured_switch.load(std::memory_order_relaxed); }

// Whoever maps the guest's pages has to leave the stub's alone: over them the guest's code would do system calls.
void StubProcess::add(const Call& call) {
  const bool maps = call.number == SYS_mmap || call.number == SYS_munmap || call.number == SYS_mprotect;
  if (maps && (call.argument[0] < STUB_END || call.argument[0] > kUserEnd || call.argument[1] > kUserEnd - call.argument[0]))
    panic("softkvm: guest pages at 0x%llx in a stub process", static_cast<unsigned long long>(call.argument[0]));
  put_call(call);
}

void StubProcess::put_call(const Call& call) { shared<Call>(STUB_LIST + count_++ * sizeof(Call)) = call; }

bool StubProcess::run_calls() {
  while (count_) {
    shared<uint64_t>(STUB_HOLD) = 1;
    switch (go_on()) {
      case Reason::kListDone: count_ = 0; break;
      case Reason::kFrame: nested_ = true; break;  // somebody wanted the guest's code to stop: again
      default: return false;
    }
  }
  return true;
}

// Lets it go on from its stop, and waits for the next one. The list is done again where it is not known to be done.
StubProcess::Reason StubProcess::go_on() {
  shared<Call>(STUB_LIST + count_ * sizeof(Call)).number = -1;
  open_ |= count_ != 0;
  return open_ ? answer(SECCOMP_USER_NOTIF_FLAG_CONTINUE, 0) : answer(0, 1);
}

StubProcess::Reason StubProcess::answer(uint32_t flags, int64_t value) {
  seccomp_notif_resp response{};
  response.id = stopped_;
  response.flags = flags;
  response.val = value;
  int failed;
  do failed = ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response);
  while (failed && errno == EINTR);
  if (failed && errno != ENOENT) return Reason::kGone;  // ENOENT: a signal has ended that stop
  return next_stop();
}

bool StubProcess::settle() {
  constexpr unsigned kMostTurns = 8;
  for (unsigned turn = 0; nested_; turn++) {
    const Reason reason = answer(0, 2);
    if (reason == Reason::kUnwound) nested_ = false;
    else if (reason != Reason::kFrame || turn == kMostTurns) return false;
  }
  return true;
}

bool StubProcess::alive() const {
  pollfd watched{pidfd_.get(), POLLIN, 0};
  return poll(&watched, 1, 0) <= 0;  // also where a signal has come in between (EINTR)
}

// Waits until there is a notification. False: there will be none.
bool StubProcess::wait_for_stop() const {
  pollfd watched[] = {{listener_.get(), POLLIN, 0}, {pidfd_.get(), POLLIN, 0}};
  while (poll(watched, 2, -1) < 0)
    if (errno != EINTR) return false;
  return watched[0].revents & POLLIN;
}

StubProcess::Reason StubProcess::next_stop() {
  seccomp_notif notice;
  do {
    if (!waiting_ends() && !wait_for_stop()) return Reason::kGone;
    memset(&notice, 0, sizeof notice);
    if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &notice) == 0) {
      stopped_ = notice.id;
      frame_ = notice.data.args[5];
      switch (frame_) {
        case 0: open_ = false; return Reason::kListDone;
        case 1: return Reason::kListFailed;
        case 2: return Reason::kUnwound;
        default: return Reason::kFrame;
      }
    }
  } while (errno == EINTR || (errno == ENOENT && alive()));  // a signal has ended its stop, and it stops again
  return Reason::kGone;
}

void StubProcess::set_registers(const user_regs_struct& registers) { registers_ = registers; }

void StubProcess::set_state(const void* xsave) {
  memcpy(&shared<uint8_t>(STUB_XSAVE), xsave, state_size_);
  fpstate_ = 0;
}

// The frame is the stub's to write, and so the guest's: what is copied from it has to be fit for XRSTOR.
void StubProcess::state(void* xsave) const {
  auto* out = static_cast<uint8_t*>(xsave);
  memcpy(out, &shared<uint8_t>(fpstate_ ? fpstate_ : STUB_XSAVE), state_size_);
  uint32_t mxcsr;
  memcpy(&mxcsr, out + kMxcsrAt, sizeof mxcsr);
  mxcsr &= mxcsr_mask();
  memcpy(out + kMxcsrAt, &mxcsr, sizeof mxcsr);
  memset(out + kSoftwareAt, 0, kHeaderAt - kSoftwareAt);
  memset(out + kHeaderAt + 8, 0, kHeaderEnd - kHeaderAt - 8);
}

StubProcess::Stop StubProcess::gone() {
  const siginfo_t how = end();  // where the host has refused something it is still there
  // The host's kernel ends a process so whose signal it cannot deliver: the guest's code has led its stack pointer into the handlers' stack.
  const bool by_signal = how.si_code == CLD_KILLED || how.si_code == CLD_DUMPED;
  return {how.si_code == 0 || (by_signal && how.si_status == SIGSEGV) ? Stop::kLost : Stop::kGone};
}

StubProcess::Stop StubProcess::run() {
  if (!has_room(2)) {
    if (!run_calls()) return {Stop::kFailed};
    if (nested_) return {Stop::kSignal, SIGUSR2};  // who wanted a stop meanwhile does not signal again
  }
  if (!host_keeps_segment_bases()) {
    if (registers_.fs_base != fs_base_) add({SYS_arch_prctl, {ARCH_SET_FS, registers_.fs_base}});
    if (registers_.gs_base != gs_base_) add({SYS_arch_prctl, {ARCH_SET_GS, registers_.gs_base}});
    fs_base_ = registers_.fs_base, gs_base_ = registers_.gs_base;
  }
  if (fpstate_) state(&shared<uint8_t>(STUB_XSAVE));
  const user_regs_struct& r = registers_;
  const uint64_t all[] = {r.r15, r.r14, r.r13, r.r12, r.r11, r.r10, r.r9, r.r8, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rcx, r.rax, r.rsp, r.rip, r.eflags, r.fs_base, r.gs_base};
  memcpy(&shared<uint64_t>(STUB_REGISTERS), all, sizeof all);
  shared<uint64_t>(STUB_HOLD) = 0;
  fpstate_ = 0;
  constexpr unsigned kMostTurns = 64;
  for (unsigned turn = 0; turn < kMostTurns; turn++) {
    switch (go_on()) {
      case Reason::kGone: return gone();
      case Reason::kListFailed: return {open_ ? Stop::kFailed : Stop::kLost};
      case Reason::kListDone:
      case Reason::kUnwound: return {Stop::kLost};  // it was not asked to stop then
      case Reason::kFrame: break;
    }
    Stop stop{Stop::kSignal};
    switch (take_frame(stop)) {
      case Frame::kAsSet: nested_ = true; [[fallthrough]];
      case Frame::kGuest: return stop;
      case Frame::kBetween: nested_ = true; break;
      case Frame::kWild: return {Stop::kLost};
    }
  }
  return {Stop::kLost};
}

// The guest's state from the frame of the signal that has stopped it. Nothing there is believed: what the guest's code writes there it could as well
// have in its registers. But while the list is open none of that code has run.
StubProcess::Frame StubProcess::take_frame(Stop& stop) {
  const StubPlaces& places = stub_places();
  SignalContext context;
  uint64_t frame = frame_;
  auto inside = [](uint64_t from, uint64_t size) { return from >= STUB_STACK && from <= STUB_END && size <= STUB_END - from; };
  constexpr unsigned kMostNested = 8;
  for (unsigned i = 0;; i++) {
    if (frame % 8 || !inside(frame, kFrameSize) || i == kMostNested) return Frame::kWild;
    memcpy(&context, &shared<uint8_t>(frame + kContextAt), sizeof context);
    siginfo_t info;
    memcpy(&info, &shared<uint8_t>(frame + kInfoBehind), sizeof info);
    if (i && info.si_signo == kTaken) return Frame::kAsSet;
    stop.signal = info.si_signo;
    stop.code = info.si_code;
    stop.address = reinterpret_cast<uint64_t>(info.si_addr);
    stop.error = context.error;
    if (context.ip < STUB_CODE || context.ip >= places.trap) break;  // the guest's code
    const bool in_handler = context.ip >= places.handler && context.ip < places.stop_call;
    // Only with the list closed again are system calls dispatched.
    const bool closed = !open_ || context.ip >= places.restore || (stop.signal == SIGSYS && stop.code == SYS_USER_DISPATCH);
    if (!closed && !in_handler) return stop.signal == SIGUSR2 ? Frame::kAsSet : stop.signal == SIGTRAP ? Frame::kBetween : Frame::kWild;
    if (stop.signal != SIGUSR2) {  // the guest's code has jumped there
      if (!closed) return Frame::kWild;
      break;
    }
    if (!in_handler) {
      if (context.ip >= places.restore) open_ = false, count_ = 0;
      return Frame::kAsSet;
    }
    // A signal in the handler of another, or in its stop: which may have been told and even answered, for an answer can be lost to a signal.
    frame = context.ip == places.handler ? context.dx : context.r9;
    if (frame < 3) return Frame::kAsSet;  // not a signal's stop
  }
  // No code gets others into CS and SS; in a frame of its own it can have those of a kernel.
  if ((context.cs != kUserCs && context.cs != kUser32Cs) || context.ss != kUserSs) return Frame::kWild;
  shared<int>(frame + kInfoBehind) = kTaken;
  open_ = false;
  count_ = 0;
  const uint64_t state = context.fpstate;
  if (!inside(state, state_size_ ? state_size_ : kHeaderEnd)) return Frame::kWild;
  if (!state_size_) {
    const auto& software = shared<SoftwareBytes>(state + kSoftwareAt);
    if (software.magic != kMagic || software.size > STUB_XSAVE_SIZE || software.size < kHeaderEnd) return Frame::kWild;
    state_size_ = software.size;
  }
  const auto* seen = &shared<uint64_t>(STUB_SEEN);
  if (host_keeps_segment_bases()) {
    auto canonical = [](uint64_t base) { return base == static_cast<uint64_t>(static_cast<int64_t>(base << 16) >> 16); };
    fs_base_ = seen[0], gs_base_ = seen[1];
    if (!canonical(fs_base_) || !canonical(gs_base_)) return Frame::kWild;
  }
  fpstate_ = state;
  user_regs_struct& r = registers_;
  r.r15 = context.r15, r.r14 = context.r14, r.r13 = context.r13, r.r12 = context.r12, r.r11 = context.r11, r.r10 = context.r10, r.r9 = context.r9, r.r8 = context.r8;
  r.rdi = context.di, r.rsi = context.si, r.rbp = context.bp, r.rbx = context.bx, r.rdx = context.dx, r.rcx = context.cx, r.rax = context.ax;
  r.rsp = context.sp, r.rip = context.ip, r.eflags = context.flags;
  r.cs = context.cs, r.ss = context.ss;
  r.ds = seen[2] & 0xffff, r.es = seen[3] & 0xffff, r.fs = seen[4] & 0xffff, r.gs = seen[5] & 0xffff;
  r.fs_base = fs_base_, r.gs_base = gs_base_;
  r.orig_rax = ~0ull;
  if (stop.signal == SIGSYS) {
    if (stop.code == SYS_USER_DISPATCH) {
      stop.kind = Stop::kSystemCall;
      r.orig_rax = r.rax;
    } else if (stop.address >> 12 == kVsyscallPage) {
      // The host's kernel has returned from there already, as from a function.
      r.rip = stop.address;
      r.rsp -= 8;
    }
  }
  return Frame::kGuest;
}

void StubProcess::follow_cpu() {
  const int now = sched_getcpu();
  if (now == cpu_ || now < 0 || !alive()) return;
  cpu_ = now;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(now), &one);
  sched_setaffinity(pid_, sizeof one, &one);  // where this is refused it costs time alone
}

}  // namespace vireo::softkvm
