// SPDX-License-Identifier: Apache-2.0
// User code in a stub process against what the manuals say of it: system calls, faults, accessed and dirty bits, flushes, CPUID, time stamps, code that
// is translated too, kicks. Each machine runs its code natively from the start and tells whether it did.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <x86intrin.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "softkvm/mmu/slots.h"
#include "softkvm/native/host_segment_bases.h"
#include "softkvm/native/host_time_stamps.h"
#include "softkvm/native/native_machine.h"

namespace vireo::softkvm {
namespace {

GUEST_CODE(computes, "mov eax, 7; imul rbx, rax, 6; mov r12, 0x123456789abcdef; movq xmm3, r12; stc; mov ecx, 5; syscall; nop")
TEST(Native, RunsUntilASystemCallWithAllRegisters) {
  NativeMachine m;
  m.vcpu->gpr[15] = 0xfeedull << 48;
  RUN(m, computes());
  EXPECT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->cpl, 0);
  EXPECT_EQ(m.vcpu->gpr[kRax], 7u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 42u);
  EXPECT_EQ(m.vcpu->gpr[12], 0x123456789abcdefull);
  EXPECT_EQ(m.vcpu->gpr[15], 0xfeedull << 48);
  EXPECT_EQ(m.vcpu->gpr[kRcx], NativeMachine::kUser + computes().size() - 1);
  EXPECT_EQ(m.vcpu->gpr[11] & (kCF | kIF), unsigned{kCF | kIF});
  EXPECT_EQ(*reinterpret_cast<uint64_t*>(m.vcpu->xsave_area() + 160 + 3 * 16), 0x123456789abcdefull);
  EXPECT_EQ(m.counts().system_calls, 1u);
}

GUEST_CODE(returns, "mov eax, 1; syscall; lea rbx, [rax + 1]; mov eax, 2; syscall")
TEST(Native, GoesOnBehindTheSystemCall) {
  NativeMachine m;
  const uint8_t sysret[] = {0x48, 0x0f, 0x07};
  RUN(m, returns());
  memcpy(m.ram + NativeMachine::kKernel + 1, sysret, 3);
  m.vm->notice_write(m.ram + NativeMachine::kKernel, 16);
  m.vcpu->gpr[kRax] = 41;
  // SYSRET, and natively to the second call, which HLTs.
  m.vcpu->mp_state = 0;
  ASSERT_EQ(m.vcpu->run_guest(), 0);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 42u);
  EXPECT_EQ(m.vcpu->gpr[kRax], 2u);
}

// Pages that have to be mapped for the stub, in the midst of a state that has to be the same behind it.
GUEST_CODE(keeps_all, "movq xmm0, rax; movq xmm7, rbx; pinsrq xmm15, rsi, 1; vmovq xmm3, r8; vinserti128 ymm5, ymm3, xmm0, 1; fld1; fldpi; stc; "
                      "mov cl, [rdi]; mov [rdi + 0x100000], cl; mov cl, [rdi - 0x80000]; mov rdx, fs:[0]; mov rbp, gs:[8]; mov r9, [r10 + r11]; adc r12, 0; syscall")
TEST(Native, AllItsStateOutlivesFaults) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "the host has no AVX2";
  NativeMachine m;
  for (unsigned i = 0; i < 16; i++) m.vcpu->gpr[i] = 0x1111111111111111ull * i + 0x0123456789abcdefull;
  const uint64_t gpr8 = m.vcpu->gpr[8], rax = m.vcpu->gpr[kRax], rbx = m.vcpu->gpr[kRbx], rsi = m.vcpu->gpr[kRsi];
  m.put(keeps_all());
  m.user(NativeMachine::kUser);
  m.vcpu->gpr[kRdi] = NativeMachine::kData + 0x3000;
  m.vcpu->gpr[10] = NativeMachine::kData, m.vcpu->gpr[11] = 0x140000;
  m.vcpu->gpr[12] = 41;
  m.vcpu->segment[kFS].base = NativeMachine::kData + 0x41000;
  m.vcpu->segment[kGS].base = NativeMachine::kData + 0x82000;
  m.at(NativeMachine::kData + 0x41000) = 0xfeed, m.at(NativeMachine::kData + 0x82008) = 0xf00d, m.at(NativeMachine::kData + 0x140000) = 0xbeef;
  m.vcpu->state_changed();
  if (!m.go()) GTEST_SKIP() << "the host allows no stub processes";
  ASSERT_TRUE(m.in_system_call());
  EXPECT_GT(m.counts().mapped, 3u);
  const uint8_t* area = m.vcpu->xsave_area();
  auto word = [&](size_t at) { return *reinterpret_cast<const uint64_t*>(area + at); };
  EXPECT_EQ(word(160 + 0 * 16), rax);
  EXPECT_EQ(word(160 + 7 * 16), rbx);
  EXPECT_EQ(word(160 + 15 * 16 + 8), rsi);
  EXPECT_EQ(word(160 + 3 * 16), gpr8);
  EXPECT_EQ(word(160 + 5 * 16), gpr8);
  EXPECT_EQ(word(576 + 5 * 16), rax);
  EXPECT_EQ(word(32), 0xc90fdaa22168c235ull);  // pi, at ST(0)
  EXPECT_EQ(word(48), 1ull << 63);
  EXPECT_EQ(m.vcpu->gpr[kRax], rax);
  EXPECT_EQ(m.vcpu->gpr[kRbx], rbx);
  EXPECT_EQ(m.vcpu->gpr[kRsi], rsi);
  EXPECT_EQ(m.vcpu->gpr[8], gpr8);
  EXPECT_EQ(m.vcpu->gpr[9], 0xbeefu);
  EXPECT_EQ(m.vcpu->gpr[12], 42u);
  EXPECT_EQ(m.vcpu->gpr[kRdx], 0xfeedu);
  EXPECT_EQ(m.vcpu->gpr[kRbp], 0xf00du);
  for (unsigned i = 13; i < 16; i++) EXPECT_EQ(m.vcpu->gpr[i], 0x1111111111111111ull * i + 0x0123456789abcdefull);
}

