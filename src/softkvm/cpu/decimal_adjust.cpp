// SPDX-License-Identifier: Apache-2.0
// The decimal adjustments, which 64-bit mode lost. Flags the manual leaves undefined get what the CPUs of the last decades give: those of
// the result. Spec: Intel SDM vol 2, DAA, DAS, AAA, AAS, AAM, AAD (Operation).
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

uint8_t al(const VcpuState& vcpu) { return static_cast<uint8_t>(vcpu.gpr[kRax]); }
uint8_t ah(const VcpuState& vcpu) { return static_cast<uint8_t>(vcpu.gpr[kRax] >> 8); }
void set_al(VcpuState& vcpu, uint8_t value) { write_gpr(vcpu, kRax, 1, value); }
void set_ax(VcpuState& vcpu, uint16_t value) { write_gpr(vcpu, kRax, 2, value); }

uint64_t sign_zero_parity(uint8_t value) {
  uint64_t flags = value & 0x80 ? kSF : 0;
  if (value == 0) flags |= kZF;
  unsigned parity = value ^ value >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  if (!(parity & 1)) flags |= kPF;
  return flags;
}

bool flag(const VcpuState& vcpu, uint32_t bit) { return vcpu.flag_ah & bit; }

}  // namespace

Outcome daa(VcpuState& vcpu) {
  uint8_t old = al(vcpu), result = old;
  bool carry = flag(vcpu, kCF), adjust = (old & 15) > 9 || flag(vcpu, kAF), out = false;
  if (adjust) {
    out = carry || result > 0xff - 6;
    result = static_cast<uint8_t>(result + 6);
  }
  if (old > 0x99 || carry) {
    result = static_cast<uint8_t>(result + 0x60);
    out = true;
  } else {
    out = false;
  }
  set_al(vcpu, result);
  vcpu.set_status_flags(sign_zero_parity(result) | (out ? kCF : 0) | (adjust ? kAF : 0));
  return Outcome::kNext;
}

Outcome das(VcpuState& vcpu) {
  uint8_t old = al(vcpu), result = old;
  bool carry = flag(vcpu, kCF), adjust = (old & 15) > 9 || flag(vcpu, kAF), out = false;
  if (adjust) {
    out = carry || result < 6;
    result = static_cast<uint8_t>(result - 6);
  }
  if (old > 0x99 || carry) {
    result = static_cast<uint8_t>(result - 0x60);
    out = true;
  }
  set_al(vcpu, result);
  vcpu.set_status_flags(sign_zero_parity(result) | (out ? kCF : 0) | (adjust ? kAF : 0));
  return Outcome::kNext;
}

Outcome aaa(VcpuState& vcpu) {
  bool adjust = (al(vcpu) & 15) > 9 || flag(vcpu, kAF);
  uint16_t ax = static_cast<uint16_t>(vcpu.gpr[kRax]);
  if (adjust) ax = static_cast<uint16_t>(ax + 0x106);
  ax &= 0xff0f;
  set_ax(vcpu, ax);
  vcpu.set_status_flags(sign_zero_parity(static_cast<uint8_t>(ax)) | (adjust ? kCF | kAF : 0));
  return Outcome::kNext;
}

Outcome aas(VcpuState& vcpu) {
  bool adjust = (al(vcpu) & 15) > 9 || flag(vcpu, kAF);
  uint16_t ax = static_cast<uint16_t>(vcpu.gpr[kRax]);
  if (adjust) {
    ax = static_cast<uint16_t>(ax - 6);
    ax = static_cast<uint16_t>(ax - 0x100);
  }
  ax &= 0xff0f;
  set_ax(vcpu, ax);
  vcpu.set_status_flags(sign_zero_parity(static_cast<uint8_t>(ax)) | (adjust ? kCF | kAF : 0));
  return Outcome::kNext;
}

Outcome aam(VcpuState& vcpu, uint8_t base) {
  if (base == 0) return vcpu.raise(kDE);
  uint8_t value = al(vcpu);
  uint8_t low = value % base;
  set_ax(vcpu, static_cast<uint16_t>((value / base) << 8 | low));
  vcpu.set_status_flags(sign_zero_parity(low));
  return Outcome::kNext;
}

Outcome aad(VcpuState& vcpu, uint8_t base) {
  uint8_t low = static_cast<uint8_t>(al(vcpu) + ah(vcpu) * base);
  set_ax(vcpu, low);
  vcpu.set_status_flags(sign_zero_parity(low));
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
