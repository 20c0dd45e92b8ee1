// SPDX-License-Identifier: Apache-2.0
// Guest code that uses what a stub holds beside it, and signals that come whenever they like: it gets nothing by that, and loses nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/owned_fd.h"
#include "softkvm/native/native_machine.h"
#include "softkvm/native/stub_image.h"
#include "softkvm/native/stub_layout.h"
#include "softkvm/native/stub_process.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kSyscallSize = 2;

GUEST_CODE(touches, "1: mov [rdi], rdi; add rbx, 1; paddq xmm0, xmm1; add rdi, 4096; cmp rdi, rsi; jb 1b; syscall")

// Each page is a trap: none has been accessed before. Signals meet the stub in its own code, too.
TEST(StubSignals, NothingIsLostOrDoneTwiceWhenSignalsComeAllTheTime) {
  for (unsigned round = 0; round < 4; round++) {
    NativeMachine m;
    constexpr uint64_t kFrom = NativeMachine::kData, kTo = 0xf00000;
    for (uint64_t page = kFrom; page < kTo; page += 4096) m.entry(page) = page | 7;
    m.put(touches());
    m.user(NativeMachine::kUser);
    m.vcpu->gpr[kRdi] = kFrom, m.vcpu->gpr[kRsi] = kTo, m.vcpu->gpr[kRbx] = 0;
    *reinterpret_cast<uint64_t*>(m.vcpu->xsave_area() + 160) = 0;
    *reinterpret_cast<uint64_t*>(m.vcpu->xsave_area() + 176) = 1;
    *reinterpret_cast<uint64_t*>(m.vcpu->xsave_area() + 512) |= 3;
    std::atomic<bool> over{false};
    std::atomic<unsigned> kicks{0};
    std::thread kicker([&] {
      while (!over.load()) {
        wake_native(*m.vcpu->engine);
        kicks++;
        for (uint64_t from = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - from < 5'000 + kicks % 128 * 700;) __builtin_ia32_pause();  // ticks
      }
    });
    const bool possible = m.go();
    over = true;
    kicker.join();
    if (!possible) GTEST_SKIP() << "the host allows no stub processes";
    ASSERT_EQ(m.result, 0);
    ASSERT_TRUE(m.in_system_call()) << std::hex << m.vcpu->rip << " after " << m.vcpu->gpr[kRbx];
    EXPECT_GT(kicks.load(), 10u);
    EXPECT_GT(m.counts().mapped, 500u);
    EXPECT_EQ(m.vcpu->gpr[kRbx], (kTo - kFrom) / 4096);
    EXPECT_EQ(*reinterpret_cast<uint64_t*>(m.vcpu->xsave_area() + 160), (kTo - kFrom) / 4096);
    for (uint64_t page = kFrom; page < kTo; page += 4096) ASSERT_EQ(m.at(page), page);
  }
}

// The list is so long that some of it is done first: who wanted the guest's code to stop meanwhile signals once.
TEST(StubSignals, ASignalInTheMidstOfALongListStopsTheGuestsCode) {
  auto stub = StubProcess::create({}, false);
  if (!stub) GTEST_SKIP() << "the host allows no stub processes";
  StubProcess& s = **stub;
  while (s.has_room(2)) s.add({SYS_munmap, {STUB_END, 4096}});
  user_regs_struct registers{};
  registers.rip = stub_places().trap;
  registers.eflags = 2;
  s.set_registers(registers);
  ASSERT_EQ(syscall(SYS_pidfd_send_signal, s.pidfd(), SIGUSR2, nullptr, 0), 0);
  StubProcess::Stop stop = s.run();
  EXPECT_EQ(stop.kind, StubProcess::Stop::kSignal);
  EXPECT_EQ(stop.signal, SIGUSR2);
  EXPECT_EQ(s.registers().rip, registers.rip);
  ASSERT_TRUE(s.settle());
  stop = s.run();
  EXPECT_EQ(stop.kind, StubProcess::Stop::kSystemCall);
}

// A machine whose code does something to its stub, and is then asked to compute natively as before.
class HostileStub : public ::testing::Test {
 protected:
  bool attack(std::span<const uint8_t> code) {
    m.put(code);
    m.user(NativeMachine::kUser);
    m.vcpu->gpr[kRdi] = rdi, m.vcpu->gpr[kRsi] = rsi, m.vcpu->gpr[9] = r9;
    return m.go();
  }
  // The code has met what the guest's tables say: of the page it jumped to, or, where its stretch had lasted so long that translation went on with it, of the page of
  // the guest's kernel that is where the stub has its own. Or it is in its code where the stub was last entered, with a #GP: of a stub whose stop was none
  // the monitor knows nothing else.
  testing::AssertionResult came_to_nothing() {
    const uint64_t at = m.frame(4), own = m.vcpu->cr2;
    const bool in_its_code = at >= NativeMachine::kUser && at < NativeMachine::kUser + 128;
    const bool kernels_page = in_its_code && own >= STUB_CODE && own < STUB_END && (m.frame(5) & 5) == 5;
    const bool good = m.vector() == kPFv ? at == rdi || at == rdi + kSyscallSize || kernels_page : m.vector() == kGP && in_its_code && m.frame(5) == 0;
    char what[200];
    snprintf(what, sizeof what, "exception %u at 0x%lx, error code 0x%lx, CR2 0x%lx, RDI 0x%lx, runs %lu", m.vector(), at, m.frame(5), own, rdi, m.ran);
    return (good ? testing::AssertionSuccess() : testing::AssertionFailure()) << what;
  }
  void still_computes();

  NativeMachine m;
  uint64_t rdi = 0, rsi = 0, r9 = 0;
};
#define ATTACK(code) \
  if (!attack(code)) GTEST_SKIP() << "the host allows no stub processes"; \
  ASSERT_EQ(m.result, 0); \
  ASSERT_GT(m.ran, 0u)

GUEST_CODE(harmless, "mov rbx, [rdi]; add rbx, 1; syscall")
void HostileStub::still_computes() {
  m.at(NativeMachine::kData) = 41;
  m.put(harmless());
  m.user(NativeMachine::kUser);
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  m.vcpu->mp_state = 0;
  ASSERT_TRUE(m.go());
  EXPECT_GT(m.ran, 0u);
  EXPECT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 42u);
}

