// SPDX-License-Identifier: Apache-2.0
// The ABI's structs hold the whole vCPU: what is saved and loaded into another VM is saved again the same.
#include <array>
#include <map>

#include "softkvm/abi/backend_test.h"

namespace vireo::softkvm::test {
namespace {

constexpr uint32_t kTsc = 0x10, kTscDeadline = 0x6e0, kTscAdjust = 0x3b;

struct State {
  kvm_regs regs;
  kvm_sregs2 sregs;
  std::array<uint8_t, sizeof(kvm_xsave)> xsave;
  kvm_xcrs xcrs;
  kvm_vcpu_events events;
  kvm_debugregs debug;
  kvm_mp_state mp;
  kvm_lapic_state lapic;
  std::map<uint32_t, uint64_t> msrs;
};

std::vector<uint32_t> msr_indices(const Machine& m) {
  Listed<kvm_msr_list, uint32_t> list(512);
  list.header()->nmsrs = 512;
  EXPECT_EQ(m.system(KVM_GET_MSR_INDEX_LIST, list.header()), 0);
  auto* first = reinterpret_cast<uint32_t*>(list.bytes.data()) + 1;
  return {first, first + list.header()->nmsrs};
}

State save(const Machine& m) {
  State s{};
  EXPECT_EQ(m.vcpu(KVM_GET_REGS, &s.regs), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_SREGS2, &s.sregs), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_XSAVE, &s.xsave), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_XCRS, &s.xcrs), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_VCPU_EVENTS, &s.events), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_DEBUGREGS, &s.debug), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_MP_STATE, &s.mp), 0);
  EXPECT_EQ(m.vcpu(KVM_GET_LAPIC, &s.lapic), 0);
  for (uint32_t index : msr_indices(m)) {
    MsrList one(1);
    one.header()->nmsrs = 1;
    one.entries()->index = index;
    if (m.vcpu(KVM_GET_MSRS, one.header()) == 1) s.msrs[index] = one.entries()->data;
  }
  s.msrs.erase(kTsc);
  return s;
}

void load(const Machine& m, State& s) {
  EXPECT_EQ(m.vcpu(KVM_SET_XCRS, &s.xcrs), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_XSAVE, &s.xsave), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_SREGS2, &s.sregs), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_REGS, &s.regs), 0);
  for (auto [index, value] : s.msrs) {
    MsrList one(1);
    one.header()->nmsrs = 1;
    *one.entries() = {index, 0, value};
    EXPECT_EQ(m.vcpu(KVM_SET_MSRS, one.header()), 1) << std::hex << index << " = " << value;
  }
  EXPECT_EQ(m.vcpu(KVM_SET_LAPIC, &s.lapic), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_DEBUGREGS, &s.debug), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &s.events), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_MP_STATE, &s.mp), 0);
}

template <class T>
void expect_same(const T& a, const T& b, const char* what) {
  const auto *x = reinterpret_cast<const uint8_t*>(&a), *y = reinterpret_cast<const uint8_t*>(&b);
  for (size_t i = 0; i < sizeof(T); i++) {
    ASSERT_EQ(x[i], y[i]) << what << " differs at byte " << i;
  }
}

void expect_same(const State& a, const State& b) {
  expect_same(a.regs, b.regs, "regs");
  expect_same(a.sregs, b.sregs, "sregs");
  expect_same(a.xsave, b.xsave, "xsave");
  expect_same(a.xcrs, b.xcrs, "xcrs");
  expect_same(a.events, b.events, "events");
  expect_same(a.debug, b.debug, "debugregs");
  expect_same(a.mp, b.mp, "mp_state");
  expect_same(a.lapic, b.lapic, "lapic");
  EXPECT_EQ(a.msrs, b.msrs);
}

void allow_events(const Machine& m) {
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_EXCEPTION_PAYLOAD, cap.args[0] = 1;
  EXPECT_EQ(m.vm(KVM_ENABLE_CAP, &cap), 0);
  cap.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT;
  EXPECT_EQ(m.vm(KVM_ENABLE_CAP, &cap), 0);
}

TEST(State, OfAResetVcpuGoesThroughTheAbiAndBack) {
  Machine a(kSoftkvm, Machine::Irqchip::kKernel), b(kSoftkvm, Machine::Irqchip::kKernel);
  State first = save(a);
  load(b, first);
  expect_same(first, save(b));
}

