// SPDX-License-Identifier: Apache-2.0
// Protection keys for user pages (PKRU) and supervisor pages (IA32_PKRS), and PKRU as an XSAVE component.
// Spec: Intel SDM vol 3, 4.6.2 (rights), 4.7 (error code); vol 1, 13.5.7 (PKRU state), 13.7 (XSAVE), 13.8 (XRSTOR), 13.10 (XSAVEC).
#include <gtest/gtest.h>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/fault_machine.h"

namespace vireo::softkvm {
namespace {

constexpr uint64_t kKeyed = 0x300000, kFaultStack = FaultMachine::kKernelStack;
constexpr uint32_t kAd = 1, kWd = 2;
enum : uint32_t { kP = 1, kW = 2, kU = 4, kPk = 32 };

// The page at kKeyed has key 5.
class KeyMachine : public FaultMachine {
 public:
  static constexpr unsigned kKey = 5;

  KeyMachine() {
    CpuidOptions options;
    options.xcr0 = Vcpu::supported_xcr0();
    options.pku = options.pks = true;
    keys_ = make_cpuid_table(supported_cpuid(CpuidHost::bare(), options));
    vcpu->cpuid = keys_.get();
    vcpu->xcr0 |= 1 << 9;
    entry() |= static_cast<uint64_t>(kKey) << 59;
    vcpu->cr4 |= kCr4Pke | kCr4Pks;
    vcpu->state_changed();
  }
  uint64_t& entry() { return at(kTable + (kKeyed - 0x200000) / 4096 * 8); }
  void supervisor() {
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 8, 0xa09b, false};
    for (Segment& s : vcpu->segment)
      if (&s != &vcpu->segment[kCS]) s = Segment{0, 0xffffffff, 16, 0xc093, false};
    vcpu->cpl = 0;
    vcpu->state_changed();
  }
  void supervisor_page() { entry() &= ~4ull; }
  void rights(uint32_t value) { vcpu->pkru = value << 2 * kKey; }
  void supervisor_rights(uint32_t value) { vcpu->pkrs = value << 2 * kKey; }
  // The error code of the page fault that ends the code, or 0 if it runs to its end.
  uint32_t error_of(std::span<const uint8_t> code) {
    vcpu->gpr[kRsp] = kStackTop;
    vcpu->gpr[kRbx] = kKeyed;
    const unsigned vector = vector_of(code);
    if (vector != 14) return 0;
    EXPECT_EQ(vcpu->cr2, kKeyed);
    return at<uint32_t>(vcpu->gpr[kRsp]);
  }

 private:
  std::unique_ptr<CpuidTable> keys_;
};

GUEST_CODE(key_read, "mov eax, [rbx]; hlt")
GUEST_CODE(key_write, "mov [rbx], eax; hlt")

TEST(ProtectionKeys, AccessDisableStopsUsersReadsAndWrites) {
  KeyMachine m;
  m.rights(kAd);
  EXPECT_EQ(m.error_of(key_read()), kP | kU | kPk);
  KeyMachine n;
  n.rights(kAd);
  EXPECT_EQ(n.error_of(key_write()), kP | kU | kW | kPk);
}

TEST(ProtectionKeys, WriteDisableStopsWritesOnly) {
  KeyMachine m;
  m.rights(kWd);
  EXPECT_EQ(m.error_of(key_read()), 0u);
  KeyMachine n;
  n.rights(kWd);
  EXPECT_EQ(n.error_of(key_write()), kP | kU | kW | kPk);
}

// Loads the page, gives PKRU another value and loads it again.
GUEST_CODE(change_rights, "mov eax, [rbx]; mov eax, esi; xor ecx, ecx; xor edx, edx; wrpkru; mov eax, [rbx]; hlt")
struct Change {
  uint64_t flushes;
  uint32_t error;
};
Change change_to(uint32_t pkru) {
  KeyMachine m;
  m.vcpu->gpr[kRsi] = pkru;
  m.vcpu->gpr[kRsp] = TestMachine::kStackTop;
  const uint32_t error = m.error_of(change_rights());
  return {m.vcpu->engine->counters.tlb_flush, error};
}

TEST(ProtectionKeys, OnlyAChangeOfAKeyThatIsInUseDropsTranslations) {
  const Change none = change_to(0), other = change_to((kAd | kWd) << 2 * (KeyMachine::kKey + 1)), own = change_to(kAd << 2 * KeyMachine::kKey);
  EXPECT_EQ(none.error, 0u);
  EXPECT_EQ(other.error, 0u);
  EXPECT_EQ(own.error, kP | kU | kPk);
  EXPECT_EQ(other.flushes, none.flushes);
  EXPECT_EQ(own.flushes, none.flushes + 1);
}

TEST(ProtectionKeys, OfAnotherKeyOrWithoutPkeSayNothing) {
  KeyMachine m;
  m.vcpu->pkru = ~(3u << 2 * KeyMachine::kKey);  // key 0 too: the code is fetched, which keys do not stop
  EXPECT_EQ(m.error_of(key_read()), 0u);
  KeyMachine n;
  n.rights(kAd | kWd);
  n.vcpu->cr4 &= ~kCr4Pke;
  EXPECT_EQ(n.error_of(key_write()), 0u);
}

TEST(ProtectionKeys, PkIsSetBesideAnotherReason) {
  KeyMachine m;
  m.supervisor_page();
  m.supervisor_rights(kAd);
  EXPECT_EQ(m.error_of(key_read()), kP | kU | kPk);
  KeyMachine n;
  n.entry() &= ~2ull;
  n.rights(kWd);
  EXPECT_EQ(n.error_of(key_write()), kP | kU | kW | kPk);
}

TEST(ProtectionKeys, WriteDisableBindsTheSupervisorByWp) {
  for (bool wp : {false, true}) {
    KeyMachine m;
    m.rights(kWd);
    m.supervisor();
    m.vcpu->cr0 = (m.vcpu->cr0 & ~kCr0Wp) | (wp ? kCr0Wp : 0);
    m.vcpu->state_changed();
    EXPECT_EQ(m.error_of(key_write()), wp ? kP | kW | kPk : 0u);
  }
}

TEST(ProtectionKeys, SupervisorPagesFollowPkrs) {
  KeyMachine m;
  m.supervisor_page();
  m.supervisor();
  m.rights(kAd);
  m.vcpu->state_changed();
  EXPECT_EQ(m.error_of(key_write()), 0u);
  KeyMachine n;
  n.supervisor_page();
  n.supervisor();
  n.supervisor_rights(kAd);
  n.vcpu->state_changed();
  EXPECT_EQ(n.error_of(key_read()), kP | kPk);
}

// A page that the TLB has is refused after WRPKRU, and let in again.
GUEST_CODE(key_changes, "mov eax, [rbx]; xor ecx, ecx; xor edx, edx; mov eax, 0xc00; wrpkru; rdpkru; mov esi, eax; xor eax, eax; wrpkru; mov [rbx], eax; "
                        "mov eax, 0xc00; wrpkru; mov edi, 7; mov [rbx], eax; hlt")
TEST(ProtectionKeys, WrpkruIsInForceAtOnce) {
  KeyMachine m;
  EXPECT_EQ(m.error_of(key_changes()), kP | kU | kW | kPk);
  EXPECT_EQ(m.vcpu->gpr[kRsi], 0xc00u);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 7u);
}