// MXCSR.MM (bit 17) is AMD's: who sets it goes on with it. Spec: AMD APM vol 1, 4.3.2.
GUEST_CODE(keeps_mm, "ldmxcsr [rdi]; mov rbx, [rsi]; stmxcsr [rdi + 4]; andps xmm0, [rdi + 1]; mov eax, 60; syscall")
TEST(Native, MisalignedExceptionMaskOutlivesFaults) {
  alignas(16) uint8_t area[512] = {};
  _fxsave64(area);
  constexpr uint32_t kMm = 1u << 17;
  uint32_t mask;
  memcpy(&mask, area + 28, sizeof mask);
  if (!(mask & kMm)) GTEST_SKIP() << "the host has no MXCSR.MM";
  NativeMachine m;
  m.put(keeps_mm());
  m.user(NativeMachine::kUser);
  m.vcpu->gpr[kRdi] = NativeMachine::kData, m.vcpu->gpr[kRsi] = NativeMachine::kData + 0x100000;
  m.at<uint32_t>(NativeMachine::kData) = 0x1f80 | kMm;
  if (!m.go()) GTEST_SKIP() << "the host allows no stub processes";
  ASSERT_TRUE(m.in_system_call()) << "exception " << m.vector();
  EXPECT_GT(m.ran, 0u);
  EXPECT_EQ(m.at<uint32_t>(NativeMachine::kData + 4), 0x1f80 | kMm);
  EXPECT_EQ(*reinterpret_cast<const uint32_t*>(m.vcpu->xsave_area() + 24), 0x1f80 | kMm);
}

GUEST_CODE(sets_base, "mov r15, rdi; wrgsbase rdi; mov rbx, [rsi]; mov rbp, gs:[8]; rdgsbase rdx; lea rdi, [rdi + 0x1000]; wrfsbase rdi; mov r12, [rsi + 0x100000]; mov r13, fs:[0]; mov eax, 60; syscall")
TEST(Native, BasesThatTheCodeSetsOutliveTraps) {
  NativeMachine m;
  constexpr uint64_t kBase = NativeMachine::kData + 0x82000;
  m.at(kBase + 8) = 0xf00d, m.at(kBase + 0x1000) = 0xfeed;
  for (int round = 0; round < 20; round++) {
    m.put(sets_base());
    m.user(NativeMachine::kUser);
    m.vcpu->gpr[kRdi] = kBase, m.vcpu->gpr[kRsi] = NativeMachine::kData + 0x200000 + static_cast<uint64_t>(round) * 4096;
    m.vcpu->mp_state = 0;
    if (!m.go()) GTEST_SKIP() << "the host allows no stub processes";
    ASSERT_TRUE(m.in_system_call()) << round;
    EXPECT_EQ(m.vcpu->gpr[kRbp], 0xf00du);
    EXPECT_EQ(m.vcpu->gpr[kRdx], kBase);
    EXPECT_EQ(m.vcpu->gpr[13], 0xfeedu);
    EXPECT_EQ(m.vcpu->segment[kGS].base, kBase);
    EXPECT_EQ(m.vcpu->segment[kFS].base, kBase + 0x1000);
  }
}

GUEST_CODE(stores_nowhere, "mov ebx, 5; mov [rdi + 8], ebx; mov ebx, 6")
TEST(Native, GivesThePageFaultWithItsErrorCode) {
  NativeMachine m;
  m.entry(NativeMachine::kData) = 0;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, stores_nowhere());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.vcpu->cr2, NativeMachine::kData + 8);
  EXPECT_EQ(m.frame(5), 6u);  // W, U, not present
  EXPECT_EQ(m.frame(4), NativeMachine::kUser + 5);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 5u);
  EXPECT_EQ(m.frame(3), 0x33u);
  EXPECT_EQ(m.frame(1), NativeMachine::kStack);
}
TEST(Native, GivesAProtectionFaultForAReadOnlyPage) {
  NativeMachine m;
  m.entry(NativeMachine::kData) &= ~2ull;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, stores_nowhere());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.frame(5), 7u);
}