TEST(State, OfABusyVcpuGoesThroughTheAbiAndBack) {
  Machine a(kSoftkvm, Machine::Irqchip::kKernel), b(kSoftkvm, Machine::Irqchip::kKernel);
  allow_events(a);
  allow_events(b);
  State s = save(a);
  auto* words = reinterpret_cast<uint64_t*>(&s.regs);
  for (unsigned i = 0; i < 17; i++) words[i] = 0x0101010101010101ull * (i + 1);
  s.regs.rflags = 0x3fd7 & ~0x100;
  auto segment = [](unsigned n, uint8_t type, bool system) {
    kvm_segment g{};
    g.base = 0x1000 * n, g.limit = 0xfffff000 | n, g.selector = static_cast<uint16_t>(n * 8 | 3);
    g.type = type, g.present = 1, g.dpl = 3, g.s = !system, g.g = 1, g.avl = n & 1;
    return g;
  };
  s.sregs.cs = segment(1, 11, false), s.sregs.cs.l = 1;
  s.sregs.ss = segment(2, 3, false), s.sregs.ss.db = 1;
  s.sregs.ds = segment(3, 3, false), s.sregs.es = segment(4, 3, false);
  s.sregs.fs = segment(5, 3, false), s.sregs.gs = segment(6, 3, false);
  s.sregs.es.unusable = 1;
  s.sregs.fs.base = 0x7fff12345000, s.sregs.gs.base = 0xffff888012345000;
  s.sregs.tr = segment(7, 11, true), s.sregs.ldt = segment(8, 2, true);
  s.sregs.gdt = {0xffffffff81000000, 0x7f, {}}, s.sregs.idt = {0xffffffff82000000, 0xfff, {}};
  s.sregs.cr0 = 0x80050033, s.sregs.cr2 = 0x123456789, s.sregs.cr3 = 0x1000, s.sregs.cr4 = 0x6a0;
  s.sregs.efer = 0xd01, s.sregs.cr8 = 5;
  s.sregs.flags = 0;
  s.debug.db[0] = 0x1000, s.debug.db[3] = 0x2000, s.debug.dr6 = 0xffff0ff1, s.debug.dr7 = 0x403;
  s.xcrs.xcrs[0].value = 3;
  auto* area = reinterpret_cast<uint8_t*>(&s.xsave);
  for (unsigned i = 32; i < 160; i++) area[i] = (i - 32) % 16 < 10 ? static_cast<uint8_t>(i) : 0;
  for (unsigned i = 160; i < 416; i++) area[i] = static_cast<uint8_t>(i * 7);
  area[0] = 0x7f, area[1] = 3, area[4] = 0xff, area[512] = 3;
  const uint32_t mxcsr = 0x1fa0;
  std::memcpy(area + 24, &mxcsr, 4);
  s.events = {};
  s.events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |
                   KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  s.events.exception = {0, 14, 1, 1, 0x7};
  s.events.exception_has_payload = 1, s.events.exception_payload = 0xdeadb000;
  s.events.interrupt = {1, 0x41, 0, KVM_X86_SHADOW_INT_STI};
  s.events.nmi = {1, 1, 1, 0};
  s.events.triple_fault.pending = 1;
  s.mp.mp_state = KVM_MP_STATE_HALTED;
  s.msrs[0xc0000080] = s.sregs.efer;
  s.msrs[0xc0000081] = 0x23001000000000, s.msrs[0xc0000082] = 0xffffffff81a00000, s.msrs[0xc0000084] = 0x47700;
  s.msrs[0xc0000100] = s.sregs.fs.base, s.msrs[0xc0000101] = s.sregs.gs.base, s.msrs[0xc0000102] = 0x1234;
  s.msrs[0x174] = 0x10, s.msrs[0x175] = 0x2000, s.msrs[0x176] = 0x3000;
  s.msrs[0x277] = 0x0407050600070106, s.msrs[0x2ff] = 0xc06, s.msrs[0x200] = 0x6, s.msrs[0x201] = 0xc0000800;
  reinterpret_cast<uint32_t*>(s.lapic.regs)[0xf0 / 4] = 0x1ff;
  reinterpret_cast<uint32_t*>(s.lapic.regs)[0x350 / 4] = 0x10041;
  reinterpret_cast<uint32_t*>(s.lapic.regs)[0x80 / 4] = 0x50;
  reinterpret_cast<uint32_t*>(s.lapic.regs)[0x210 / 4] = 4;  // IRR: vector 0x22

  load(a, s);
  State first = save(a);
  expect_same(s.regs, first.regs, "regs");
  expect_same(s.sregs, first.sregs, "sregs");
  expect_same(s.events, first.events, "events");
  expect_same(s.debug, first.debug, "debugregs");
  EXPECT_EQ(std::memcmp(area, &first.xsave, 28), 0);
  EXPECT_EQ(std::memcmp(area + 32, reinterpret_cast<uint8_t*>(&first.xsave) + 32, 384), 0);
  for (auto [index, value] : s.msrs) {
    EXPECT_EQ(first.msrs[index], value) << std::hex << index;
  }

  load(b, first);
  expect_same(first, save(b));
}

