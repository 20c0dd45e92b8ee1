// SPDX-License-Identifier: Apache-2.0
// String instructions: element by element as the manual says, but page by page as the host's own REP instruction where both sides are
// RAM. Spec: Intel SDM vol 2, REP; vol 1, 7.3.9.
#include "softkvm/translate/string_ops.h"

#include "softkvm/mmu/access.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/events.h"
#include "softkvm/translate/switches.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

struct Strings {
  VcpuState& vcpu;
  const Insn& insn;
  unsigned size;        // of an element
  uint64_t mask;        // of the address size
  bool down, repeated;

  Strings(VcpuState& v, const Insn& i) : vcpu(v), insn(i) {
    size = i.opcode & 1 ? i.operand_size : 1;
    mask = i.address_size == 8 ? ~0ull : i.address_size == 4 ? 0xffffffffull : 0xffffull;
    down = v.system_flags & kDF;
    repeated = i.rep || i.repne;
  }
  uint64_t get(Gpr r) const { return vcpu.gpr[r] & mask; }
  void set(Gpr r, uint64_t value) {
    if (mask == 0xffff)
      vcpu.gpr[r] = (vcpu.gpr[r] & ~0xffffull) | (value & 0xffff);
    else
      vcpu.gpr[r] = value & mask;
  }
  void advance(Gpr r, uint64_t elements) { set(r, get(r) + (down ? -elements * size : elements * size)); }
  uint64_t count() const { return repeated ? get(kRcx) : 1; }
  void spend(uint64_t elements) {
    if (repeated) set(kRcx, get(kRcx) - elements);
  }
  // How many values an INS may ask for at once: what it has to take, and as far as the page goes.
  uint64_t wanted() const {
    const uint64_t at = vcpu.gpr[kRdi] & 0xfff, in_page = (down ? at : 4096 - at) / size, n = count();
    return in_page == 0 ? 1 : n < in_page ? n : in_page;
  }
  // CMPS: Intel's CPUs read [rDI] first, AMD's [rSI]. Which fault is seen depends on it.
  bool di_first() const { return !vcpu.vendor_is_amd; }
  SegmentRegister source() const { return static_cast<SegmentRegister>(insn.segment); }

  // How many elements from `offset` on stay inside one page and inside the address size.
  uint64_t run(uint64_t offset, uint64_t linear, uint64_t want) const {
    uint64_t in_page = down ? ((linear & 0xfff) + size <= 4096 ? (linear & 0xfff) / size + 1 : 0) : (4096 - (linear & 0xfff)) / size;
    uint64_t in_offset = down ? offset / size + 1 : mask == ~0ull ? want : (mask - offset + 1) / size;
    uint64_t n = want < in_page ? want : in_page;
    return n < in_offset ? n : in_offset;
  }

  // Host memory for up to `n` elements at `offset` (n is lowered to what one page and the segment allow). Null: use the element path, or
  // `outcome` is a fault or exit.
  uint8_t* host(SegmentRegister segment, uint64_t offset, bool write, uint64_t& n, Outcome& outcome) {
    uint64_t linear;
    outcome = linear_address(vcpu, segment, offset, size, write ? AccessType::kWrite : AccessType::kRead, linear);
    if (outcome != Outcome::kNext) return nullptr;
    n = run(offset, linear, n);
    if (!n) return nullptr;
    uint64_t first = down ? offset - (n - 1) * size : offset, unused;
    if (n > 1 && !vcpu.in_64bit() &&
        linear_address(vcpu, segment, first, n * size, write ? AccessType::kWrite : AccessType::kRead, unused) != Outcome::kNext) {
      vcpu.fault.pending = false;
      n = 1;
    }
    uint64_t low = down ? linear - (n - 1) * size : linear;
    // Upwards what lies before translated code goes at once too: in step mode each element would be an instruction of its own.
    unsigned before_code = static_cast<unsigned>(n * size);
    uint8_t* p = host_address(vcpu, low, before_code, write, outcome, down ? nullptr : &before_code);
    if (p && before_code < size) {
      engine_of(vcpu).need_step = true;
      outcome = Outcome::kExit;
      return nullptr;
    }
    if (p && before_code < n * size) n = before_code / size;
    if (outcome == Outcome::kFault && vcpu.fault.vector == kPFv) vcpu.fault.payload = linear;  // the first element's
    return p ? p + (down ? (n - 1) * size : 0) : nullptr;
  }
};

#define DIRECTED(down, instruction, ...)                      \
  do {                                                        \
    if (down)                                                 \
      asm volatile("std; " instruction "; cld" __VA_ARGS__);  \
    else                                                      \
      asm volatile(instruction __VA_ARGS__);                  \
  } while (0)

