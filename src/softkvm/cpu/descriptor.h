// SPDX-License-Identifier: Apache-2.0
// Segment and gate descriptors, as they lie in the GDT, LDT and IDT, and the way from a selector to one.
// Spec: Intel SDM vol 3, 3.4.5 (segments), 3.5 (system descriptors), 6.11 and 6.14.1 (gates), 8.2.2 (TSS).
#pragma once

#include <cstdint>

#include "softkvm/cpu/system.h"

// Evaluates an expression of type Outcome; if it is not kNext, returns it from the enclosing function.
#define STEP(expression)                                                              \
  do {                                                                                \
    if (::vireo::softkvm::Outcome step_outcome_ = (expression);                       \
        step_outcome_ != ::vireo::softkvm::Outcome::kNext) [[unlikely]]               \
      return step_outcome_;                                                           \
  } while (0)

namespace vireo::softkvm {

// Types of system descriptors (S = 0). In IA-32e mode only kLdt, kTss32*, kCallGate32 and the 32-bit gates remain, 16 bytes wide.
enum SystemType : unsigned {
  kTss16Available = 1, kLdtType = 2, kTss16Busy = 3, kCallGate16 = 4, kTaskGate = 5, kInterruptGate16 = 6, kTrapGate16 = 7,
  kTss32Available = 9, kTss32Busy = 11, kCallGate32 = 12, kInterruptGate32 = 14, kTrapGate32 = 15,
};

inline bool null_selector(uint16_t selector) { return (selector & 0xfffc) == 0; }

struct Descriptor {
  uint64_t low = 0;
  uint64_t high = 0;     // second half of 16-byte system descriptors
  uint64_t linear = 0;   // where it was read
  uint16_t selector = 0;

  unsigned type() const { return low >> 40 & 15; }
  bool s() const { return low >> 44 & 1; }
  unsigned dpl() const { return low >> 45 & 3; }
  bool present() const { return low >> 47 & 1; }
  bool l() const { return low >> 53 & 1; }
  bool db() const { return low >> 54 & 1; }
  bool g() const { return low >> 55 & 1; }
  bool code() const { return s() && (type() & 8); }
  bool conforming() const { return (type() & 12) == 12; }
  bool readable_code() const { return code() && (type() & 2); }
  bool data() const { return s() && !(type() & 8); }
  bool writable_data() const { return data() && (type() & 2); }
  unsigned system_type() const { return s() ? 16 : type(); }
  uint32_t limit() const {
    uint32_t limit = static_cast<uint32_t>((low & 0xffff) | (low >> 32 & 0xf0000));
    return g() ? limit << 12 | 0xfff : limit;
  }
  uint64_t base() const { return (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | high << 32; }

  uint16_t gate_selector() const { return static_cast<uint16_t>(low >> 16); }
  uint64_t gate_offset() const { return (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32; }
  unsigned gate_count() const { return low >> 32 & 31; }

  // What a segment register holds after loading it.
  Segment segment() const {
    Segment out;
    out.base = base();
    out.limit = limit();
    out.selector = selector;
    out.access = static_cast<uint16_t>(low >> 40 & 0xf0ff);
    return out;
  }
};

// The descriptor `selector` (not null) names. Beyond the table's limit: `vector` with the selector as error code.
Outcome read_descriptor(VcpuState& vcpu, uint16_t selector, uint8_t vector, Descriptor& out);
// Reads the second half of a system descriptor in IA-32e mode; a half with type bits is no second half: `vector`.
Outcome read_descriptor_high(VcpuState& vcpu, uint8_t vector, Descriptor& descriptor);
// Sets the accessed bit of a code or data descriptor, in memory and in `descriptor`.
Outcome mark_accessed(VcpuState& vcpu, Descriptor& descriptor);

inline uint32_t selector_error(uint16_t selector) { return selector & 0xfffcu; }

// Is `linear` canonical for addresses of `bits` bits?
inline bool canonical(uint64_t linear, unsigned bits) {
  return static_cast<uint64_t>(static_cast<int64_t>(linear << (64 - bits)) >> (64 - bits)) == linear;
}
// The widest linear address this vCPU can have. What MSRs, descriptor table bases and segment bases are held to, whatever CR4.LA57 says.
unsigned supported_linear_bits(const VcpuState& vcpu);

// Do `size` bytes at `offset` lie within the segment (legacy modes; expand-down included)?
inline bool within_limit(const Segment& segment, uint64_t offset, unsigned size) {
  uint64_t last = offset + size - 1;
  if (segment.s() && (segment.type() & 12) == 4) {
    uint64_t top = segment.db() ? 0xffffffffu : 0xffffu;
    return offset > segment.limit && last <= top;
  }
  return last <= segment.limit;
}

// CS as a loaded code segment running at `cpl`.
inline void set_cs(VcpuState& vcpu, const Descriptor& descriptor, unsigned cpl) {
  Segment cs = descriptor.segment();
  cs.selector = static_cast<uint16_t>((descriptor.selector & 0xfffc) | cpl);
  vcpu.segment[kCS] = cs;
  vcpu.cpl = static_cast<uint8_t>(cpl);
}

// A null SS as 64-bit mode has it after a change of privilege.
inline Segment null_stack_segment(unsigned cpl) {
  Segment ss;
  ss.selector = static_cast<uint16_t>(cpl);
  ss.access = static_cast<uint16_t>(cpl << 5);
  ss.unusable = true;
  return ss;
}

// A segment register as loaded in real mode (`cs` and rights stay what unreal mode made of them) and in virtual-8086 mode.
void load_real_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector);
void load_vm86_segment(VcpuState& vcpu, SegmentRegister which, uint16_t selector);

// Checks a selector for SS at privilege `cpl` (not null) and reads its descriptor. `vector` for all faults but not present (#SS).
Outcome check_stack_segment(VcpuState& vcpu, uint16_t selector, unsigned cpl, uint8_t vector, Descriptor& out);

// The code segment `selector` of a far transfer may not be entered at `rip`: beyond its limit or non-canonical.
inline bool bad_target(const VcpuState& vcpu, const Descriptor& code, uint64_t rip) {
  if (vcpu.long_mode_active() && code.l()) return !canonical(rip, vcpu.linear_bits);
  return rip > code.limit();
}

// Checks CS and SS of a far return or IRET (RPL is the level returned to); `ss` is what SS will hold.
Outcome check_return_code(VcpuState& vcpu, uint16_t selector, Descriptor& code);
Outcome check_return_stack(VcpuState& vcpu, uint16_t selector, const Descriptor& code, unsigned cpl, Segment& ss);

// Returning to an outer level makes data segments of inner levels unusable (SDM vol 1, 6.4.6).
void drop_inner_segments(VcpuState& vcpu, unsigned cpl);

// Stack pointers of the TSS: SS:ESP of level `cpl`; in IA-32e mode, RSP of the level, or an IST entry (1-7). #TS beyond its limit.
Outcome read_tss_stack(VcpuState& vcpu, unsigned cpl, uint16_t& ss, uint64_t& sp);
Outcome read_tss_stack_long(VcpuState& vcpu, unsigned cpl, unsigned ist, uint64_t& rsp);

}  // namespace vireo::softkvm