TEST(State, PaeTablePointersTravelInSregs2) {
  Machine a(kSoftkvm), b(kSoftkvm);
  kvm_sregs2 s;
  ASSERT_EQ(a.vcpu(KVM_GET_SREGS2, &s), 0);
  EXPECT_EQ(s.flags, 0u);
  s.cr0 |= 0x80000001, s.cr4 |= 0x20, s.cr3 = 0x2000;
  s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  for (unsigned i = 0; i < 4; i++) s.pdptrs[i] = 0x10001 + i * 0x1000;
  ASSERT_EQ(a.vcpu(KVM_SET_SREGS2, &s), 0);
  kvm_sregs2 saved, again;
  ASSERT_EQ(a.vcpu(KVM_GET_SREGS2, &saved), 0);
  expect_same(s, saved, "sregs2");
  ASSERT_EQ(b.vcpu(KVM_SET_SREGS2, &saved), 0);
  ASSERT_EQ(b.vcpu(KVM_GET_SREGS2, &again), 0);
  expect_same(saved, again, "sregs2");
}

TEST(State, PaeTablePointersAreReadFromMemoryWhereTheStructHasNone) {
  Machine m(kSoftkvm);
  const uint64_t entries[4] = {0x3001, 0x4001, 0, 0x5001};
  std::memcpy(m.memory + 0x2020, entries, sizeof entries);
  kvm_sregs s;
  ASSERT_EQ(m.vcpu(KVM_GET_SREGS, &s), 0);
  s.cr0 |= 0x80000001, s.cr4 |= 0x20, s.cr3 = 0x2020;
  ASSERT_EQ(m.vcpu(KVM_SET_SREGS, &s), 0);
  kvm_sregs2 out;
  ASSERT_EQ(m.vcpu(KVM_GET_SREGS2, &out), 0);
  EXPECT_EQ(std::memcmp(out.pdptrs, entries, sizeof entries), 0);
}

TEST(State, FpuAndXsaveAreTheSameRegisters) {
  Machine m(kSoftkvm);
  kvm_fpu fpu{};
  fpu.fcw = 0x27f, fpu.fsw = 0x3800, fpu.ftwx = 0x80;
  for (unsigned i = 0; i < 10; i++) fpu.fpr[0][i] = static_cast<uint8_t>(i + 1);
  for (unsigned i = 0; i < 16; i++) fpu.xmm[15][i] = static_cast<uint8_t>(0xf0 + i);
  ASSERT_EQ(m.vcpu(KVM_SET_FPU, &fpu), 0);
  kvm_xsave xsave;
  ASSERT_EQ(m.vcpu(KVM_GET_XSAVE, &xsave), 0);
  const auto* area = reinterpret_cast<const uint8_t*>(&xsave);
  EXPECT_EQ(area[0] | area[1] << 8, 0x27f);
  EXPECT_EQ(std::memcmp(area + 32, fpu.fpr[0], 16), 0);
  EXPECT_EQ(std::memcmp(area + 160 + 15 * 16, fpu.xmm[15], 16), 0);
  uint32_t mxcsr;
  std::memcpy(&mxcsr, area + 24, 4);
  EXPECT_EQ(mxcsr, 0x1f80u);
  kvm_fpu back;
  ASSERT_EQ(m.vcpu(KVM_GET_FPU, &back), 0);
  EXPECT_EQ(std::memcmp(back.xmm, fpu.xmm, sizeof fpu.xmm), 0);
}

TEST(State, CpuidMayBeGivenAgainButNotChangeOnceTheVcpuHasRun) {
  Machine m(kSoftkvm);
  m.real_mode(0x1000, {0xf4});
  EXPECT_EQ(m.vcpu(KVM_RUN), 0);
  CpuidList list(256);
  list.header()->nent = 256;
  ASSERT_EQ(m.vcpu(KVM_GET_CPUID2, list.header()), 0);
  EXPECT_EQ(m.vcpu(KVM_SET_CPUID2, list.header()), 0);
  for (unsigned i = 0; i < list.header()->nent; i++) {
    if (list.entries()[i].function == 1) list.entries()[i].ecx ^= 1;
  }
  EXPECT_EQ(m.vcpu(KVM_SET_CPUID2, list.header()), -EINVAL);
}

