// SPDX-License-Identifier: Apache-2.0
// The vector registers go to memory by XSAVE, each wanted element is moved by the checked accesses, from the least significant on, and
// XRSTOR brings the registers back. A fault leaves what is done and the mask of what is not, as the manual has it.
// Spec: Intel SDM vol 2, VGATHERDPS to VPGATHERQQ and VSCATTERDPS to VPSCATTERQQ; vol 1, 13.4 and 13.5.
#include "softkvm/translate/gather.h"

#include "softkvm/mmu/access.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm {
namespace {

constexpr unsigned kYmmHigh = 2, kOpmask = 5, kZmmHigh = 6, kHighZmm = 7;
constexpr uint32_t kVectors = 0xe6;

// Where the components lie in the standard format: the host's CPUID leaf 0xD, asked once. Every thread finds the same.
uint32_t g_offset[8];

uint32_t offset_of_component(unsigned component) {
  uint32_t offset = __atomic_load_n(&g_offset[component], __ATOMIC_RELAXED);
  if (offset) return offset;
  uint32_t a = 0xd, b, c = component, d;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  __atomic_store_n(&g_offset[component], b, __ATOMIC_RELAXED);
  return b;
}

struct Registers {
  uint8_t* area;
  uint32_t mask;  // components the host has

  explicit Registers(Engine& engine) : area(engine.xsave) {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    mask = low & kVectors;
    asm volatile("xsave64 (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory");
  }
  void load() {
    *reinterpret_cast<uint64_t*>(area + 512) |= mask;
    asm volatile("xrstor64 (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory");
  }
  bool wide() const { return mask >> kZmmHigh & 1; }
  unsigned bytes() const { return wide() ? 64 : 32; }
  uint8_t* vector(unsigned reg, unsigned byte) {
    if (reg >= 16) return area + offset_of_component(kHighZmm) + 64 * (reg - 16) + byte;
    if (byte < 16) return area + 160 + 16 * reg + byte;
    if (byte < 32) return area + offset_of_component(kYmmHigh) + 16 * reg + byte - 16;
    return area + offset_of_component(kZmmHigh) + 32 * reg + byte - 32;
  }
  uint64_t& opmask(unsigned k) { return *reinterpret_cast<uint64_t*>(area + offset_of_component(kOpmask) + 8 * k); }
  // Elements never lie across two components.
  uint64_t get(unsigned reg, unsigned i, unsigned size) {
    const uint8_t* at = vector(reg, i * size);
    return size == 8 ? *reinterpret_cast<const uint64_t*>(at) : *reinterpret_cast<const uint32_t*>(at);
  }
  void set(unsigned reg, unsigned i, unsigned size, uint64_t value) {
    uint8_t* at = vector(reg, i * size);
    if (size == 8) *reinterpret_cast<uint64_t*>(at) = value;
    else *reinterpret_cast<uint32_t*>(at) = static_cast<uint32_t>(value);
  }
  void clear_from(unsigned reg, unsigned byte) {
    for (; byte < bytes(); byte += 4) *reinterpret_cast<uint32_t*>(vector(reg, byte)) = 0;
  }
};

}  // namespace

Outcome execute_gather_scatter(VcpuState& vcpu, const Insn& insn) {
  const bool scatter = insn.opcode >= 0xa0, vex = insn.encoding == Encoding::kVex;
  const unsigned size = insn.w ? 8 : 4, index_size = insn.opcode & 1 ? 8 : 4;
  const unsigned count = insn.vector_length / (size > index_size ? size : index_size);
  const auto segment = static_cast<SegmentRegister>(insn.segment);
  Registers registers(engine_of(vcpu));

  uint64_t wanted = 0;
  if (vex) {
    for (unsigned i = 0; i < count; i++) wanted |= (registers.get(insn.vvvv, i, size) >> (size * 8 - 1)) << i;
  } else {
    wanted = registers.opmask(insn.opmask) & ((1ull << count) - 1);
  }

  Outcome outcome = Outcome::kNext;
  bool moved = false;
  unsigned at = 0;  // the element that ends it
  for (unsigned i = 0; i < count; i++) {
    if (!(wanted >> i & 1)) continue;
    at = i;
    uint64_t index = registers.get(insn.index, i, index_size);
    if (index_size == 4) index = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(index)));
    uint64_t offset = index * insn.scale + static_cast<uint64_t>(insn.displacement), linear, value = 0;
    if (insn.base != kNoRegister) offset += vcpu.gpr[insn.base];
    if (insn.address_size == 4) offset &= 0xffffffffull;
    outcome = linear_address(vcpu, segment, offset, size, scatter ? AccessType::kWrite : AccessType::kRead, linear, false);  // CPUs give no #AC
    if (outcome == Outcome::kNext) {
      if (scatter) {
        value = registers.get(insn.reg, i, size);
        outcome = write_linear(vcpu, linear, &value, size, false, segment == kSS);
      } else {
        outcome = read_linear(vcpu, linear, &value, size, false, segment == kSS);
      }
    }
    if (outcome == Outcome::kExit) {
      // A device or code. A scatter goes on in step mode from here: what it has stored is not stored twice. A gather starts again, for it has to
      // find the answers of devices in their order.
      if (!scatter || !moved) return outcome;
      break;
    }
    if (outcome != Outcome::kNext) break;
    if (!scatter) registers.set(insn.reg, i, size, value);
    wanted &= ~(1ull << i);
    moved = true;
  }

  const bool done = outcome == Outcome::kNext;
  const bool amd_fault = vex && !done && vcpu.vendor_is_amd;
  if (amd_fault) {
    // AMD's CPUs have done with the elements before, and touched nothing else.
    for (unsigned i = 0; i < at; i++) registers.set(insn.vvvv, i, size, 0);
  } else if (vex) {
    for (unsigned i = 0; i < count; i++) registers.set(insn.vvvv, i, size, wanted >> i & 1 ? ~0ull : 0);
    // The manual clears the rest with the last element; before that, CPUs have expanded the signs of the whole register already.
    unsigned end = count * size;
    for (; !done && end < insn.vector_length; end += size)
      registers.set(insn.vvvv, end / size, size, registers.get(insn.vvvv, end / size, size) >> (size * 8 - 1) ? ~0ull : 0);
    registers.clear_from(insn.vvvv, end);
  } else {
    uint64_t& mask = registers.opmask(insn.opmask);
    mask = done ? 0 : (mask >> count << count) | wanted;  // the bits above the elements go with the last one
  }
  // The bits above the vector go with the first element that comes, not with the last.
  if ((done || (moved && !amd_fault)) && !scatter) registers.clear_from(insn.reg, done ? count * size : insn.vector_length);
  registers.load();
  if (scatter && outcome == Outcome::kFault) engine_of(vcpu).writes_stand = true;
  return outcome;
}

}  // namespace vireo::softkvm
