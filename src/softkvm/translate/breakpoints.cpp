// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/breakpoints.h"

#include "softkvm/translate/engine.h"

namespace vireo::softkvm {
namespace {

constexpr uint32_t kEnabled = 0xff;  // L0, G0 ... L3, G3

bool by_user_space(const Vcpu& vcpu) { return vcpu.guest_debug.control & KVM_GUESTDBG_USE_HW_BP; }
uint64_t dr7(const Vcpu& vcpu) { return by_user_space(vcpu) ? vcpu.guest_debug.arch.debugreg[7] : vcpu.dr7; }
uint64_t address(const Vcpu& vcpu, unsigned n) { return by_user_space(vcpu) ? vcpu.guest_debug.arch.debugreg[n] : vcpu.dr[n]; }

BreakpointKind kind_of(uint64_t dr7, unsigned n) { return static_cast<BreakpointKind>(dr7 >> (16 + 4 * n) & 3); }
// LEN: 1, 2, 8 or 4 bytes.
unsigned length_of(uint64_t dr7, unsigned n) {
  constexpr uint8_t kLengths[] = {1, 2, 8, 4};
  return kLengths[dr7 >> (18 + 4 * n) & 3];
}
bool enabled(uint64_t dr7, unsigned n) { return dr7 >> 2 * n & 3; }

}  // namespace

bool breakpoints_armed(const Vcpu& vcpu) { return dr7(vcpu) & kEnabled; }

uint8_t instruction_breakpoints(const Vcpu& vcpu, uint64_t linear) {
  uint64_t control = dr7(vcpu);
  uint8_t hits = 0;
  for (unsigned n = 0; n < 4; n++)
    if (enabled(control, n) && kind_of(control, n) == BreakpointKind::kExecute && address(vcpu, n) == linear) hits |= 1u << n;
  return hits;
}

uint8_t watched(const Vcpu& vcpu) {
  uint64_t control = dr7(vcpu);
  uint8_t bits = 0;
  for (unsigned n = 0; n < 4; n++) {
    BreakpointKind kind = kind_of(control, n);
    // Without CR4.DE the code for ports is undefined; nothing watches then.
    if (!enabled(control, n) || kind == BreakpointKind::kExecute || (kind == BreakpointKind::kPort && !(vcpu.cr4 & kCr4De))) continue;
    bits |= 1u << n;
  }
  return bits;
}

void note_watched(Vcpu& vcpu, uint64_t at, unsigned size, BreakpointKind kind) {
  Engine& engine = engine_of(vcpu);
  uint64_t control = dr7(vcpu);
  for (unsigned n = 0; n < 4; n++) {
    if (!(engine.watching >> n & 1)) continue;
    BreakpointKind wanted = kind_of(control, n);
    if (wanted != kind && !(wanted == BreakpointKind::kAccess && kind == BreakpointKind::kWrite)) continue;
    unsigned length = length_of(control, n);
    uint64_t start = address(vcpu, n) & ~static_cast<uint64_t>(length - 1);
    if (start < at + size && at < start + length) engine.watch_hits |= 1u << n;
  }
}

}  // namespace vireo::softkvm