// mmap() of the guest's whole memory by the list's own SYSCALL, which is good for that; what the jump finds is what the guest's tables have there:
// a page that is not for user code.
GUEST_CODE(maps, "mov eax, 9; mov rbp, rdi; mov edi, 0x50000000; mov esi, 0x1000000; mov edx, 3; mov r10d, 0x11; mov r8d, 900; xor r9d, r9d; jmp rbp")
TEST_F(HostileStub, CannotMapByTheListsSystemCall) {
  rdi = stub_places().list_call - kSyscallSize;
  ATTACK(maps());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, rdi);
  EXPECT_EQ(m.frame(4), rdi);
  still_computes();
}

GUEST_CODE(reads_far, "mov rbx, [rdi]; syscall")
TEST_F(HostileStub, WhatItCouldNotMapIsNotThere) {
  rdi = stub_places().list_call - kSyscallSize;
  ATTACK(maps());
  rdi = 0x50000000;
  m.vcpu->mp_state = 0;
  ATTACK(reads_far());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, rdi);
}

// ... by the stop's SYSCALL, which the dispatcher lets pass.
TEST_F(HostileStub, CannotMapByTheStopsSystemCall) {
  rdi = stub_places().stop_call - kSyscallSize;
  ATTACK(maps());
  EXPECT_TRUE(came_to_nothing());
  still_computes();
}

// ... or widen what the dispatcher lets pass: PR_SET_SYSCALL_USER_DISPATCH, on, for all addresses.
GUEST_CODE(widens, "mov eax, 157; mov rbp, rdi; mov edi, 59; mov esi, 1; xor edx, edx; mov r10, -1; xor r8d, r8d; jmp rbp")
TEST_F(HostileStub, CannotWidenWhatIsLetPass) {
  for (uint32_t place : {stub_places().stop_call, stub_places().on_call, stub_places().list_call}) {
    rdi = place - kSyscallSize;
    m.vcpu->mp_state = 0;
    ATTACK(widens());
    EXPECT_TRUE(came_to_nothing()) << std::hex << place;
  }
  still_computes();
}

GUEST_CODE(stops, "mov eax, 157; mov rbp, rdi; mov edi, 59; xor esi, esi; xor edx, edx; xor r10d, r10d; xor r8d, r8d; jmp rbp")
TEST_F(HostileStub, AStopOfItsOwnGivesItNothing) {
  rdi = stub_places().stop_call - kSyscallSize;
  for (uint64_t frame : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{STUB_STACK} + 4, uint64_t{STUB_END}, ~uint64_t{7}, uint64_t{STUB_LIST}}) {
    r9 = frame;
    m.vcpu->mp_state = 0;
    ATTACK(stops());
    EXPECT_TRUE(came_to_nothing()) << std::hex << frame;
  }
  still_computes();
}

