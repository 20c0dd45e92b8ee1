// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/host_faults.h"

#include <signal.h>
#include <ucontext.h>

#include <mutex>

#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"

extern "C" void softkvm_stub_host_fault();
extern "C" void softkvm_stub_gs_owner();
extern "C" void softkvm_stub_gs_nobody();
extern "C" void softkvm_stub_rdtsc();
extern "C" void softkvm_stub_no_rdtsc();

namespace vireo::softkvm {
namespace {

thread_local VcpuState* t_running = nullptr;
struct sigaction g_previous[NSIG];

const SideEntry* side_entry(const Block& block, uint32_t pc) {
  const SideEntry* found = nullptr;
  for (uint32_t i = 0; i < block.side_count; i++)
    if (block.side[i].host <= pc && (!found || block.side[i].host > found->host)) found = &block.side[i];
  return found;
}

greg_t& register_of(mcontext_t& m, unsigned r) {
  static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return m.gregs[kOrder[r]];
}

// A wanted element of a masked access lies in a page that the guest may not touch. CR2 is the element's address: the host has told it.
void masked_fault(VcpuState& vcpu, const uint8_t* at) {
  Engine& engine = engine_of(vcpu);
  const uint64_t offset = static_cast<uint64_t>(at - engine.masked_at);
  vcpu.fault = engine.masked_fault[offset >= engine.masked_first];
  if (vcpu.fault.vector == kPFv) vcpu.fault.payload = engine.masked_linear + offset;
}

// Instructions of ours that ask whether they fault, and where they go on then.
constexpr struct {
  void (*at)();
  void (*go_on)();
} kQuestions[] = {{softkvm_stub_gs_owner, softkvm_stub_gs_nobody}, {softkvm_stub_rdtsc, softkvm_stub_no_rdtsc}};

bool take(siginfo_t* info, ucontext_t* context) {
  if (info->si_code <= 0) return false;  // sent by somebody: what the registers say of a fault is of an earlier one
  mcontext_t& m = context->uc_mcontext;
  for (const auto& question : kQuestions)
    if (m.gregs[REG_RIP] == reinterpret_cast<greg_t>(question.at)) {
      m.gregs[REG_RIP] = reinterpret_cast<greg_t>(question.go_on);
      return true;
    }
  VcpuState* vcpu = t_running;
  if (!vcpu) return false;
  CodeCache& cache = *vcpu->vm->code;
  const void* pc = reinterpret_cast<const void*>(m.gregs[REG_RIP]);
  if (!cache.contains(pc)) return false;
  uint32_t offset = cache.offset_of(pc);
  const SideEntry* side;
  {
    std::lock_guard lock(cache.mutex);
    const Block* block = cache.containing(offset);
    side = block ? side_entry(*block, offset) : nullptr;
  }
  if (!side) return false;
  Engine& engine = engine_of(*vcpu);
  set_rip_linear(*vcpu, vcpu->page_base + side->guest);
  for (unsigned i = 0; i < 4; i++)
    if (side->borrowed >> i & 1) register_of(m, side->borrow_reg[i]) = static_cast<greg_t>(engine.borrow[i]);
  if (side->host_flags) vcpu->set_status_flags(m.gregs[REG_EFL]);
  vcpu->fault = PendingException{};
  switch (m.gregs[REG_TRAPNO]) {
    case 0: vcpu->raise(kDE); break;
    case 6: vcpu->raise(kUD); break;
    // A recent page that is none (kNowhere): an address of rSP or rBP that is not canonical.
    case 13: vcpu->raise(static_cast<uint64_t>(m.gregs[REG_R11]) >> 12 == kNowhere >> 12 ? kSSv : kGP, 0); break;
    case 16: vcpu->raise(kMFv); break;
    case 17: vcpu->raise(kACv, 0); break;
    case 19: vcpu->raise(vcpu->cr4 & kCr4Osxmmexcpt ? kXM : kUD); break;  // SDM vol 3, 2.5
    case 14:
      if (static_cast<size_t>(static_cast<uint8_t*>(info->si_addr) - engine.guard) < sizeof engine.guard)
        masked_fault(*vcpu, static_cast<uint8_t*>(info->si_addr));
      else
        engine.memory_gone = true;  // the slot's host memory: not the guest's doing
      break;
    default: return false;
  }
  m.gregs[REG_EFL] &= ~static_cast<greg_t>(0x40400);  // DF, AC
  m.gregs[REG_RIP] = reinterpret_cast<greg_t>(&softkvm_stub_host_fault);
  return true;
}

void handler(int signal, siginfo_t* info, void* context) {
  if (take(info, static_cast<ucontext_t*>(context))) return;
  const struct sigaction& old = g_previous[signal];
  if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) return old.sa_sigaction(signal, info, context);
  if (old.sa_handler == SIG_IGN) return;
  if (old.sa_handler != SIG_DFL) return old.sa_handler(signal);
  ::signal(signal, SIG_DFL);  // the instruction faults again and ends the process
  if (info->si_code <= 0) ::raise(signal);
}

}  // namespace

void install_host_fault_handlers() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
      struct sigaction action = {};
      action.sa_sigaction = handler;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
      sigaction(s, &action, &g_previous[s]);
    }
  });
}

bool is_host_fault_handler(const struct sigaction& action) { return action.sa_flags & SA_SIGINFO && action.sa_sigaction == handler; }

void set_running_vcpu(VcpuState* vcpu) { t_running = vcpu; }

}  // namespace vireo::softkvm
