// SPDX-License-Identifier: Apache-2.0
// The slow half of a vCPU's run: translation, exits to user space and their completion, halting, requests of other threads. Here the
// guest's SIMD and x87 state is in the XSAVE area and ordinary C++ may run.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>

#include "base/log.h"
#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/msrs.h"
#include "softkvm/cpu/system.h"
#include "softkvm/irqchip/lapic.h"
#include "softkvm/mmu/access.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/native/native.h"
#include "softkvm/translate/code_cache.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/simd_state.h"
#include "softkvm/translate/host_faults.h"
#include "softkvm/translate/host_gs_base.h"
#include "softkvm/translate/make_block.h"
#include "softkvm/translate/paravirtual.h"
#include "softkvm/translate/safe_point.h"
#include "softkvm/translate/stored_code.h"

#include <cpuid.h>
#include <immintrin.h>

extern "C" {
void softkvm_stub_miss();
void softkvm_stub_link_slot();
void softkvm_stub_group();
void softkvm_stub_recent_read0();
void softkvm_stub_recent_write0();
void softkvm_stub_recent_read1();
void softkvm_stub_recent_write1();
void softkvm_stub_recent_read2();
void softkvm_stub_recent_write2();
void softkvm_stub_access();
void softkvm_stub_callout();
void softkvm_stub_lookup();
void softkvm_stub_lookup_branch();
void softkvm_stub_link();
void softkvm_stub_poll();
void softkvm_stub_step_done();
void softkvm_stub_rflags();
void softkvm_stub_cli();
void softkvm_stub_sti();
void softkvm_stub_swapgs();
void softkvm_stub_movs0();
void softkvm_stub_movs1();
void softkvm_stub_movs2();
void softkvm_stub_movs3();
void softkvm_stub_stos0();
void softkvm_stub_stos1();
void softkvm_stub_stos2();
void softkvm_stub_stos3();
const void* softkvm_lookup(vireo::softkvm::VcpuState*, uint64_t, uint32_t);
const void* softkvm_link(vireo::softkvm::VcpuState*, const void*);
const void* softkvm_callout(vireo::softkvm::VcpuState*, const vireo::softkvm::CalloutRecord*);
}