TEST(State, OfTheInterruptControllersGoesThroughTheAbiAndBack) {
  Machine a(kSoftkvm, Machine::Irqchip::kKernel), b(kSoftkvm, Machine::Irqchip::kKernel);
  kvm_pit_config config{};
  ASSERT_EQ(a.vm(KVM_CREATE_PIT2, &config), 0);
  ASSERT_EQ(b.vm(KVM_CREATE_PIT2, &config), 0);
  for (uint32_t id = 0; id < 3; id++) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    ASSERT_EQ(a.vm(KVM_GET_IRQCHIP, &chip), 0);
    if (id == KVM_IRQCHIP_IOAPIC) chip.chip.ioapic.redirtbl[4].bits = 0x0100000000000031, chip.chip.ioapic.id = 2;
    if (id != KVM_IRQCHIP_IOAPIC) chip.chip.pic.imr = 0xfb, chip.chip.pic.irq_base = static_cast<uint8_t>(0x20 + id * 8);
    ASSERT_EQ(a.vm(KVM_SET_IRQCHIP, &chip), 0);
    kvm_irqchip saved{}, again{};
    saved.chip_id = again.chip_id = id;
    ASSERT_EQ(a.vm(KVM_GET_IRQCHIP, &saved), 0);
    ASSERT_EQ(b.vm(KVM_SET_IRQCHIP, &saved), 0);
    ASSERT_EQ(b.vm(KVM_GET_IRQCHIP, &again), 0);
    expect_same(saved, again, "irqchip");
  }
  kvm_pit_state2 saved{}, again{};
  ASSERT_EQ(a.vm(KVM_GET_PIT2, &saved), 0);
  ASSERT_EQ(b.vm(KVM_SET_PIT2, &saved), 0);
  ASSERT_EQ(b.vm(KVM_GET_PIT2, &again), 0);
  for (auto* s : {&saved, &again}) {
    for (auto& channel : s->channels) channel.count_load_time = 0;  // of the host's clock
  }
  expect_same(saved, again, "pit");
}

// Where the APIC is user space's, too: callers save what KVM_GET_MSR_INDEX_LIST names, and QEMU ends itself when one is refused.
TEST(State, EveryListedMsrIsThereWithoutAnIrqchip) {
  Machine m(kSoftkvm);
  for (uint32_t index : msr_indices(m)) {
    MsrList one(1);
    one.header()->nmsrs = 1;
    one.entries()->index = index;
    EXPECT_EQ(m.vcpu(KVM_GET_MSRS, one.header()), 1) << std::hex << index;
    EXPECT_EQ(m.vcpu(KVM_SET_MSRS, one.header()), 1) << std::hex << index;
  }
}

// As the kernel has it: the areas of the paravirtual features, which whoever starts the CPU anew may have another use for, and events that have not been taken.
TEST(State, InitForgetsWhatTheGuestHadUnderWay) {
  for (const Backend* backend : {&kSoftkvm, &kKernel}) {
    if (backend == &kKernel && !kernel_present()) continue;
    Machine m(*backend, Machine::Irqchip::kKernel);
    constexpr uint32_t kSystemTime = 0x4b564d01, kStealTime = 0x4b564d03;
    MsrList areas(2);
    areas.header()->nmsrs = 2;
    areas.entries()[0] = {kSystemTime, 0, 0x5001};
    areas.entries()[1] = {kStealTime, 0, 0x6001};
    ASSERT_EQ(m.vcpu(KVM_SET_MSRS, areas.header()), 2);
    kvm_vcpu_events events;
    ASSERT_EQ(m.vcpu(KVM_GET_VCPU_EVENTS, &events), 0);
    events.interrupt.injected = 1, events.interrupt.nr = 0x41;
    events.nmi.injected = 1;
    events.smi.latched_init = 1;
    ASSERT_EQ(m.vcpu(KVM_SET_VCPU_EVENTS, &events), 0);
    ASSERT_EQ(m.vcpu(KVM_NMI), 0);
    kvm_mp_state state;
    ASSERT_EQ(m.vcpu(KVM_GET_MP_STATE, &state), 0);  // takes the INIT
    EXPECT_EQ(state.mp_state, static_cast<uint32_t>(KVM_MP_STATE_RUNNABLE)) << backend->name;
    ASSERT_EQ(m.vcpu(KVM_GET_MSRS, areas.header()), 2);
    EXPECT_EQ(areas.entries()[0].data, 0u) << backend->name;
    EXPECT_EQ(areas.entries()[1].data, 0u) << backend->name;
    ASSERT_EQ(m.vcpu(KVM_GET_VCPU_EVENTS, &events), 0);
    EXPECT_EQ(events.interrupt.injected, 0) << backend->name;
    EXPECT_EQ(events.nmi.injected, 0) << backend->name;
    EXPECT_EQ(events.nmi.pending, 0) << backend->name;
    EXPECT_EQ(events.smi.latched_init, 0) << backend->name;
  }
}

}  // namespace
}  // namespace vireo::softkvm::test
