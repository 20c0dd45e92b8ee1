// SPDX-License-Identifier: Apache-2.0
// Writes host instructions: the few fixed sequences that surround guest instructions. Register numbers are the hardware's.
// Spec: Intel SDM vol 2, chapter 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "softkvm/translate/layout.h"

namespace vireo::softkvm {

// Host registers with a part of their own (docs/engine.md): the guest's RSP, and two scratch registers.
constexpr unsigned kHostRsp = 9, kScratch0 = 11, kScratch1 = 10;

class Emitter {
 public:
  Emitter(uint8_t* begin, uint32_t offset) : begin_(begin), at_(begin), offset_(offset) {}

  uint32_t here() const { return offset_ + static_cast<uint32_t>(at_ - begin_); }  // cache offset
  size_t size() const { return at_ - begin_; }
  uint8_t* pointer(uint32_t cache_offset) { return begin_ + (cache_offset - offset_); }

  void u8(unsigned v) { *at_++ = static_cast<uint8_t>(v); }
  void u32(uint32_t v) {
    __builtin_memcpy(at_, &v, 4);
    at_ += 4;
  }
  void u64(uint64_t v) {
    __builtin_memcpy(at_, &v, 8);
    at_ += 8;
  }
  void put(const void* bytes, size_t n) {
    const auto* from = static_cast<const uint8_t*>(bytes);
    uint8_t* p = at_;
    for (; n >= 8; n -= 8, p += 8, from += 8) __builtin_memcpy(p, from, 8);
    for (; n; n--) *p++ = *from++;
    at_ = p;
  }
  // At most 16 bytes, of which as many are read, and room for as many has to be.
  void put_short(const uint8_t* bytes, unsigned n) {
    __builtin_memcpy(at_, bytes, 8);
    __builtin_memcpy(at_ + 8, bytes + 8, 8);
    at_ += n;
  }
  // For who writes by a pointer of his own.
  uint8_t* at() const { return at_; }
  void go_to(uint8_t* at) { at_ = at; }
  // By way of a local pointer: bytes may alias `at_`, which would be read and written for each of them.
  [[gnu::always_inline]] void bytes(std::initializer_list<uint8_t> list) {
    uint8_t* p = at_;
#pragma GCC unroll 16
    for (uint8_t b : list) *p++ = b;
    at_ = p;
  }

