// SPDX-License-Identifier: Apache-2.0
// Segment registers and descriptors: loading with all checks, accessed bits, the stacks a TSS names.
// Spec: Intel SDM vol 2, MOV (loading a segment register); vol 3, 3.4.3, 3.5, 5.5-5.7, 8.7; AMD APM vol 2, 4.5.1 (null selectors).
#include <initializer_list>

#include "softkvm/cpu/cpuid.h"
#include "softkvm/cpu/stack.h"

namespace vireo::softkvm {

unsigned supported_linear_bits(const VcpuState& vcpu) { return has(vcpu, kCpuidLa57) ? 57 : 48; }

Outcome read_descriptor(VcpuState& vcpu, uint16_t selector, uint8_t vector, Descriptor& out) {
  uint64_t base = vcpu.gdtr.base;
  uint32_t limit = vcpu.gdtr.limit;
  if (selector & 4) {
    if (vcpu.ldtr.unusable || !vcpu.ldtr.present()) return vcpu.raise(vector, selector_error(selector));
    base = vcpu.ldtr.base;
    limit = vcpu.ldtr.limit;
  }
  if ((selector | 7u) > limit) return vcpu.raise(vector, selector_error(selector));
  uint64_t linear = base + (selector & 0xfff8);
  if (!vcpu.long_mode_active()) linear = static_cast<uint32_t>(linear);
  STEP(read_linear(vcpu, linear, &out.low, 8, true));
  out.high = 0;
  out.linear = linear;
  out.selector = selector;
  return Outcome::kNext;
}

Outcome read_descriptor_high(VcpuState& vcpu, uint8_t vector, Descriptor& d) {
  uint32_t limit = d.selector & 4 ? vcpu.ldtr.limit : vcpu.gdtr.limit;
  if ((d.selector | 7u) + 8 > limit) return vcpu.raise(vector, selector_error(d.selector));
  uint64_t high;
  STEP(read_linear(vcpu, d.linear + 8, &high, 8, true));
  if (high >> 40 & 0x1f) return vcpu.raise(vector, selector_error(d.selector));
  d.high = high & 0xffffffff;
  return Outcome::kNext;
}

Outcome mark_accessed(VcpuState& vcpu, Descriptor& d) {
  if (d.low >> 40 & 1) return Outcome::kNext;
  STEP(update_linear_byte(vcpu, d.linear + 5, 1, 0));
  d.low |= 1ull << 40;
  return Outcome::kNext;
}

void load_real_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector) {
  Segment& s = vcpu.segment[which];
  s.selector = selector;
  s.base = static_cast<uint64_t>(selector) << 4;
  // Limit, B and G stay: a limit loaded in protected mode survives (unreal mode). The rights become those of a writable segment.
  s.access = static_cast<uint16_t>((s.access & 0xd000) | (which == kCS ? 0x9b : 0x93));
  s.unusable = false;
}

void load_vm86_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector) {
  Segment& s = vcpu.segment[which];
  s.selector = selector;
  s.base = static_cast<uint64_t>(selector) << 4;
  s.limit = 0xffff;
  s.access = 0xf3;
  s.unusable = false;
}

Outcome check_stack_segment(VcpuState& vcpu, uint16_t selector, unsigned cpl, uint8_t vector, Descriptor& out) {
  uint32_t error = selector_error(selector);
  STEP(read_descriptor(vcpu, selector, vector, out));
  if ((selector & 3u) != cpl || !out.writable_data() || out.dpl() != cpl) return vcpu.raise(vector, error);
  if (!out.present()) return vcpu.raise(kSSv, error);
  return Outcome::kNext;
}

namespace {

// What a null selector leaves in the hidden part: Intel clears it, AMD keeps base and limit unless CPUID says NullSelectorClearsBase.
Segment null_segment(const VcpuState& vcpu, const Segment& old, uint16_t selector) {
  Segment s;
  if (vcpu.vendor_is_amd && !has(vcpu, kCpuidNullSelectorClearsBase)) {
    s.base = old.base;
    s.limit = old.limit;
  }
  s.selector = selector;
  s.unusable = true;
  return s;
}

}  // namespace

Outcome load_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector) {
  if (!vcpu.protected_mode() || vcpu.vm86()) [[unlikely]] {
    if (vcpu.vm86())
      load_vm86_segment(vcpu, which, selector);
    else
      load_real_segment(vcpu, which, selector);
    update_mode(vcpu);
    return Outcome::kNext;
  }
  Segment& target = vcpu.segment[which];
  if (null_selector(selector)) {
    if (which == kSS) {
      if (!vcpu.in_64bit() || vcpu.cpl == 3 || (selector & 3) != vcpu.cpl) return vcpu.raise(kGP, 0);
      target = null_stack_segment(vcpu.cpl);
    } else {
      target = null_segment(vcpu, target, selector);
    }
    update_mode(vcpu);
    return Outcome::kNext;
  }
  Descriptor d;
  if (which == kSS) {
    STEP(check_stack_segment(vcpu, selector, vcpu.cpl, kGP, d));
  } else {
    STEP(read_descriptor(vcpu, selector, kGP, d));
    uint32_t error = selector_error(selector);
    if (!d.data() && !d.readable_code()) return vcpu.raise(kGP, error);
    unsigned rpl = selector & 3;
    if (!d.conforming() && (rpl > d.dpl() || vcpu.cpl > d.dpl())) return vcpu.raise(kGP, error);
    if (!d.present()) return vcpu.raise(kNP, error);
  }
  STEP(mark_accessed(vcpu, d));
  target = d.segment();
  update_mode(vcpu);
  return Outcome::kNext;
}

void drop_inner_segments(VcpuState& vcpu, unsigned cpl) {
  for (SegmentRegister r : {kES, kDS, kFS, kGS}) {
    Segment& s = vcpu.segment[r];
    bool conforming_code = (s.type() & 12) == 12;
    if (s.unusable || s.dpl() >= cpl || conforming_code) continue;
    // Selector and valid bit alone (SDM vol 2, IRET and RET, the operation's last lines): 64-bit code goes on using the base.
    s.selector = 0;
    s.unusable = true;
  }
}

Outcome read_tss_stack(VcpuState& vcpu, unsigned cpl, uint16_t& ss, uint64_t& sp) {
  bool wide = vcpu.tr.type() & 8;  // 32-bit TSS
  unsigned offset = wide ? 4 + cpl * 8 : 2 + cpl * 4;
  unsigned size = wide ? 6 : 4;
  if (vcpu.tr.unusable || offset + (wide ? 8 : 4) - 1 > vcpu.tr.limit) return vcpu.raise(kTS, selector_error(vcpu.tr.selector));
  uint64_t value = 0;
  STEP(read_linear(vcpu, static_cast<uint32_t>(vcpu.tr.base + offset), &value, size, true));
  sp = wide ? value & 0xffffffff : value & 0xffff;
  ss = static_cast<uint16_t>(wide ? value >> 32 : value >> 16);
  return Outcome::kNext;
}

Outcome read_tss_stack_long(VcpuState& vcpu, unsigned cpl, unsigned ist, uint64_t& rsp) {
  unsigned offset = ist ? 28 + ist * 8 : 4 + cpl * 8;
  if (vcpu.tr.unusable || offset + 7 > vcpu.tr.limit) return vcpu.raise(kTS, selector_error(vcpu.tr.selector));
  STEP(read_linear(vcpu, vcpu.tr.base + offset, &rsp, 8, true));
  if (!canonical(rsp, vcpu.linear_bits)) return vcpu.raise(kSSv, 0);
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