namespace vireo::softkvm {

static_assert(sizeof(Vcpu) <= ENGINE);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
static_assert(offsetof(VcpuState, gpr) == VCPU_GPR);
static_assert(offsetof(VcpuState, rip) == VCPU_RIP);
static_assert(offsetof(VcpuState, flag_of) == VCPU_FLAGS && offsetof(VcpuState, flag_ah) == VCPU_FLAGS + 1);
static_assert(offsetof(VcpuState, attention) == VCPU_ATTENTION && offsetof(VcpuState, mode) == VCPU_MODE);
static_assert(offsetof(VcpuState, page_base) == VCPU_PAGE_BASE);
static_assert(offsetof(VcpuState, seg_base_fs_copy) == VCPU_FS_BASE && offsetof(VcpuState, seg_base_gs_copy) == VCPU_GS_BASE);
static_assert(ENGINE + offsetof(Engine, self) == ENGINE_SELF && ENGINE + offsetof(Engine, host_rsp) == ENGINE_HOST_RSP);
static_assert(ENGINE + offsetof(Engine, scratch) == ENGINE_SCRATCH && ENGINE + offsetof(Engine, target) == ENGINE_TARGET);
static_assert(ENGINE + offsetof(Engine, reason) == ENGINE_REASON && ENGINE + offsetof(Engine, borrow) == ENGINE_BORROW);
static_assert(ENGINE + offsetof(Engine, spill) == ENGINE_SPILL && ENGINE + offsetof(Engine, tlb) == ENGINE_TLB);
static_assert(sizeof(TlbView) == TLB_VIEW && offsetof(TlbView, write) == TLB_ARRAY && offsetof(TlbView, addend) == 2 * TLB_ARRAY);
static_assert(offsetof(VcpuState, system_flags) == VCPU_SYSTEM_FLAGS && offsetof(VcpuState, cpl) == VCPU_CPL);
static_assert(offsetof(VcpuState, segment) + offsetof(Segment, selector) == VCPU_SELECTOR && sizeof(Segment) == SEGMENT_SIZE);
static_assert(offsetof(VcpuState, segment) + kGS * sizeof(Segment) + offsetof(Segment, base) == VCPU_SEGMENT_GS_BASE);
static_assert(offsetof(VcpuState, msr) + offsetof(Msrs, kernel_gs_base) == VCPU_KERNEL_GS_BASE);
static_assert(offsetof(VcpuState, interrupt_shadow_sti) == VCPU_SHADOW_STI && ENGINE + offsetof(Engine, shadow_rip) == ENGINE_SHADOW_RIP);
static_assert(offsetof(VcpuState, run) == VCPU_RUN && offsetof(kvm_run, request_interrupt_window) == 0);
static_assert(ENGINE + offsetof(Engine, view_tlb) == ENGINE_VIEW_TLB);
static_assert(ENGINE + offsetof(Engine, interrupt_waiting) == ENGINE_INTERRUPT_WAITING);
static_assert(offsetof(CalloutRecord, page_offset) == RECORD_OFFSET && offsetof(CalloutRecord, insn) + offsetof(Insn, opcode) == RECORD_OPCODE);
static_assert(offsetof(CalloutRecord, insn) + offsetof(Insn, length) == RECORD_LENGTH);
static_assert(offsetof(CalloutRecord, insn) + offsetof(Insn, operand_size) == RECORD_OPERAND_SIZE);
static_assert(ENGINE + offsetof(Engine, stubs) == ENGINE_STUBS && ENGINE + offsetof(Engine, helpers) == ENGINE_HELPERS);
#pragma GCC diagnostic pop

namespace {

constexpr uint64_t kComponents = 0xe7;  // x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM

uint64_t host_xcr0() {
  uint32_t a, d;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return static_cast<uint64_t>(d) << 32 | a;
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
long futex_wake(std::atomic<uint32_t>& word) {
  long result;
  register long r10 asm("r10") = 0;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_futex), "D"(&word), "S"(FUTEX_WAKE_PRIVATE), "d"(1), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

void print_counts(const Vcpu& vcpu) {
  if (!getenv("VIREO_SOFTKVM_STATS")) return;
  const Engine& e = *vcpu.engine;
  fprintf(stderr,
          "vcpu %u: %llu blocks translated, %llu TLB misses, %llu lookups, %llu call-outs, %llu stepped, %llu left, %llu invalidations, %llu TLB "
          "flushes\n",
          vcpu.id, (unsigned long long)e.counters.blocks_translated, (unsigned long long)e.counters.tlb_misses, (unsigned long long)e.counters.lookups,
          (unsigned long long)e.counters.call_outs, (unsigned long long)e.counters.steps, (unsigned long long)e.counters.leaves,
          (unsigned long long)e.counters.code_writes, (unsigned long long)e.counters.tlb_flush);
  const VcpuCounters::Native& n = e.counters.native;
  fprintf(stderr, "vcpu %u: %llu native runs in %llu spaces, %llu ended by system calls, %llu page faults of which %llu were mapped, %llu left to translation, %llu RDTSC; ms: %llu all, %llu in stubs; %llu stretches of user code, %llu ms\n",
          vcpu.id, (unsigned long long)n.runs, (unsigned long long)n.spaces, (unsigned long long)n.system_calls, (unsigned long long)n.faults,
          (unsigned long long)n.mapped, (unsigned long long)n.left, (unsigned long long)n.time_stamps, (unsigned long long)(n.all_ticks / (vcpu.tsc_khz | 1)),
          (unsigned long long)(n.run_ticks / (vcpu.tsc_khz | 1)), (unsigned long long)e.profile.all_stretches, (unsigned long long)(e.profile.all_ticks / (vcpu.tsc_khz | 1)));
}

}  // namespace

uint64_t Vcpu::supported_xcr0() {
  static const uint64_t mask = host_xcr0() & kComponents;
  return mask;
}

unsigned Vcpu::xsave_size() {
  static const unsigned size = [] {
    unsigned end = 576;
    for (unsigned i = 2; i < 64; i++) {
      if (!(supported_xcr0() >> i & 1)) continue;
      unsigned a, b, c, d;
      __cpuid_count(0xd, i, a, b, c, d);
      if (a + b > end) end = a + b;
    }
    return end;
  }();
  return size;
}

std::unique_ptr<Vcpu> Vcpu::create(Vm& vm, unsigned id, kvm_run* run) {
  static_assert(sizeof(VcpuFrame) >= ENGINE + sizeof(Engine));
  void* memory = mmap(nullptr, sizeof(VcpuFrame), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::unique_ptr<Vcpu> vcpu(new (memory) Vcpu);
  vcpu->vm = &vm;
  vcpu->id = id;
  vcpu->run = run;
  // The big arrays stay untouched zero pages where they can: their tags of zero name the page at 0, so only the entry for that must be
  // made invalid by hand, and zero is no valid linear address of a jump target but 0 itself.
  auto* engine = reinterpret_cast<Engine*>(static_cast<uint8_t*>(memory) + ENGINE);
  vcpu->engine = engine;
  engine->self = vcpu.get();
  engine->shadow_rip = kAnyRip;
  engine->native_pidfd = -1;
  engine->profile = UserProfile{};
  engine->native = new Native(*vcpu);
  auto stub = [](void (*f)()) { return reinterpret_cast<const void*>(f); };
  engine->stubs[STUB_MISS] = stub(softkvm_stub_miss);
  engine->stubs[STUB_ACCESS] = stub(softkvm_stub_access);
  engine->stubs[STUB_CALLOUT] = stub(softkvm_stub_callout);
  engine->stubs[STUB_LOOKUP] = stub(softkvm_stub_lookup);
  engine->stubs[STUB_LOOKUP_BRANCH] = stub(softkvm_stub_lookup_branch);
  engine->stubs[STUB_LINK] = stub(softkvm_stub_link);
  engine->stubs[STUB_LINK_SLOT] = stub(softkvm_stub_link_slot);
  engine->stubs[STUB_GROUP] = stub(softkvm_stub_group);
  engine->stubs[STUB_POLL] = stub(softkvm_stub_poll);
  engine->stubs[STUB_STEP_DONE] = stub(softkvm_stub_step_done);
  engine->stubs[STUB_RFLAGS] = stub(softkvm_stub_rflags);
  engine->stubs[STUB_CLI] = stub(softkvm_stub_cli);
  engine->stubs[STUB_STI] = stub(softkvm_stub_sti);
  engine->stubs[STUB_SWAPGS] = stub(softkvm_stub_swapgs);
  void (*const strings[])() = {softkvm_stub_movs0, softkvm_stub_movs1, softkvm_stub_movs2, softkvm_stub_movs3,
                               softkvm_stub_stos0, softkvm_stub_stos1, softkvm_stub_stos2, softkvm_stub_stos3};
  static_assert(STUB_STOS == STUB_MOVS + 4);
  for (unsigned i = 0; i < 8; i++) engine->stubs[STUB_MOVS + i] = stub(strings[i]);
  void (*const recent[])() = {softkvm_stub_recent_read0, softkvm_stub_recent_write0, softkvm_stub_recent_read1,
                              softkvm_stub_recent_write1, softkvm_stub_recent_read2, softkvm_stub_recent_write2};
  for (unsigned i = 0; i < 2 * kViews; i++) engine->stubs[STUB_RECENT + i] = stub(recent[i]);
  mprotect(engine->guard, 4096, PROT_NONE);
  mprotect(engine->guard + 2 * 4096, 2 * 4096, PROT_NONE);
  engine->helpers[HELPER_MISS] = reinterpret_cast<const void*>(&softkvm_tlb_miss);
  engine->helpers[HELPER_ACCESS] = reinterpret_cast<const void*>(&softkvm_access);
  engine->helpers[HELPER_CALLOUT] = reinterpret_cast<const void*>(&softkvm_callout);
  engine->helpers[HELPER_LOOKUP] = reinterpret_cast<const void*>(&softkvm_lookup);
  engine->helpers[HELPER_LINK] = reinterpret_cast<const void*>(&softkvm_link);
  engine->helpers[HELPER_GROUP] = reinterpret_cast<const void*>(&softkvm_group_miss);
  for (TlbView& view : engine->tlb) view.read[0] = view.write[0] = no_page(0);
  for (auto& table : engine->jump) table[0].tag = no_jump(0);
  for (uint64_t& space : engine->fetch_space) space = 1;  // the entries are of none
  // FXSAVE image of a reset FPU.
  uint16_t control = 0x37f;
  uint32_t mxcsr = 0x1f80;
  memcpy(engine->xsave, &control, 2);
  memcpy(engine->xsave + 24, &mxcsr, 4);
  read_feature_msr(0x10a, vcpu->msr.arch_capabilities);  // IA32_ARCH_CAPABILITIES, as the kernel's module presets it
  reset_cpu(*vcpu);
  update_mode(*vcpu);
  return vcpu;
}

Vcpu::~Vcpu() {
  print_counts(*this);
  delete engine->native;
}

void Vcpu::operator delete(void* memory) { munmap(memory, sizeof(VcpuFrame)); }

uint8_t* Vcpu::xsave_area() { return engine->xsave; }

void Vcpu::kick() {
  __atomic_store_n(&attention, 1u, __ATOMIC_SEQ_CST);
  engine->wake.fetch_add(1);
  if (engine->sleeping.load()) futex_wake(engine->wake);
  wake_native(*engine);
}

void Vcpu::request_exit() {
  engine->exit_request.store(true);
  kick();
}

void Vcpu::state_changed() {
  // An access that waits for user space's answer goes on if the vCPU is still at its instruction, as with the kernel's KVM: callers read
  // registers and write them back while an IN is open.
  Engine& e = *engine;
  bool waits = e.io_open || e.fragment_open || e.writes_open || open_exit != OpenExit::kNone;
  if (!waits || rip != e.open_rip) {
    drop_open(e);
    e.step_next = e.completing = false;
    open_exit = OpenExit::kNone;
  }
  engine->shadow_rip = rip;
  engine->native_lost = false;
  halted = false;
  linear_bits = cr4 & kCr4La57 ? 57 : 48;
  flush_tlb(*this, false);
  for (uint32_t& m : engine->view_mode) m = ~0u;
  update_mode(*this);
  attention = 1;
}

void Vcpu::accept_startup() {
  if (in_smm) {  // INIT waits for RSM; a SIPI is lost
    sipi_pending = false;
    return;
  }
  if (init_pending.load() && init_pending.exchange(false)) {
    init_cpu(*this);
    // What came before is gone with the rest.
    nmi_request = 0;
    nmi_injected = false;
    user_interrupt = -1;
    if (lapic) lapic->reset(true);
    state_changed();
    mp_state = is_bsp ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
  }
  if (mp_state == KVM_MP_STATE_INIT_RECEIVED && sipi_pending.exchange(false)) {
    uint8_t vector = sipi_vector;
    segment[kCS].selector = static_cast<uint16_t>(vector << 8);
    segment[kCS].base = static_cast<uint64_t>(vector) << 12;
    rip = 0;
    state_changed();
    mp_state = KVM_MP_STATE_RUNNABLE;
  } else if (mp_state != KVM_MP_STATE_INIT_RECEIVED && sipi_pending.load() && !init_pending.load()) {
    sipi_pending = false;
  }
}

namespace {

// No vCPU has a write tag for the page any more, or none but those filled meanwhile.
void wait_for_writers(Vcpu& vcpu, uint64_t page) {
  Vm& vm = *vcpu.vm;
  std::lock_guard one(vm.watch_mutex);
  {
    const auto slots = vm.slots->hold();
    const Slot* slot = vm.slots->find(page);
    if (!slot || !slot->writers_of(page).load()) return;
    vm.code->watching++;
    slot->writers_of(page).exchange(0);
  }
  flush_write_tags(vcpu);
  reach_safe_points(vm, kRequestFlushWrites, &vcpu);
  vm.code->watching--;
}

// KVM_EXIT_INTERNAL_ERROR for what cannot be run.
int internal_error(Vcpu& vcpu, uint32_t why = KVM_INTERNAL_ERROR_EMULATION) {
  vcpu.run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
  vcpu.run->internal.suberror = why;
  vcpu.run->internal.ndata = 0;
  return 0;
}

void flush_code(Vcpu& vcpu) {
  Vm& vm = *vcpu.vm;
  uint64_t generation;
  {
    std::lock_guard lock(vm.code->mutex);
    if (!vm.code->full()) return;  // another vCPU was faster
    generation = vm.code->generation();
    vm.code->invalidate_all();
  }
  flush_all_jump_caches(vcpu);
  reach_safe_points(vm, kRequestFlushCode, &vcpu);
  std::lock_guard lock(vm.code->mutex);
  if (vm.code->full() && vm.code->generation() == generation) vm.code->reset();
}

// Makes the block at engine.target in engine.target_mode, and links the jump that asked for it. kYes, kNoMemory or kFault.
Made translate_target(Vcpu& vcpu) {
  Engine& engine = *vcpu.engine;
  MakeBlock what{.linear = engine.target, .mode = engine.target_mode, .site = engine.link_site, .generation = engine.link_generation};
  engine.link_site = nullptr;
  // Who writes to the page all the time, without a tag, tells of it again before it is looked at: after some rounds nobody may.
  constexpr unsigned kMostRounds = 4;
  unsigned rounds = 0;
  std::optional<Exclusive> alone;
  for (;;) {
    const Made made = make_block(vcpu, what, true);
    switch (made) {
      case Made::kWatch:
        if (++rounds > kMostRounds && !alone) alone.emplace(vcpu);
        wait_for_writers(vcpu, what.page);
        break;
      case Made::kNeedSource: {
        std::lock_guard lock(vcpu.vm->code->mutex);
        if (vcpu.vm->code->make_source(what.page)) break;
        return vcpu.vm->code->full() ? Made::kFull : Made::kNoMemory;
      }
      case Made::kFull: return Made::kFull;
      case Made::kBusy: break;
      default: return made;
    }
  }
}

// The open device access into kvm_run.
void fill_exit(Vcpu& vcpu) {
  Engine& engine = *vcpu.engine;
  engine.open_rip = vcpu.rip;
  kvm_run& run = *vcpu.run;
  if (engine.event_lost) {
    engine.event_lost = false;
    internal_error(vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV);
  } else if (engine.debug_exit) {
    engine.debug_exit = false;
    run.exit_reason = KVM_EXIT_DEBUG;
    run.debug.arch.exception = kDB;
    run.debug.arch.pc = rip_linear(vcpu);
    run.debug.arch.dr6 = 0xffff4ff0;
    run.debug.arch.dr7 = vcpu.dr7;
  } else if (engine.io_open) {
    run.exit_reason = KVM_EXIT_IO;
    run.io.direction = engine.io_write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
    run.io.size = engine.io_size;
    run.io.port = engine.io_port;
    run.io.count = engine.io_count;
    run.io.data_offset = 4096;
    if (engine.io_write) memcpy(reinterpret_cast<uint8_t*>(&run) + 4096, &engine.io_value, engine.io_size);
  } else if (engine.fragment_open || engine.writes_open) {
    const Fragment& f = engine.fragment_open ? engine.fragments[engine.fragment_count - 1] : engine.writes[engine.write_next];
    run.exit_reason = KVM_EXIT_MMIO;
    run.mmio.phys_addr = f.gpa;
    run.mmio.len = f.size;
    run.mmio.is_write = !engine.fragment_open;
    memset(run.mmio.data, 0, 8);
    if (run.mmio.is_write) memcpy(run.mmio.data, f.data, f.size);
  }
}

// The search for PCI devices, by which a kernel leaves thousands of times: the guest cannot learn by it that a device has written to memory. A write
// of the address of a configuration register says nothing back, and a read that gives all ones is of no device (PCI Local Bus 3.0,
// 3.2.2.3.2: CONFIG_ADDRESS is written whole or not at all; 6.1: all ones for a device that is not there).
bool tells_nothing(const Engine& engine) {
  constexpr unsigned kConfigAddress = 0xcf8, kConfigData = 0xcfc;
  if (engine.io_count != 1) return false;
  if (engine.io_write) return engine.io_port == kConfigAddress && engine.io_size == 4;
  if (engine.io_port < kConfigData || engine.io_port + engine.io_size > kConfigData + 4u) return false;
  return engine.io_value == 0xffffffffu >> (32 - 8 * engine.io_size);
}

// Takes user space's answer to the last exit. True: more writes have to leave first (kvm_run is filled).
bool take_answer(Vcpu& vcpu) {
  Engine& engine = *vcpu.engine;
  kvm_run& run = *vcpu.run;
  if (engine.io_open) {
    engine.io_open = false;
    engine.io_answered = true;
    engine.completing = true;
    if (!engine.io_write) {
      engine.io_value = 0;
      memcpy(&engine.io_value, reinterpret_cast<uint8_t*>(&run) + 4096, engine.io_size);
      if (engine.io_count > 1) memcpy(engine.ahead, reinterpret_cast<uint8_t*>(&run) + 4096, engine.io_count * engine.io_size);
    }
  }
  if (engine.fragment_open) {
    engine.fragment_open = false;
    Fragment& f = engine.fragments[engine.fragment_count - 1];
    memcpy(f.data, run.mmio.data, f.size);
    f.done = true;
    engine.completing = true;
  }
  if (engine.writes_open) {
    engine.write_next++;
    while (engine.write_next < engine.write_count) {
      Fragment& f = engine.writes[engine.write_next];
      uint64_t value = 0;
      memcpy(&value, f.data, f.size);
      if (!device_mmio(vcpu, f.gpa, f.size, true, value)) {
        fill_exit(vcpu);
        return true;
      }
      engine.write_next++;
    }
    engine.writes_open = false;
    engine.write_count = engine.write_next = 0;
  }
  if (vcpu.open_exit != VcpuState::OpenExit::kNone) engine.completing = true;
  return false;
}

// INIT, SIPI and what other threads asked for.
void do_requests(Vcpu& vcpu) {
  Engine& engine = *vcpu.engine;
  const uint32_t r = engine.requests.load() ? engine.requests.exchange(0) : 0;
  if (r & kRequestFlushTlb) {
    flush_tlb(vcpu, false);
    engine.native->drop_spaces();
  }
  if (r & (kRequestFlushTlb | kRequestFlushWrites)) flush_write_tags(vcpu);
  if (r & kRequestFlushCode) flush_all_jump_caches(vcpu);
  if (r & kRequestParavirtual) update_paravirtual(vcpu);
  vcpu.accept_startup();
}

bool has_event(Vcpu& vcpu) {
  Engine& e = *vcpu.engine;
  if (e.requests.load() || e.exit_request.load() || ((vcpu.init_pending || vcpu.sipi_pending) && !vcpu.in_smm)) return true;
  if (vcpu.mp_state == KVM_MP_STATE_UNINITIALIZED || vcpu.mp_state == KVM_MP_STATE_INIT_RECEIVED) return false;
  if (vcpu.nmi_request || (vcpu.nmi_pending && !vcpu.nmi_masked) || vcpu.smi_request || vcpu.injected.pending) return true;
  if (vcpu.user_interrupt >= 0 && vcpu.user_interrupt_soft) return true;
  return vcpu.system_flags & kIF && (vcpu.user_interrupt >= 0 || (vcpu.lapic && vcpu.lapic->has_interrupt()));
}

// Sleeps until something happens. False: a signal or an exit request came.
bool sleep(Vcpu& vcpu) {
  Engine& engine = *vcpu.engine;
  for (;;) {
    uint32_t seen = engine.wake.load();
    engine.sleeping.store(true);
    if (has_event(vcpu)) break;
    errno = 0;
    futex_wait(engine.wake, seen);
    if (errno == EINTR) {
      engine.sleeping.store(false);
      return false;
    }
  }
  engine.sleeping.store(false);
  return !engine.exit_request.load();
}

// HLT with APICs of our own: as sleep().
bool halt(Vcpu& vcpu) {
  VcpuCounters& counters = vcpu.engine->counters;
  counters.halt_exits++;
  counters.blocking = 1;
  auto now = [] {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
  };
  const uint64_t since = now();
  vcpu.engine->native->let_cpu_go();
  const bool woken = sleep(vcpu);
  counters.halt_wait_ns += now() - since;
  counters.blocking = 0;
  return woken;
}

}  // namespace

int Vcpu::run_guest() {
  Engine& e = *engine;
  auto interrupted = [&] {
    e.exit_request.store(false);
    return -EINTR;
  };
  // Not an instruction that cannot be emulated: QEMU goes on behind that, where user code met it.
  auto registers_lost = [&] { return internal_error(*this, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON); };
  if (e.native_lost) return registers_lost();
  const bool answered = e.io_open;
  if (take_answer(*this)) return 0;
  if (run->immediate_exit) {
    e.exit_request.store(true);
    attention = 1;
  }
  if (mp_state == KVM_MP_STATE_HALTED) {
    halted = true;
    mp_state = KVM_MP_STATE_RUNNABLE;
  }
  if (vm->stored && !e.stored_known) {
    e.stored = vm->stored->blocks_for(*this);  // CPUID stays as it is from now on
    e.stored_known = true;
  }
  // What user space may have written besides answering, it has stopped the vCPU for.
  e.doubt_due |= !answered || user_acted || !tells_nothing(e);
  user_acted = false;
  e.native->prepare();
  const HostGsBase gs(*this);
  set_running_vcpu(this);
  struct Reset {
    Vcpu& vcpu;
    ~Reset() {
      set_running_vcpu(nullptr);
      vcpu.engine->native->let_cpu_go();
      // The flags are looked at lazily; user space sees them as they are.
      if (vcpu.engine->shadow_rip != vcpu.rip) vcpu.interrupt_shadow_sti = vcpu.interrupt_shadow_mov_ss = false;
    }
  } reset{*this};
  for (;;) {
    e.native->let_cpu_go_in_time();
    do_requests(*this);
    update_steal_time(*this);
    if (mp_state == KVM_MP_STATE_UNINITIALIZED || mp_state == KVM_MP_STATE_INIT_RECEIVED) {
      if (e.exit_request.load()) return interrupted();
      if (!sleep(*this)) return interrupted();
      continue;
    }
    std::optional<Exclusive> exclusive;
    if (e.want_exclusive) exclusive.emplace(*this);
    else wait_while_held(*this);
    e.want_exclusive = false;
    load_simd(e.xsave, static_cast<uint32_t>(supported_xcr0()));
    Action action = run_fast(*this);
    save_simd(e.xsave, static_cast<uint32_t>(supported_xcr0()));
    exclusive.reset();
    if (e.memory_gone) {
      e.memory_gone = false;
      return -EFAULT;
    }
    switch (action) {
      case Action::kTranslate:
        switch (translate_target(*this)) {
          case Made::kFull: flush_code(*this); break;  // and comes again
          case Made::kNoMemory: return internal_error(*this);
          case Made::kFault:
            // Delivered as is: the run loop looks only at the first byte's page, which may be there (or still be in its fetch entries).
            injected = fault;
            fault.pending = false;
            e.step_next = false;
            break;
          default: break;
        }
        break;
      case Action::kExit:
        fill_exit(*this);
        if (halted && vm->irqchip) mp_state = KVM_MP_STATE_HALTED, halted = false;
        if (e.exit_request.load() && run->immediate_exit) e.exit_request.store(false);
        return 0;
      case Action::kHalt:
        if (!vm->irqchip) {
          e.counters.halt_exits++;
          halted = false;
          run->exit_reason = KVM_EXIT_HLT;
          return 0;
        }
        if (!halt(*this)) {
          if (halted) mp_state = KVM_MP_STATE_HALTED, halted = false;
          return interrupted();
        }
        break;
      case Action::kInterrupted:
        if (halted && vm->irqchip) mp_state = KVM_MP_STATE_HALTED, halted = false;
        return interrupted();
      case Action::kInvalidate:
        e.counters.code_writes++;
        {
          const AtMemory here(*this);
          for (unsigned i = 0; i < e.smc_count; i++) invalidate_code(*vm, e.smc[i].gpa, e.smc[i].size);
        }
        e.smc_count = 0;
        if (e.writes_open || e.debug_exit) {
          fill_exit(*this);
          return 0;
        }
        break;
      case Action::kRequests: break;
      case Action::kExclusive: e.want_exclusive = true; break;
      case Action::kNative:
        e.native->run();
        if (e.native_lost) return registers_lost();
        break;
      case Action::kStuck: return internal_error(*this);
    }
  }
}

}  // namespace vireo::softkvm
