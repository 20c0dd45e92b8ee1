// SPDX-License-Identifier: Apache-2.0
// For tests: a VM whose code runs at CPL 3 and ends with a fault, of which the vector is told.
#pragma once

#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {

// CPL 3 with an IDT of HLTs. The page at kAbsent is not there.
class FaultMachine : public TestMachine {
 public:
  static constexpr uint64_t kTable = 0x6000, kIdt = 0x7000, kGdt = 0x8000, kTss = 0x9000, kHandlers = 0xa000, kKernelStack = 0xf000;
  static constexpr uint64_t kAbsent = 0x3ff000;

  FaultMachine() {
    for (unsigned i = 0; i < 512; i++) at(kTable + i * 8) = i < 511 ? (0x200000ull + i * 4096) | 7 : 0;
    at(0x3000 + 8) = kTable | 7;
    for (unsigned v = 0; v < 32; v++) {
      const uint64_t handler = kHandlers + v * 16;
      at(kIdt + v * 16) = (handler & 0xffff) | 8ull << 16 | 0x8e01ull << 32 | (handler >> 16 & 0xffff) << 48;
      at(kIdt + v * 16 + 8) = 0;
      at<uint8_t>(handler) = 0xf4;
    }
    at(kGdt + 8) = 0x00af9b000000ffff;
    at(kGdt + 16) = 0x00cf93000000ffff;
    memcpy(ram + kTss + 0x24, &kKernelStack, 8);
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x2b, 0xa0fb, false};
    for (unsigned s : {kES, kSS, kDS, kFS, kGS}) vcpu->segment[s] = Segment{0, 0xffffffff, 0x23, 0xc0f3, false};
    vcpu->tr = Segment{kTss, 0x67, 0x30, 0x8b, false};
    vcpu->gdtr = {kGdt, 0x3f};
    vcpu->idtr = {kIdt, 0x1ff};
    vcpu->cr0 = 0x80050033;  // AM
    vcpu->cpl = 3;
    vcpu->state_changed();
  }
  // Flat 32-bit code instead of 64-bit code.
  void narrow() {
    vcpu->segment[kCS] = Segment{0, 0xffffffff, 0x1b, 0xc0fb, false};
    vcpu->state_changed();
  }
  // The vector that ended the code: it ends with HLT, which is #GP.
  unsigned vector_of(std::span<const uint8_t> code) {
    if (run(code) != KVM_EXIT_HLT || vcpu->rip <= kHandlers || vcpu->rip > kHandlers + 512) return 255;
    return static_cast<unsigned>((vcpu->rip - kHandlers) / 16);
  }
  // Where a fault without an error code, or #GP, left the code: vector_of() has been called.
  uint64_t fault_rip() { return at(vcpu->gpr[kRsp] + (vcpu->gpr[kRsp] % 16 ? 0 : 8)); }
  uint8_t* component(unsigned offset) { return vcpu->xsave_area() + offset; }
};

}  // namespace vireo::softkvm