// SDM vol 3, 4.10.4.1: a page fault drops what the TLB has of its page. So a kernel that copies a page on a write to it need not flush it.
GUEST_CODE(reads_then_writes, "mov rax, [rdi]; mov [rdi], rax")
GUEST_CODE(reads_once_more, "mov rbx, [rdi]; syscall")
GUEST_CODE(copies_a_page, "mov qword ptr [0x23000], 0x610007; mov qword ptr [rsp + 8], 0x400040; add rsp, 8; iretq")
TEST(Native, APageOfAFaultIsNotKept) {
  NativeMachine m;
  constexpr uint64_t kNew = 0x610000, kHandler = 0xb000;
  static_assert(NativeMachine::kData == 0x600000 && NativeMachine::kTables == 0x20000 && NativeMachine::kUser == 0x400000);
  m.at(NativeMachine::kData) = 1, m.at(kNew) = 2;
  m.entry(NativeMachine::kData) &= ~2ull;
  m.put(reads_once_more(), NativeMachine::kUser + 64);
  m.put(copies_a_page(), kHandler);
  m.at<uint32_t>(NativeMachine::kIdt + kPFv * 16) = 8u << 16 | kHandler;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, reads_once_more());  // makes the stub, which takes its time
  m.vcpu->tsc_khz = 2'000'000'000;  // by which the stretch up to the fault is short on a busy host too: a long one might be the last in a stub
  m.put(reads_then_writes());
  m.user(NativeMachine::kUser);
  m.vcpu->mp_state = 0;
  GO_ON(m);
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRax], 1u);
  EXPECT_EQ(m.ran, 2u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 2u);
}

// A page that was code, is none any more, and stays writable in the stub meanwhile: translated once more, it is watched as before.
GUEST_CODE(writes_its_number, "mov [rdi + 1], esi; syscall")
GUEST_CODE(is_written, "mov ebx, 1; hlt")
TEST(Native, APageThatBecomesCodeAgainIsWatchedAgain) {
  NativeMachine m;
  constexpr uint64_t kCode = NativeMachine::kData;
  auto write_natively = [&](uint32_t value) {
    m.user(NativeMachine::kUser);
    m.vcpu->gpr[kRdi] = kCode, m.vcpu->gpr[kRsi] = value;
    m.vcpu->mp_state = 0;
    return m.go();
  };
  auto translated = [&] {  // the kernel calls it
    m.vcpu->rip = kCode;
    m.vcpu->mp_state = 0;
    EXPECT_EQ(m.vcpu->run_guest(), 0);
    return m.vcpu->gpr[kRbx];
  };
  m.put(is_written(), kCode);
  m.put(writes_its_number());
  if (!write_natively(10)) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(translated(), 10u);
  m.vm->notice_write(m.ram + kCode, 16);  // a device's: no block is left
  m.user(NativeMachine::kUser + writes_its_number().size() - 2);
  m.vcpu->mp_state = 0;
  GO_ON(m);
  EXPECT_EQ(translated(), 10u);
  ASSERT_TRUE(write_natively(11));
  EXPECT_EQ(translated(), 11u);
}

GUEST_CODE(reads_kernel, "mov rax, [0x5000]")
TEST(Native, SupervisorPagesAreNotThere) {
  NativeMachine m;
  RUN(m, reads_kernel());
  EXPECT_EQ(m.vector(), unsigned{kPFv});
  EXPECT_EQ(m.frame(5), 5u);
  EXPECT_EQ(m.vcpu->cr2, 0x5000u);
}

GUEST_CODE(reads_and_writes, "mov rax, [rdi]; mov [rdi + 0x1000], rax; mov eax, 60; syscall")
TEST(Native, SetsAccessedAndDirtyAsUsed) {
  NativeMachine m;
  for (uint64_t linear = NativeMachine::kUser; linear < NativeMachine::kRam; linear += 4096) m.entry(linear) &= ~0x60ull;
  m.at(NativeMachine::kData) = 99;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, reads_and_writes());
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.entry(NativeMachine::kData) & 0x60, 0x20u);
  EXPECT_EQ(m.entry(NativeMachine::kData + 0x1000) & 0x60, 0x60u);
  EXPECT_EQ(m.entry(NativeMachine::kData + 0x2000) & 0x60, 0u) << "its neighbour was not touched";
  EXPECT_EQ(m.at(NativeMachine::kData + 0x1000), 99u);
}