void host_movs(uint8_t* to, const uint8_t* from, uint64_t n, unsigned size, bool down) {
  switch (size) {
    case 1: DIRECTED(down, "rep movsb", : "+D"(to), "+S"(from), "+c"(n) : : "memory"); break;
    case 2: DIRECTED(down, "rep movsw", : "+D"(to), "+S"(from), "+c"(n) : : "memory"); break;
    case 4: DIRECTED(down, "rep movsl", : "+D"(to), "+S"(from), "+c"(n) : : "memory"); break;
    default: DIRECTED(down, "rep movsq", : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  }
}
void host_stos(uint8_t* to, uint64_t value, uint64_t n, unsigned size, bool down) {
  switch (size) {
    case 1: DIRECTED(down, "rep stosb", : "+D"(to), "+c"(n) : "a"(value) : "memory"); break;
    case 2: DIRECTED(down, "rep stosw", : "+D"(to), "+c"(n) : "a"(value) : "memory"); break;
    case 4: DIRECTED(down, "rep stosl", : "+D"(to), "+c"(n) : "a"(value) : "memory"); break;
    default: DIRECTED(down, "rep stosq", : "+D"(to), "+c"(n) : "a"(value) : "memory");
  }
}

// SCAS and CMPS on host memory: the elements done and the flags of the last one; n > 0.
#define COMPARE_ASM(down, instruction, inputs)                                                                            \
  do {                                                                                                                    \
    if (down)                                                                                                             \
      asm volatile("std; " instruction "; pushfq; pop %[f]; cld" : "+D"(a), "+S"(b), "+c"(n), [f] "=r"(flags) : "a"(value) : "memory"); \
    else                                                                                                                  \
      asm volatile(instruction "; pushfq; pop %[f]" : "+D"(a), "+S"(b), "+c"(n), [f] "=r"(flags) : "a"(value) : "memory"); \
  } while (0)
uint64_t host_compare(bool cmps, const uint8_t* a, const uint8_t* b, uint64_t value, uint64_t n, unsigned size, bool down, bool while_equal,
                      uint64_t& flags) {
  uint64_t before = n;
#define BY_REP(letter)                                                       \
  if (cmps)                                                                  \
    if (while_equal) COMPARE_ASM(down, "repe cmps" letter, );                \
    else COMPARE_ASM(down, "repne cmps" letter, );                           \
  else if (while_equal) COMPARE_ASM(down, "repe scas" letter, );             \
  else COMPARE_ASM(down, "repne scas" letter, )
  switch (size) {
    case 1: BY_REP("b"); break;
    case 2: BY_REP("w"); break;
    case 4: BY_REP("l"); break;
    default: BY_REP("q");
  }
  return before - n;
}

// One element the careful way: works across pages and on devices (in step mode).
Outcome load(Strings& s, SegmentRegister segment, uint64_t offset, uint64_t& value) {
  uint64_t linear;
  value = 0;
  Outcome o = linear_address(s.vcpu, segment, offset, s.size, AccessType::kRead, linear);
  return o == Outcome::kNext ? read_linear(s.vcpu, linear, &value, s.size) : o;
}
Outcome store(Strings& s, uint64_t offset, uint64_t value, bool probe_only) {
  uint64_t linear;
  Outcome o = linear_address(s.vcpu, kES, offset, s.size, AccessType::kWrite, linear);
  if (o != Outcome::kNext) return o;
  return probe_only ? probe_write(s.vcpu, linear, s.size) : write_linear(s.vcpu, linear, &value, s.size);
}

uint64_t merged(uint64_t old, uint64_t value, unsigned size) {
  return size == 8 ? value : size == 4 ? value & 0xffffffffull : (old & ~((1ull << size * 8) - 1)) | (value & ((1ull << size * 8) - 1));
}

enum class Kind { kMovs, kStos, kLods, kScas, kCmps, kIns, kOuts };

Outcome one_element(Strings& s, Kind kind, uint64_t& flags) {
  VcpuState& v = s.vcpu;
  uint64_t a = 0, b = 0;
  uint32_t port_value = 0;
  Outcome o = Outcome::kNext;
  switch (kind) {
    case Kind::kMovs:
      if ((o = load(s, s.source(), s.get(kRsi), a)) != Outcome::kNext) return o;
      if ((o = store(s, s.get(kRdi), a, false)) != Outcome::kNext) return o;
      break;
    case Kind::kStos:
      if ((o = store(s, s.get(kRdi), v.gpr[kRax], false)) != Outcome::kNext) return o;
      break;
    case Kind::kLods:
      if ((o = load(s, s.source(), s.get(kRsi), a)) != Outcome::kNext) return o;
      v.gpr[kRax] = merged(v.gpr[kRax], a, s.size);
      break;
    case Kind::kScas:
      if ((o = load(s, kES, s.get(kRdi), b)) != Outcome::kNext) return o;
      host_compare(false, reinterpret_cast<uint8_t*>(&b), nullptr, v.gpr[kRax], 1, s.size, false, true, flags);
      break;
    case Kind::kCmps:
      if (s.di_first() && (o = load(s, kES, s.get(kRdi), b)) != Outcome::kNext) return o;
      if ((o = load(s, s.source(), s.get(kRsi), a)) != Outcome::kNext) return o;
      if (!s.di_first() && (o = load(s, kES, s.get(kRdi), b)) != Outcome::kNext) return o;
      host_compare(true, reinterpret_cast<uint8_t*>(&b), reinterpret_cast<uint8_t*>(&a), 0, 1, s.size, false, true, flags);
      break;
    case Kind::kIns:
      if ((o = store(s, s.get(kRdi), 0, true)) != Outcome::kNext) return o;
      if ((o = port_in_ahead(v, v.gpr[kRdx], s.size, s.wanted(), port_value)) != Outcome::kNext) return o;
      if ((o = store(s, s.get(kRdi), port_value, false)) != Outcome::kNext) return o;
      break;
    case Kind::kOuts:
      if ((o = load(s, s.source(), s.get(kRsi), a)) != Outcome::kNext) return o;
      port_value = static_cast<uint32_t>(a);
      if ((o = port_io(v, v.gpr[kRdx], s.size, true, port_value)) != Outcome::kNext) return o;
      break;
  }
  return Outcome::kNext;
}

}  // namespace