// A frame of its own, of zeroes.
TEST_F(HostileStub, AFrameOfZeroesGivesItNothing) {
  rdi = stub_places().stop_call - kSyscallSize;
  r9 = STUB_STACK + 0x4000;
  ATTACK(stops());
  EXPECT_TRUE(came_to_nothing());
  still_computes();
}

// What a frame of its own says is registers of its own, but not selectors of its own: those of a kernel (CS 8, SS 10) would be in the frame that the guest's kernel gets with its next exception.
// The frame lies at rsi; offsets are those of uc_mcontext's RIP, RFLAGS, CS to SS, fpstate, and of si_signo.
GUEST_CODE(forges, "mov r9, rsi; lea rcx, [rip + 1f]; mov [rsi + 168], rcx; mov qword ptr [rsi + 176], 0x246; mov [rsi + 184], r14; mov qword ptr [rsi + 224], 0x22000; "
                   "mov dword ptr [rsi + 304], 12; mov eax, 157; mov rbp, rdi; mov edi, 59; xor esi, esi; xor edx, edx; xor r10d, r10d; xor r8d, r8d; jmp rbp; 1: ud2")
TEST_F(HostileStub, AFrameOfItsOwnHasNoKernelsSelectors) {
  rdi = stub_places().stop_call - kSyscallSize;
  rsi = STUB_STACK + 0x4000;
  for (uint64_t selectors : {0x0010'0000'0000'0008ull, 0x0010'0000'0000'0033ull, 0x002b'0000'0000'0008ull, 0x002b'0000'0000'0030ull, 0ull}) {
    m.vcpu->gpr[14] = selectors;
    m.vcpu->mp_state = 0;
    ATTACK(forges());
    EXPECT_TRUE(came_to_nothing()) << std::hex << selectors;
    EXPECT_EQ(m.frame(3), 0x33u);
    EXPECT_EQ(m.frame(0), 0x2bu);
  }
  m.vcpu->gpr[14] = 0x002b'0000'0000'0033;  // its own: it is as if it had jumped there
  m.vcpu->mp_state = 0;
  ATTACK(forges());
  EXPECT_TRUE(m.vector() == kUD || came_to_nothing());
  still_computes();
}

// The host's 32-bit code segment, where the guest has one of its kernel, a data segment, one that is not there, or none.
GUEST_CODE(goes_to_32_bits, "push 0x23; lea rax, [rip + 1f]; push rax; retfq; 1: ud2")
TEST_F(HostileStub, ACodeSegmentIsTheGuestsOwn) {
  for (uint64_t descriptor : {0x00cf9b000000ffffull, 0x00cff3000000ffffull, 0x00cf7b000000ffffull, 0ull}) {
    m.at(NativeMachine::kGdt + 0x20) = descriptor;
    m.vcpu->mp_state = 0;
    ATTACK(goes_to_32_bits());
    EXPECT_EQ(m.vector(), unsigned{descriptor == 0x00cf7b000000ffffull ? kNP : kGP}) << std::hex << descriptor;
    EXPECT_EQ(m.frame(5), 0x20u);
    EXPECT_EQ(m.frame(3), 0x33u);
  }
  m.at(NativeMachine::kGdt + 0x20) = 0x00cffb000000ffff;
  m.vcpu->mp_state = 0;
  ATTACK(goes_to_32_bits());
  EXPECT_EQ(m.vector(), unsigned{kUD});
  EXPECT_EQ(m.frame(3), 0x23u);
  still_computes();
}

// The host's kernel has no room for a handler's frame there.
GUEST_CODE(loses_stack, "mov rsp, rdi; mov rbx, [rsi]")
TEST_F(HostileStub, AStackPointerInTheHandlersStackIsAGeneralProtectionFault) {
  rdi = STUB_STACK + 0x100;
  rsi = 0x70000000;
  ATTACK(loses_stack());
  EXPECT_EQ(m.vector(), unsigned{kGP});
  EXPECT_EQ(m.frame(4), NativeMachine::kUser);
  still_computes();
}

// ... where the monitor's program ignores SIGCHLD, and it is not to be known how the stub has ended.
TEST_F(HostileStub, ItsEndIsNotTheVmsWhereChildrenAreIgnored) {
  struct Ignored {
    Ignored() { signal(SIGCHLD, SIG_IGN); }
    ~Ignored() { signal(SIGCHLD, SIG_DFL); }
  } ignored;
  rdi = STUB_STACK + 0x100;
  rsi = 0x70000000;
  ATTACK(loses_stack());
  EXPECT_NE(m.vcpu->run->exit_reason, unsigned{KVM_EXIT_INTERNAL_ERROR});
  EXPECT_EQ(m.vector(), unsigned{kGP});
  still_computes();
}