GUEST_CODE(writes_twice, "mov [rdi], rdi; mov eax, 60; syscall")
GUEST_CODE(reads, "mov rax, [rdi]; mov rbx, rax; mov eax, 60; syscall")
TEST(Native, SeesANewPageBehindAFlush) {
  NativeMachine m;
  m.at(NativeMachine::kData) = 1;
  m.at(0xa00000) = 2;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, reads());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 1u);
  m.entry(NativeMachine::kData) = 0xa00000 | 7;
  m.user(NativeMachine::kUser);
  flush_tlb_page(*m.vcpu, NativeMachine::kData);
  GO_ON(m);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 2u);
  m.entry(NativeMachine::kData) = 0;
  m.user(NativeMachine::kUser);
  flush_tlb_page(*m.vcpu, NativeMachine::kData);
  GO_ON(m);
  EXPECT_EQ(m.vector(), unsigned{kPFv});
}
// The code changes an entry, does not flush, and is refused a write by the new one: its page holds translated code.
GUEST_CODE(renames, "mov rax, [rdi]; mov [rsi], r8; mov [rdi], rdi; mov eax, 60; syscall")
TEST(Native, ARefusedWriteDoesNotRenameWhatIsMapped) {
  NativeMachine m;
  constexpr uint64_t kOther = 0xa00000, kTable = NativeMachine::kTables + (NativeMachine::kData >> 21) * 4096;
  m.at(NativeMachine::kData) = 1;
  m.entry(0x700000) = kTable | 7;
  m.vm->slots->find(kOther)->code_of(kOther).store(1);
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  m.vcpu->gpr[kRsi] = 0x700000 + (NativeMachine::kData >> 12 & 511) * 8;
  m.vcpu->gpr[8] = kOther | 0x67;
  RUN(m, renames());
  ASSERT_TRUE(m.in_system_call());
  m.at(NativeMachine::kData) = 1;
  m.at(kOther) = 2;
  flush_tlb_page(*m.vcpu, NativeMachine::kData);
  ASSERT_TRUE(m.run(reads()));
  EXPECT_GT(m.ran, 0u);
  EXPECT_EQ(m.vcpu->gpr[kRbx], 2u);
}
TEST(Native, AnAccessedBitThatWasClearedIsSetAgainBehindAFlush) {
  NativeMachine m;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, reads());
  m.entry(NativeMachine::kData) &= ~0x20ull;
  m.user(NativeMachine::kUser);
  GO_ON(m);
  EXPECT_TRUE(m.entry(NativeMachine::kData) & 0x20);
}

TEST(Native, ADirtyBitThatWasClearedIsSetAgainBehindAFlush) {
  NativeMachine m;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, writes_twice());
  EXPECT_TRUE(m.entry(NativeMachine::kData) & 0x40);
  m.entry(NativeMachine::kData) &= ~0x40ull;
  m.user(NativeMachine::kUser);
  GO_ON(m);
  EXPECT_TRUE(m.entry(NativeMachine::kData) & 0x40);
}

// Linear addresses where the stub has its own pages, and beside them: they are mapped from here in the guest's memory on.
constexpr uint64_t kLow = 0x900000;
void map_low(NativeMachine& m) {
  for (uint64_t page = 0x1000; page < 0x60000; page += 4096) m.entry(page) = (kLow + page) | 0x67;
}
TEST(Native, LowPagesAreTheGuestsBesideTheStubsOwn) {
  for (uint64_t page : {0x1000, 0xf000, 0x31000, 0x3f000, 0x40000}) {
    NativeMachine m;
    map_low(m);
    m.at(kLow + page) = 41;
    m.vcpu->gpr[kRdi] = page;
    RUN(m, reads());
    EXPECT_TRUE(m.in_system_call()) << std::hex << page << ": " << m.vector();
    EXPECT_EQ(m.vcpu->gpr[kRbx], 41u);
  }
}
TEST(Native, LowPagesOfALargePage) {
  NativeMachine m;
  memcpy(m.ram + 0x800000, m.ram, 0x200000);  // the kernel, too
  m.at(0x3000) = 0x800000 | 0xe7;
  m.at(0x800000 + 0x140000) = 41;
  m.vcpu->gpr[kRdi] = 0x140000;
  RUN(m, reads());
  EXPECT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 41u);
}
// ... and their tables are others behind a flush.
TEST(Native, TheStubOutlivesItsRegionsEnd) {
  NativeMachine m;
  map_low(m);
  m.at(kLow + 0x50000) = 41;
  m.vcpu->gpr[kRdi] = 0x50000;
  RUN(m, reads());
  ASSERT_TRUE(m.in_system_call());
  memcpy(m.ram + 0xc00000, m.ram + NativeMachine::kTables, 4096);
  m.at(0x3000) = 0xc00007;
  m.at(0xc00000 + 0x50 * 8) = (kLow + 0x51000) | 0x67;
  m.at(kLow + 0x51000) = 42;
  m.user(NativeMachine::kUser);
  flush_tlb(*m.vcpu, false);
  GO_ON(m);
  EXPECT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 42u);
  EXPECT_EQ(m.counts().spaces, 1u);
}
// The last page that a host process can have is not the last of its region.
TEST(Native, TheLastRegionChanges) {
  NativeMachine m;
  constexpr uint64_t kLast = 0x7fffffe00000, kTable = 0xc00000;
  m.at(0x1000 + 255 * 8) = 0x4007;
  m.at(0x4000 + 511 * 8) = 0x5007;
  m.at(0x5000 + 511 * 8) = kTable | 7;
  for (uint64_t i = 0; i < 512; i++) m.at(kTable + i * 8) = (kLow + i * 4096) | 0x67;
  m.at(kLow + 511 * 4096) = 41;
  for (uint64_t page : {uint64_t{510}, uint64_t{511}}) {
    m.at(kLow + page * 4096) = 40 + page;
    m.vcpu->gpr[kRdi] = kLast + page * 4096;
    RUN(m, reads());
    EXPECT_TRUE(m.in_system_call());
    EXPECT_EQ(m.vcpu->gpr[kRbx], 40 + page);
    memcpy(m.ram + 0xd00000, m.ram + kTable, 4096);
    m.at(0x5000 + 511 * 8) = 0xd00007;
    flush_tlb(*m.vcpu, false);
  }
  EXPECT_EQ(m.counts().spaces, 1u);
}