  // op r64, gs:[at] and the like. `wide`: REX.W.
  void gs(unsigned opcode, unsigned reg, uint32_t at, bool wide = true) {
    const uint64_t head = (opcode & 0xff) | (0x04u | (reg & 7) << 3) << 8 | 0x25u << 16;
    const unsigned r = rex_byte(wide, reg, 0, 0);
    finish(r != 0x40 ? 0x65u | r << 8 | head << 16 : 0x65u | head << 8, r != 0x40 ? 5 : 4, at);
  }
  // op r64, gs:[index*8 + at]
  void gs_indexed(unsigned opcode, unsigned reg, unsigned index, uint32_t at) {
    const uint64_t head = (opcode & 0xff) | (0x04u | (reg & 7) << 3) << 8 | (0xc5u | (index & 7) << 3) << 16;
    finish(0x65u | rex_byte(true, reg, index, 0) << 8 | head << 16, 5, at);
  }
  void load(unsigned reg, uint32_t at) { gs(0x8b, reg, at); }
  void store(uint32_t at, unsigned reg) { gs(0x89, reg, at); }
  void load_gpr(unsigned reg, unsigned guest) { load(reg, VCPU_GPR + guest * 8); }
  void store_gpr(unsigned guest, unsigned reg) { store(VCPU_GPR + guest * 8, reg); }
  void move(unsigned to, unsigned from) {
    bytes({static_cast<uint8_t>(rex_byte(true, from, 0, to)), 0x89, static_cast<uint8_t>(0xc0 | (from & 7) << 3 | (to & 7))});
  }
  void move_imm64(unsigned to, uint64_t value) {
    rex(true, 0, 0, to);
    u8(0xb8 | (to & 7));
    u64(value);
  }
  void move_imm(unsigned to, uint64_t value) {
    if (value <= 0xffffffffull) {
      rex(false, 0, 0, to);
      u8(0xb8 | (to & 7));
      u32(static_cast<uint32_t>(value));
    } else if (static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(value))) == value) {
      rex(true, 0, 0, to);
      bytes({0xc7, static_cast<uint8_t>(0xc0 | (to & 7))});
      u32(static_cast<uint32_t>(value));
    } else {
      move_imm64(to, value);
    }
  }
  // lea to, [base + index*scale + disp]; index 0xff none. `wide`: 64-bit result, else truncated to 32.
  void lea(unsigned to, unsigned base, unsigned index, unsigned scale, int32_t disp, bool wide = true) {
    memory_form(0x8d, to, base, index, scale, disp, wide);
  }
  static constexpr uint8_t kMod[5] = {0, 1, 0, 0, 2};  // modrm.mod by the displacement's size
  // How many bytes a displacement beside `base` takes.
  static unsigned displacement_size(unsigned base, int32_t disp) {
    return disp == 0 && (base & 7) != 5 ? 0 : disp == static_cast<int8_t>(disp) ? 1 : 4;
  }
  // An instruction with a modrm memory operand [base + index*scale + disp]; base 0xff: none.
  void memory_form(unsigned opcode, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp, bool wide) {
    if (index == 0xff && base != 0xff) [[likely]] return base_form(opcode, reg, base, disp, wide);
    const bool has_index = index != 0xff, has_base = base != 0xff;
    const unsigned prefix = rex_byte(wide, reg, has_index ? index : 0, has_base ? base : 0);
    const unsigned shift = static_cast<unsigned>(__builtin_ctz(scale));
    uint8_t* p = at_;
    p[0] = static_cast<uint8_t>(prefix);
    p += prefix != 0x40;
    const unsigned size = !has_base ? 4 : displacement_size(base, disp), mod = has_base ? kMod[size] : 0;
    p[0] = static_cast<uint8_t>(opcode);
    p[1] = static_cast<uint8_t>(mod << 6 | (reg & 7) << 3 | 4);
    p[2] = static_cast<uint8_t>(shift << 6 | (has_index ? index & 7 : 4) << 3 | (has_base ? base & 7 : 5));
    __builtin_memcpy(p + 3, &disp, 4);
    at_ = p + 3 + size;
  }
  // ... [base + disp]
  [[gnu::always_inline]] void base_form(unsigned opcode, unsigned reg, unsigned base, int32_t disp, bool wide) {
    const unsigned prefix = rex_byte(wide, reg, 0, base), size = displacement_size(base, disp);
    uint8_t* p = at_;
    p[0] = static_cast<uint8_t>(prefix);
    p += prefix != 0x40;
    p[0] = static_cast<uint8_t>(opcode);
    p[1] = static_cast<uint8_t>(kMod[size] << 6 | (reg & 7) << 3 | (base & 7));
    p[2] = 0x24;  // SIB, without an index, where the base needs one
    p += 2 + ((base & 7) == 4);
    __builtin_memcpy(p, &disp, 4);  // of which no, one or four bytes count
    at_ = p + size;
  }
  void call_stub(unsigned stub) {
    bytes({0x65, 0xff, 0x14, 0x25});
    u32(ENGINE_STUBS + stub * 8);
  }
  void jump_stub(unsigned stub) {
    bytes({0x65, 0xff, 0x24, 0x25});
    u32(ENGINE_STUBS + stub * 8);
  }
  // jcc/jmp rel32 with the place of the rel32 given back, to be resolved.
  uint32_t jcc(unsigned condition) {
    bytes({0x0f, static_cast<uint8_t>(0x80 | condition)});
    u32(0);
    return here() - 4;
  }
  uint32_t jmp() {
    u8(0xe9);
    u32(0);
    return here() - 4;
  }
  // The same with the rel32 on a 4-byte boundary: it will be patched while others run through it.
  uint32_t patchable_jcc(unsigned condition) {
    pad(2);
    return jcc(condition);
  }
  uint32_t patchable_jmp() {
    pad(1);
    return jmp();
  }
  void resolve(uint32_t rel_at, uint32_t destination) {
    uint32_t rel = destination - (rel_at + 4);
    __builtin_memcpy(pointer(rel_at), &rel, 4);
  }
  void jmp_to(uint32_t destination) { resolve(jmp(), destination); }

  // Status flags to the slot and back; r10 is clobbered.
  void save_flags() {
    move(kScratch1, 0);
    bytes({0x9f, 0x0f, 0x90, 0xc0});              // lahf; seto al
    bytes({0x66, 0x65, 0x89, 0x04, 0x25});        // mov gs:[flags], ax
    u32(VCPU_FLAGS);
    move(0, kScratch1);
  }
  // ... with a borrow slot instead of r10.
  void restore_flags_by(uint32_t slot) {
    store(slot, 0);
    bytes({0x65, 0x0f, 0xb7, 0x04, 0x25});
    u32(VCPU_FLAGS);
    bytes({0x04, 0x7f, 0x9e});
    load(0, slot);
  }
  void restore_flags() {
    move(kScratch1, 0);
    bytes({0x65, 0x0f, 0xb7, 0x04, 0x25});        // movzx eax, word gs:[flags]
    u32(VCPU_FLAGS);
    bytes({0x04, 0x7f, 0x9e});                    // add al, 0x7f (OF from al); sahf
    move(0, kScratch1);
  }

 private:
  static unsigned rex_byte(bool wide, unsigned reg, unsigned index, unsigned base) {
    return 0x40 | (wide ? 8 : 0) | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
  }
  void rex(bool wide, unsigned reg, unsigned index, unsigned base) {
    const unsigned r = rex_byte(wide, reg, index, base);
    if (r != 0x40) u8(r);
  }
  // `n` bytes of an instruction (at most 8; what is written behind them is written over), and 32 more bits.
  void finish(uint64_t head, unsigned n, uint32_t last) {
    uint8_t* p = at_;
    __builtin_memcpy(p, &head, 8);
    __builtin_memcpy(p + n, &last, 4);
    at_ = p + n + 4;
  }
  void pad(unsigned opcode_bytes) {
    static constexpr uint8_t kNops[4][3] = {{}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
    unsigned n = (4 - (here() + opcode_bytes) % 4) % 4;
    for (unsigned i = 0; i < n; i++) u8(kNops[n][i]);
  }

  uint8_t *begin_, *at_;
  uint32_t offset_;
};

}  // namespace vireo::softkvm