GUEST_CODE(writes_list, "mov rax, [rdi]; mov [rdi], rax; syscall")
TEST_F(HostileStub, CannotWriteItsList) {
  rdi = STUB_LIST;
  ATTACK(writes_list());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, rdi);
  still_computes();
}

// Single steps through the stub's own code.
GUEST_CODE(steps_on, "pushfq; or qword ptr [rsp], 0x100; popfq; jmp rdi")
TEST_F(HostileStub, StepsThroughItsCodeAreTheGuestsOwn) {
  for (uint32_t place : {stub_places().handler, stub_places().stop_call, stub_places().restore, stub_places().list_call}) {
    rdi = place;
    m.vcpu->mp_state = 0;
    ATTACK(steps_on());
    EXPECT_TRUE(m.vector() == kPFv || m.vector() == kDB || m.vector() == kGP) << std::hex << place << " " << m.vector();
  }
  still_computes();
}

// Where Linux's vsyscalls were: the guest's tables have nothing there, whatever the host's kernel does with them.
GUEST_CODE(calls_vsyscall, "mov rax, 0xffffffffff600000; call rax")
TEST_F(HostileStub, VsyscallsAreTheGuests) {
  ATTACK(calls_vsyscall());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, 0xffffffffff600000u);
  EXPECT_EQ(m.frame(4), 0xffffffffff600000u);
  EXPECT_EQ(m.frame(1), NativeMachine::kStack - 8);
  still_computes();
}

// All descriptors below a number, taken until the end of a test.
class TakenDescriptors {
 public:
  explicit TakenDescriptors(int below) {
    for (;;) {
      OwnedFd next(open("/dev/null", O_RDONLY | O_CLOEXEC));
      reached_ = next.get() >= below;
      if (reached_ || !next.valid()) return;
      taken_.push_back(std::move(next));
    }
  }
  bool reached() const { return reached_; }

 private:
  std::vector<OwnedFd> taken_;
  bool reached_ = false;
};

// A monitor whose descriptors have the numbers that the stub's have: what the stub takes for its list must not be the guest's memory.
TEST_F(HostileStub, ItsListIsNotTheGuestsWhateverNumbersDescriptorsHave) {
  ATTACK(harmless());
  for (int below = StubProcess::file_of(0) - 16; below <= STUB_FILE + 2; below++) {
    NativeMachine before;
    const TakenDescriptors taken(below);
    if (!taken.reached()) GTEST_SKIP() << "no room for as many descriptors";
    NativeMachine behind;
    for (NativeMachine* machine : {&before, &behind}) {
      machine->at(NativeMachine::kData) = 41;
      machine->vcpu->gpr[kRdi] = NativeMachine::kData;
      ASSERT_TRUE(machine->run(harmless())) << below << (machine == &before);
      EXPECT_GT(machine->ran, 0u);
      EXPECT_EQ(machine->vcpu->gpr[kRbx], 42u);
    }
  }
}

// It holds the guest's memory. proc(5): what belongs to a process that is not dumpable is root's; so it is asked as somebody else.
TEST(Stub, LeavesNoCore) {
  constexpr int kKept = 0, kDumpable = 1, kNone = 2, kNotAsked = 3;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(kNotAsked);
    const auto stub = StubProcess::create({}, true);
    if (!stub) _exit(kNone);
    std::ifstream about("/proc/self/fdinfo/" + std::to_string((*stub)->pidfd()));
    std::string word, number;
    while (about >> word >> number && word != "Pid:") {}
    struct stat owner;
    if (stat(("/proc/" + number + "/mem").c_str(), &owner) != 0) _exit(kNotAsked);
    _exit(owner.st_uid == geteuid() ? kDumpable : kKept);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNone) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(WEXITSTATUS(status), kKept);
}

GUEST_CODE(spins_here, "1: pause; jmp 1b")
TEST_F(HostileStub, SignalsForAGroupOfProcessesAreNotForIt) {
  std::thread other([&] {
    int fd = -1;
    for (unsigned i = 0; i < 2000 && (fd = m.vcpu->engine->native_pidfd.load()) < 0; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGALRM, SIGPIPE, SIGTSTP})
      if (fd >= 0) syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    m.vcpu->request_exit();
  });
  const bool possible = attack(spins_here());
  other.join();
  if (!possible) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(m.result, -EINTR);
  EXPECT_EQ(m.vcpu->rip >= NativeMachine::kUser && m.vcpu->rip < NativeMachine::kUser + 8, true);
  still_computes();
}

}  // namespace
}  // namespace vireo::softkvm