// A guest decides how many regions are in use; what is kept of them has a bound, and is begun anew behind it.
GUEST_CODE(walks_far, "mov r12, rdi; mov ecx, 6000; 1: add r13, [r12]; add r12, 0x200000; dec ecx; jnz 1b; mov eax, 60; syscall")
TEST(Native, MoreRegionsThanAreKept) {
  NativeMachine m;
  // 32 GiB of linear addresses by the page table of kData, from 512 GiB on.
  m.at(0x1000 + 8) = 0x4007;
  for (unsigned i = 0; i < 32; i++) m.at(0x4000 + i * 8) = 0x5007;
  for (unsigned i = 0; i < 512; i++) m.at(0x5000 + i * 8) = (NativeMachine::kTables + (NativeMachine::kData >> 21) * 4096) | 7;
  m.at(NativeMachine::kData) = 3;
  m.vcpu->gpr[kRdi] = 512ull << 30;
  m.vcpu->gpr[13] = 0;
  RUN(m, walks_far());
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[13], 18000u);
  EXPECT_GT(m.counts().spaces, 1u);
}

TEST(Native, DirtyLogsSeeWhatItWrites) {
  NativeMachine m;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, writes_twice());
  kvm_userspace_memory_region region{0, KVM_MEM_LOG_DIRTY_PAGES, 0, NativeMachine::kRam, reinterpret_cast<uint64_t>(m.ram)};
  ASSERT_EQ(m.vm->set_memory_region(region), 0);
  uint64_t log[NativeMachine::kRam / 4096 / 64];
  constexpr unsigned kPage = NativeMachine::kData >> 12;
  for (int round = 0; round < 2; round++) {
    ASSERT_EQ(m.vm->get_dirty_log(0, log, true), 0);
    m.user(NativeMachine::kUser);
    GO_ON(m);
    ASSERT_EQ(m.vm->get_dirty_log(0, log, true), 0);
    EXPECT_TRUE(log[kPage / 64] >> kPage % 64 & 1) << "round " << round;
  }
}

TEST(Native, MemoryThatWasLentLeavesNoDescriptor) {
  NativeMachine m;
  RUN(m, computes());
  auto open_files = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); };
  const auto before = open_files();
  for (int round = 0; round < 20; round++) {
    void* other = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, m.file, 0xc00000);
    ASSERT_EQ(m.vm->lent.add(other, 1 << 20, m.file, 0xc00000), 0);
    m.vm->return_memory(other, 1 << 20);
    munmap(other, 1 << 20);
  }
  EXPECT_EQ(open_files(), before);
}

TEST(Native, ASlotThatIsGoneIsGoneFromTheStub) {
  NativeMachine m;
  uint8_t* other = static_cast<uint8_t*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, m.file, 0xc00000));
  kvm_userspace_memory_region region{1, 0, 0x10000000, 1 << 20, reinterpret_cast<uint64_t>(other)};
  ASSERT_EQ(m.vm->set_memory_region(region), 0);
  ASSERT_EQ(m.vm->lent.add(other, 1 << 20, m.file, 0xc00000), 0);
  m.entry(NativeMachine::kData) = 0x10000000 | 7;
  m.at(0xc00000) = 77;
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  RUN(m, reads());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 77u);
  region.memory_size = 0;
  std::atomic<bool> done{false};
  ASSERT_EQ(m.vm->set_memory_region(region), 0);
  m.user(NativeMachine::kUser);
  ASSERT_TRUE(m.go());
  // A read from no slot is a device's.
  EXPECT_EQ(m.vcpu->run->exit_reason, unsigned{KVM_EXIT_MMIO});
  EXPECT_EQ(m.vcpu->run->mmio.phys_addr, 0x10000000u);
  munmap(other, 1 << 20);
}