GUEST_CODE(keys_of_msr, "mov eax, [rbx]; mov ecx, 0x6e1; xor edx, edx; mov eax, 0x400; wrmsr; rdmsr; mov esi, eax; mov eax, [rbx]; hlt")
TEST(ProtectionKeys, WrmsrIsInForceAtOnce) {
  KeyMachine m;
  m.supervisor_page();
  m.supervisor();
  EXPECT_EQ(m.error_of(keys_of_msr()), kP | kPk);
  EXPECT_EQ(m.vcpu->gpr[kRsi], 0x400u);
}

GUEST_CODE(keys_high, "mov ecx, 0x6e1; mov edx, 1; xor eax, eax; wrmsr; hlt")
TEST(ProtectionKeys, TheUpperHalfOfPkrsIsReserved) {
  KeyMachine m;
  m.supervisor();
  EXPECT_EQ(m.vector_of(keys_high()), 13u);
}

// PKRU alone by XSAVE and XSAVEC, changed, and back by XRSTOR; then its initial configuration.
GUEST_CODE(key_area, "mov rbx, 0x340000; xor ecx, ecx; xor edx, edx; mov eax, 0x55555554; wrpkru; mov eax, 0x200; xsave [rbx]; xsavec [rbx + 0x1000]; "
                     "xor eax, eax; wrpkru; mov eax, 0x200; xrstor [rbx]; rdpkru; mov esi, eax; xor eax, eax; wrpkru; xor edx, edx; mov eax, 0x200; "
                     "xrstor [rbx + 0x1000]; rdpkru; mov edi, eax; mov eax, 0x200; xrstor [rbx + 0x2000]; rdpkru; mov ebp, eax; hlt")
TEST(ProtectionKeys, AreAnXsaveComponent) {
  KeyMachine m;
  const uint32_t offset = m.vcpu->cpuid->xsave_component[9].offset;
  ASSERT_GE(offset, 576u);
  m.at(0x340000 + 512) = 0;
  m.run(key_area());
  EXPECT_EQ(m.at(0x340000 + 512), 0x200u);
  EXPECT_EQ(m.at(0x340000 + offset), 0x55555554u);
  EXPECT_EQ(m.at(0x341000 + 512), 0x200u);
  EXPECT_EQ(m.at(0x341000 + 520), 1ull << 63 | 0x200);
  EXPECT_EQ(m.at(0x341000 + 576), 0x55555554u);
  EXPECT_EQ(m.vcpu->gpr[kRsi], 0x55555554u);
  EXPECT_EQ(m.vcpu->gpr[kRdi], 0x55555554u);
  EXPECT_EQ(m.vcpu->gpr[kRbp], 0u);
}

}  // namespace
}  // namespace vireo::softkvm
