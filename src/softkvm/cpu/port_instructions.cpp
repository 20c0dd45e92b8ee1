// SPDX-License-Identifier: Apache-2.0
// IN and OUT, and the permission to use a port. Spec: Intel SDM vol 1, 19.5; vol 2, IN, OUT.
#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

bool io_permitted(VcpuState& vcpu, uint16_t port, unsigned size, Outcome& outcome) {
  outcome = Outcome::kNext;
  if (!vcpu.protected_mode() || (!vcpu.vm86() && vcpu.cpl <= iopl(vcpu))) return true;
  const Segment& tr = vcpu.tr;
  bool wide_tss = tr.type() == kTss32Available || tr.type() == kTss32Busy;
  if (tr.unusable || !wide_tss || tr.limit < 103) {
    outcome = vcpu.raise(kGP, 0);
    return false;
  }
  uint16_t map;
  outcome = read_linear(vcpu, tr.base + 102, &map, 2, true);
  if (outcome != Outcome::kNext) return false;
  // Two bytes are always read, so the map ends with one byte more (vol 1, 19.5.2).
  uint32_t at = map + port / 8u;
  if (at + 1 > tr.limit) {
    outcome = vcpu.raise(kGP, 0);
    return false;
  }
  uint16_t bits;
  outcome = read_linear(vcpu, tr.base + at, &bits, 2, true);
  if (outcome != Outcome::kNext) return false;
  if (bits >> (port & 7) & ((1u << size) - 1)) {
    outcome = vcpu.raise(kGP, 0);
    return false;
  }
  return true;
}

Outcome in_port(VcpuState& vcpu, uint16_t port, unsigned size) {
  Outcome outcome;
  if (!io_permitted(vcpu, port, size, outcome)) return outcome;
  uint32_t value = 0;
  STEP(port_io(vcpu, port, size, false, value));
  write_gpr(vcpu, kRax, size, value);
  return Outcome::kNext;
}

Outcome out_port(VcpuState& vcpu, uint16_t port, unsigned size) {
  Outcome outcome;
  if (!io_permitted(vcpu, port, size, outcome)) return outcome;
  uint32_t value = static_cast<uint32_t>(read_gpr(vcpu, kRax, size));
  return port_io(vcpu, port, size, true, value);
}

}  // namespace vireo::softkvm