GUEST_CODE(asks_cpuid, "mov eax, 1; mov r14d, 3; cpuid; mov r8d, eax; mov r9d, ebx; mov r10d, ecx; mov r12d, edx; mov eax, 60; syscall")
TEST(Native, CpuidIsTheGuests) {
  NativeMachine m;
  // Bytes of code before it, so that more than the place alone decides.
  std::vector<uint8_t> code(200, 0x90);
  code.insert(code.end(), asks_cpuid().begin(), asks_cpuid().end());
  if (!m.run(code)) GTEST_SKIP() << "the host allows no stub processes";
  ASSERT_TRUE(m.in_system_call());
  NativeMachine translated;
  translated.put(code);
  translated.user(NativeMachine::kUser);
  translated.vcpu->run_guest();
  for (unsigned r : {8u, 9u, 12u}) EXPECT_EQ(m.vcpu->gpr[r], translated.vcpu->gpr[r]) << r;
  EXPECT_EQ(m.vcpu->gpr[14], 3u);
}

// A host may have more of them than any guest.
GUEST_CODE(reads_xcr0, "xor ecx, ecx; xgetbv; mov rbx, rax; syscall")
GUEST_CODE(saves_all, "mov eax, -1; mov edx, -1; xsave [rdi]; syscall")
GUEST_CODE(saves_compactly, "mov eax, -1; mov edx, -1; xsavec [rdi]; syscall")
GUEST_CODE(reads_keys, "xor ecx, ecx; rdpkru; syscall")
TEST(Native, StateComponentsAreTheGuests) {
  NativeMachine m;
  const uint64_t native = m.vcpu->xcr0;
  m.put(reads_xcr0());
  m.user(NativeMachine::kUser);
  if (!m.go()) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(m.vcpu->gpr[kRbx], native);
  for (std::span<const uint8_t> code : {saves_all(), saves_compactly()}) {
    memset(m.ram + NativeMachine::kData, 0, 4096);
    memset(m.ram + NativeMachine::kData + Vcpu::xsave_size(), 0xcc, 4096 - Vcpu::xsave_size());
    m.put(code);
    m.user(NativeMachine::kUser);
    m.vcpu->gpr[kRdi] = NativeMachine::kData;
    m.vcpu->mp_state = 0;
    ASSERT_TRUE(m.go());
    ASSERT_TRUE(m.in_system_call());
    for (unsigned i = Vcpu::xsave_size(); i < 4096; i++) ASSERT_EQ(m.ram[NativeMachine::kData + i], 0xcc) << i;
    EXPECT_EQ(m.at(NativeMachine::kData + 520) & ~(1ull << 63) & ~native, 0u) << "XCOMP_BV";
  }
  m.put(reads_keys());
  m.user(NativeMachine::kUser);
  m.vcpu->mp_state = 0;
  ASSERT_TRUE(m.go());
  EXPECT_EQ(m.vector(), unsigned{kUD}) << "CR4.PKE is not set";
}

TEST(Native, LeavesItsThreadTheCpusThatItHad) {
  cpu_set_t before, behind;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  if (CPU_COUNT(&before) < 2) GTEST_SKIP() << "one CPU only";
  NativeMachine m;
  RUN(m, computes());
  ASSERT_EQ(sched_getaffinity(0, sizeof behind, &behind), 0);
  EXPECT_TRUE(CPU_EQUAL(&behind, &before));
}

// A page with CPUID in it that is called often runs natively but for that.
GUEST_CODE(calls_often, "mov r13d, 100; 1: mov edi, 20; call 0x600000 - 0x400000 + guest_calls_often; add r15, rax; dec r13d; jnz 1b; mov eax, 60; syscall")
GUEST_CODE(called, "lea rax, [rdi + 1]; ret; mov eax, 1; cpuid; ret")
TEST(Native, CodeBesideCpuidRunsToo) {
  NativeMachine m;
  m.put(called(), NativeMachine::kData);
  m.vcpu->gpr[15] = 0;
  RUN(m, calls_often());
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[15], 2100u);
  EXPECT_LT(m.ran, 90u) << "each call left the stub";
}

// ... but not when it has become writable, in place of its copy.
GUEST_CODE(writes_beside_cpuid, "mov r13d, 100; 1: mov edi, 20; call 0x600000 - 0x400000 + guest_writes_beside_cpuid; dec r13d; jnz 1b; mov r13d, 200; "
                                "2: mov [r12], r14; dec r13d; jnz 2b; call 0x600005 - 0x400000 + guest_writes_beside_cpuid; mov r8d, eax; mov r9d, ebx; mov r10d, ecx; mov eax, 60; syscall")
TEST(Native, CpuidOfAPageThatIsWrittenIsTheGuests) {
  NativeMachine native, translated;
  for (NativeMachine* m : {&native, &translated}) {
    m->put(called(), NativeMachine::kData);
    m->put(writes_beside_cpuid());
    m->user(NativeMachine::kUser);
    // In the same 64 bytes, so that its translation is dropped; what is there already, so that its copy is not.
    m->vcpu->gpr[12] = NativeMachine::kData + 16, m->vcpu->gpr[14] = m->at(NativeMachine::kData + 16);
  }
  if (!native.go()) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_LT(native.ran, 90u);
  translated.vcpu->run_guest();
  ASSERT_TRUE(native.in_system_call() && translated.in_system_call());
  for (unsigned r : {8u, 9u, 10u}) EXPECT_EQ(native.vcpu->gpr[r], translated.vcpu->gpr[r]) << r;
}

