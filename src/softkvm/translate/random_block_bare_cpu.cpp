// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/random_block_bare_cpu.h"

#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "softkvm/cpu/host_code_segment.h"
#include "softkvm/cpu/insn.h"

namespace vireo::softkvm {
namespace {

constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
const BlockState* g_in;
BlockState* g_out;
mcontext_t g_saved;
uint8_t g_saved_area[kAreaSize];

void enter_block(int, siginfo_t*, void* context) {
  auto& m = static_cast<ucontext_t*>(context)->uc_mcontext;
  g_saved = m;
  auto* area = reinterpret_cast<uint8_t*>(m.fpregs);
  memcpy(g_saved_area, area, layout().end);
  for (unsigned i = 0; i < 16; i++) m.gregs[kOrder[i]] = static_cast<greg_t>(g_in->gpr[i]);
  m.gregs[REG_RIP] = static_cast<greg_t>(g_in->rip);
  m.gregs[REG_EFL] = static_cast<greg_t>((static_cast<uint64_t>(m.gregs[REG_EFL]) & ~uint64_t{kStatusFlags | kDF | kAC}) | g_in->flags);
  // Linux's 32-bit user code segment, or the LDT's first entry.
  if (g_in->mode != CodeMode::k64) m.gregs[REG_CSGSFS] = (m.gregs[REG_CSGSFS] & ~greg_t{0xffff}) | (g_in->mode == CodeMode::k32 ? 0x23 : 7);
  memcpy(area, g_in->area, 416);
  memcpy(area + 576, g_in->area + 576, layout().end - 576);
  uint64_t bv, ours;
  memcpy(&bv, area + 512, 8);
  memcpy(&ours, g_in->area + 512, 8);
  bv = (bv & ~components()) | ours;
  memcpy(area + 512, &bv, 8);
  memcpy(area + 28, g_saved_area + 28, 4);
}

void leave_block(int, siginfo_t*, void* context) {
  asm volatile("pushf; andl $~0x40000, (%%rsp); popf" ::: "memory", "cc");  // AC: the block may have set it
  auto& m = static_cast<ucontext_t*>(context)->uc_mcontext;
  auto* area = reinterpret_cast<uint8_t*>(m.fpregs);
  for (unsigned i = 0; i < 16; i++) g_out->gpr[i] = static_cast<uint64_t>(m.gregs[kOrder[i]]);
  g_out->rip = static_cast<uint64_t>(m.gregs[REG_RIP]);
  g_out->flags = static_cast<uint64_t>(m.gregs[REG_EFL]);
  g_out->vector = static_cast<unsigned>(m.gregs[REG_TRAPNO]);
  g_out->error = static_cast<uint64_t>(m.gregs[REG_ERR]);
  g_out->cr2 = static_cast<uint64_t>(m.gregs[REG_CR2]);
  memcpy(g_out->area, area, layout().end);
  memcpy(area, g_saved_area, layout().end);
  auto* fpregs = m.fpregs;
  m = g_saved;
  m.fpregs = fpregs;
}

bool has_fsgsbase() { return getauxval(AT_HWCAP2) & 2; }
uint64_t gs_base() {
  uint64_t base = 0;
  if (has_fsgsbase()) asm volatile("rdgsbase %0" : "=r"(base));
  else syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  return base;
}
void set_gs_base(uint64_t base) {
  if (has_fsgsbase()) asm volatile("wrgsbase %0" ::"r"(base));
  else syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

static uint8_t* map(uint64_t at, size_t size, int protection) {
  void* p = mmap(reinterpret_cast<void*>(at), size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (p != reinterpret_cast<void*>(at)) abort();
  return static_cast<uint8_t*>(p);
}

}  // namespace

bool BareCpu::runs(CodeMode mode) { return mode == CodeMode::k64 || host_runs_32_bit_code(); }

BareCpu::BareCpu() {
  code_ = map(BlockSpace::kCode, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
  data_ = map(BlockSpace::kData, kDataSize, PROT_READ | PROT_WRITE);
  stack_.ss_size = 256 << 10;
  stack_.ss_sp = mmap(nullptr, stack_.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  sigaltstack(&stack_, nullptr);
}

BareCpu::~BareCpu() {
  munmap(code_, 8192);
  munmap(data_, kDataSize);
  stack_t none{};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
  munmap(stack_.ss_sp, stack_.ss_size);
}

void BareCpu::protect() {
  for (unsigned i = 0; i < BlockSpace::kPages; i++) {
    auto k = BlockSpace::kind(i);
    if (k != BlockSpace::Kind::kWritable) mprotect(data_ + i * 4096, 4096, k == BlockSpace::Kind::kReadOnly ? PROT_READ : PROT_NONE);
  }
  protected_ = true;
}

void BareCpu::run(const BlockState& in, std::span<const uint8_t> code, BlockState& out) {
  memcpy(reinterpret_cast<void*>(in.code_base() + in.rip), code.data(), code.size());
  for (unsigned i = 0; i < BlockSpace::kPages; i++)
    if (!protected_ || BlockSpace::kind(i) == BlockSpace::Kind::kWritable) memcpy(data_ + i * 4096, in.data.data() + i * 4096, 4096);
  if (!protected_) protect();
  g_in = &in;
  g_out = &out;
  struct sigaction enter = {}, leave = {}, before[6];
  enter.sa_sigaction = enter_block;
  leave.sa_sigaction = leave_block;
  enter.sa_flags = leave.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGUSR1, &enter, nullptr);
  const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  for (unsigned i = 0; i < 5; i++) sigaction(signals[i], &leave, &before[i]);
  const uint64_t gs = gs_base();
  set_gs_base(BlockSpace::kGsBase);
  // 64-bit programs run with null DS and ES.
  uint16_t ds, es;
  asm volatile("mov %%ds, %0; mov %%es, %1" : "=r"(ds), "=r"(es));
  if (in.mode != CodeMode::k64) asm volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0x2b));
  raise(SIGUSR1);
  asm volatile("mov %0, %%ds; mov %1, %%es" ::"r"(ds), "r"(es));
  set_gs_base(gs);
  for (unsigned i = 0; i < 5; i++) sigaction(signals[i], &before[i], nullptr);
  for (unsigned i = 0; i < BlockSpace::kPages; i++)
    memcpy(out.data.data() + i * 4096, BlockSpace::kind(i) == BlockSpace::Kind::kAbsent ? in.data.data() + i * 4096 : data_ + i * 4096, 4096);
}

}  // namespace vireo::softkvm