Outcome execute_string(VcpuState& vcpu, const Insn& insn) {
  Strings s(vcpu, insn);
  Kind kind;
  switch (insn.opcode & 0xfe) {
    case 0xa4: kind = Kind::kMovs; break;
    case 0xa6: kind = Kind::kCmps; break;
    case 0xaa: kind = Kind::kStos; break;
    case 0xac: kind = Kind::kLods; break;
    case 0xae: kind = Kind::kScas; break;
    case 0x6c: kind = Kind::kIns; break;
    default: kind = Kind::kOuts; break;
  }
  bool port = kind == Kind::kIns || kind == Kind::kOuts;
  if (port && s.size == 8) s.size = 4;
  Outcome o;
  if (port && !io_permitted(vcpu, vcpu.gpr[kRdx], s.size, o)) return o;
  bool uses_si = kind == Kind::kMovs || kind == Kind::kLods || kind == Kind::kCmps || kind == Kind::kOuts;
  bool uses_di = kind != Kind::kLods && kind != Kind::kOuts;
  bool compares = kind == Kind::kScas || kind == Kind::kCmps;
  const bool stepping = engine_of(vcpu).stepping, may_bulk = !stepping && !port && !(vcpu.vm->off & kSwitchBulkStrings);

  while (uint64_t n = s.count()) {
    uint64_t flags = 0, done = 0;
    if (may_bulk) {
      // The bulk path: RAM on both sides.
      uint8_t *from = nullptr, *to = nullptr;
      bool bulk = true;
      if (kind == Kind::kCmps && s.di_first()) {
        to = s.host(kES, s.get(kRdi), false, n, o);
        if (!to && n && o != Outcome::kNext) return o;
        bulk = to;
      }
      if (bulk && uses_si) {
        from = s.host(s.source(), s.get(kRsi), false, n, o);
        if (!from && n && o != Outcome::kNext) return o;
        bulk = from;
      }
      if (bulk && uses_di && !to) {
        to = s.host(kES, s.get(kRdi), kind == Kind::kMovs || kind == Kind::kStos, n, o);
        if (!to && n && o != Outcome::kNext) return o;
        bulk = to;
      }
      if (bulk) {
        done = n;
        switch (kind) {
          case Kind::kMovs: host_movs(to, from, n, s.size, s.down); break;
          case Kind::kStos: host_stos(to, vcpu.gpr[kRax], n, s.size, s.down); break;
          case Kind::kLods: {
            uint64_t value = 0;
            copy_bytes(&value, s.down ? from - (n - 1) * s.size : from + (n - 1) * s.size, s.size);
            vcpu.gpr[kRax] = merged(vcpu.gpr[kRax], value, s.size);
            break;
          }
          default:
            // CMPS compares [rSI] - [rDI]: the host's SI side is `from`.
            done = host_compare(kind == Kind::kCmps, to, from, vcpu.gpr[kRax], n, s.size, s.down, !insn.repne, flags);
        }
      }
    }
    if (!done) {
      o = one_element(s, kind, flags);
      if (o != Outcome::kNext) return o;
      done = 1;
    }
    if (uses_si) s.advance(kRsi, done);
    if (uses_di) s.advance(kRdi, done);
    s.spend(done);
    if (compares) {
      vcpu.set_status_flags(flags);
      if (!s.repeated || !!(flags & kZF) == insn.repne) return Outcome::kNext;
    }
    if (!s.repeated || !s.count()) break;
    // Interruptible between iterations; in step mode every iteration ends on its own.
    if (stepping || vcpu.attention) return Outcome::kJump;
  }
  if (kind == Kind::kIns) engine_of(vcpu).ahead_left = 0;
  return Outcome::kNext;
}

}  // namespace vireo::softkvm