GUEST_CODE(reads_time, "rdtsc; mov ebx, eax; mov ecx, edx; rdtscp; mov r8d, ecx; mov eax, 60; syscall")
TEST(Native, TheTimeStampIsTheGuestsWithItsOffset) {
  for (uint64_t offset : {uint64_t{0}, uint64_t{1} << 60}) {
    NativeMachine m;
    m.vcpu->msr.tsc_offset = offset;
    m.vcpu->msr.tsc_aux = 0x1234;
    const uint64_t before = __rdtsc() + offset;
    if (!m.run(reads_time())) GTEST_SKIP() << "the host allows no stub processes";
    ASSERT_TRUE(m.in_system_call());
    const uint64_t after = __rdtsc() + offset;
    EXPECT_GE(m.vcpu->gpr[kRdx] << 32, before & ~0xffffffffull);
    EXPECT_LE(m.vcpu->gpr[kRdx] << 32 | m.vcpu->gpr[kRbx], after);
    EXPECT_EQ(m.vcpu->gpr[8], 0x1234u);
  }
}

GUEST_CODE(breaks, "mov eax, 3; int3; nop")
TEST(Native, Int3IsATrap) {
  NativeMachine m;
  RUN(m, breaks());
  EXPECT_EQ(m.vector(), unsigned{kBP});
  EXPECT_EQ(m.frame(4), NativeMachine::kUser + 6);
}

GUEST_CODE(steps, "pushfq; or dword ptr [rsp], 0x100; popfq; mov eax, 4; mov eax, 5")
TEST(Native, TheTrapFlagTrapsBehindOneInstruction) {
  NativeMachine m;
  RUN(m, steps());
  EXPECT_EQ(m.vector(), unsigned{kDB});
  EXPECT_EQ(m.vcpu->gpr[kRax], 4u);
  EXPECT_TRUE(m.vcpu->dr6 & 1 << 14);
}

// The first instruction behind POPF has to be done by the monitor, or is a page fault that it resolves.
GUEST_CODE(steps_over_fault, "pushfq; or dword ptr [rsp], 0x100; popfq; mov rbx, [rdi]; mov rbx, rdi")
GUEST_CODE(steps_over_rdtsc, "xor ebx, ebx; pushfq; or dword ptr [rsp], 0x100; popfq; rdtsc; mov rbx, rdi")
TEST(Native, TheTrapFlagTrapsBehindOneInstructionThatLeftTheStub) {
  for (std::span<const uint8_t> code : {steps_over_fault(), steps_over_rdtsc()}) {
    NativeMachine m;
    m.vcpu->msr.tsc_offset = 1ull << 60;  // so that RDTSC faults where it can
    m.at(NativeMachine::kData) = 77;
    m.vcpu->gpr[kRdi] = NativeMachine::kData;
    m.vcpu->gpr[12] = 12;
    RUN_NATIVELY_IF(code.data() == steps_over_fault().data() || host_traps_time_stamps(), m, code);
    EXPECT_EQ(m.vector(), unsigned{kDB});
    EXPECT_EQ(m.frame(4), NativeMachine::kUser + code.size() - 3);
    EXPECT_EQ(m.frame(1), NativeMachine::kStack);
    EXPECT_EQ(m.vcpu->gpr[kRbx], code.data() == steps_over_fault().data() ? 77u : 0u);
    EXPECT_EQ(m.vcpu->gpr[12], 12u);
  }
}

GUEST_CODE(breaks_stepping, "pushfq; or dword ptr [rsp], 0x100; popfq; int3; nop; nop")
TEST(Native, Int3WithTheTrapFlagIsInt3) {
  NativeMachine m;
  RUN(m, breaks_stepping());
  EXPECT_EQ(m.vector(), unsigned{kBP});
  EXPECT_EQ(m.frame(4), NativeMachine::kUser + breaks_stepping().size() - 2);
}
GUEST_CODE(steps_behind_int3, "jmp 1f; int3; 1: pushfq; or dword ptr [rsp], 0x100; popfq; jmp 2f; int3; 2: nop; nop")
TEST(Native, AStepToBehindAnInt3IsAStep) {
  NativeMachine m;
  RUN(m, steps_behind_int3());
  EXPECT_EQ(m.vector(), unsigned{kDB});
  EXPECT_EQ(m.frame(4), NativeMachine::kUser + steps_behind_int3().size() - 2);
}

GUEST_CODE(sets_base_of_a_selector, "mov eax, 0x2b; mov fs, eax; wrfsbase rdi; mov gs, eax; wrgsbase rsi; mov rbx, [r8]; mov rdx, fs:[0]; mov r9, gs:[0]; syscall")
TEST(Native, BasesBehindSelectorsOutliveTraps) {
  NativeMachine m;
  constexpr uint64_t kFsBase = NativeMachine::kData + 0x1000, kGsBase = NativeMachine::kData + 0x2000;
  m.at(kFsBase) = 0xfeed, m.at(kGsBase) = 0xf00d;
  m.vcpu->gpr[kRdi] = kFsBase, m.vcpu->gpr[kRsi] = kGsBase, m.vcpu->gpr[8] = NativeMachine::kData + 0x80000;
  RUN_NATIVELY_IF(host_keeps_segment_bases(), m, sets_base_of_a_selector());
  ASSERT_TRUE(m.in_system_call()) << m.vector();
  EXPECT_EQ(m.vcpu->gpr[kRdx], 0xfeedu);
  EXPECT_EQ(m.vcpu->gpr[9], 0xf00du);
  EXPECT_EQ(m.vcpu->segment[kFS].base, kFsBase);
  EXPECT_EQ(m.vcpu->segment[kGS].base, kGsBase);
}

GUEST_CODE(divides, "xor ecx, ecx; mov eax, 1; cdq; div ecx")
TEST(Native, DivisionByZeroIsDe) {
  NativeMachine m;
  RUN(m, divides());
  EXPECT_EQ(m.vector(), unsigned{kDE});
}

GUEST_CODE(halts, "mov eax, 9; hlt")
TEST(Native, PrivilegedInstructionsAreGp) {
  NativeMachine m;
  RUN(m, halts());
  EXPECT_EQ(m.vector(), unsigned{kGP});
  EXPECT_EQ(m.vcpu->gpr[kRax], 9u);
}

GUEST_CODE(spins, "1: inc rax; jmp 1b")
TEST(Native, AKickStopsIt) {
  NativeMachine m;
  std::atomic<bool> over{false};
  std::thread kicker([&] {
    while (!over.load()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      m.vcpu->request_exit();
    }
  });
  const bool possible = m.run(spins());
  over = true;
  kicker.join();
  if (!possible) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(m.result, -EINTR);
  EXPECT_EQ(m.vcpu->cpl, 3);
}

// Another thread wants the vCPU at a safe point while it spins in a stub.
TEST(Native, DirtyLogsNeedNoExit) {
  NativeMachine m;
  kvm_userspace_memory_region region{0, KVM_MEM_LOG_DIRTY_PAGES, 0, NativeMachine::kRam, reinterpret_cast<uint64_t>(m.ram)};
  std::atomic<bool> done{false};
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    uint64_t log[NativeMachine::kRam / 4096 / 64];
    m.vm->set_memory_region(region);
    for (int i = 0; i < 20; i++) m.vm->get_dirty_log(0, log, true);
    done = true;
    m.vcpu->request_exit();
  });
  const bool possible = m.run(spins());
  other.join();
  if (!possible) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_TRUE(done);
  EXPECT_EQ(m.result, -EINTR);
}

GUEST_CODE(writes_code, "mov byte ptr [rdi + 1], 5; call rdi; mov rbx, rax; mov byte ptr [rdi + 1], 6; call rdi; mov r8, rax; mov eax, 60; syscall")
GUEST_CODE(written, "mov eax, 1; ret")
TEST(Native, CodeThatIsTranslatedIsSeenToChange) {
  NativeMachine m;
  m.put(written(), NativeMachine::kData);
  // First by translation, so that the page has blocks.
  m.put(writes_code());
  m.user(NativeMachine::kUser);
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  m.vcpu->run_guest();
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[8], 6u);
  m.user(NativeMachine::kUser);
  m.vcpu->gpr[kRdi] = NativeMachine::kData;
  if (!m.go()) GTEST_SKIP() << "the host allows no stub processes";
  ASSERT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 5u);
  EXPECT_EQ(m.vcpu->gpr[8], 6u);
}

GUEST_CODE(leaves, "mov ebx, 7; mov eax, 60; syscall")
TEST(Native, AStubThatWasKilledIsAnInternalError) {
  NativeMachine m;
  std::thread killer([&] {
    for (int fd = -1; fd < 0;) fd = m.vcpu->engine->native_pidfd.load();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    syscall(SYS_pidfd_send_signal, m.vcpu->engine->native_pidfd.load(), SIGKILL, nullptr, 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    m.vcpu->request_exit();
  });
  const bool possible = m.run(spins());
  if (!possible) m.vcpu->engine->native_pidfd = 1 << 20;
  killer.join();
  if (!possible) GTEST_SKIP() << "the host allows no stub processes";
  EXPECT_EQ(m.result, 0);
  EXPECT_EQ(m.vcpu->run->exit_reason, unsigned{KVM_EXIT_INTERNAL_ERROR});
  // The registers are gone: nothing is run with old ones, until somebody has given others.
  m.put(leaves());
  const uint64_t before = m.counts().runs;
  m.vcpu->engine->exit_request = false;
  m.vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
  EXPECT_EQ(m.vcpu->run_guest(), 0);
  EXPECT_EQ(m.vcpu->run->exit_reason, unsigned{KVM_EXIT_INTERNAL_ERROR});
  EXPECT_EQ(m.counts().runs, before);
  RUN(m, leaves());
  EXPECT_TRUE(m.in_system_call());
  EXPECT_EQ(m.vcpu->gpr[kRbx], 7u);
}

}  // namespace
}  // namespace vireo::softkvm
