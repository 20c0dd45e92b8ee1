// SPDX-License-Identifier: Apache-2.0
#include "softkvm/cpu/system_fake.h"

#include "softkvm/cpu/decoder.h"
#include "softkvm/cpu/descriptor.h"

namespace vireo::softkvm {

namespace {

Machine* machine = nullptr;

Outcome check(VcpuState& v, uint64_t linear, unsigned size, bool write, bool system, bool stack) {
  if (v.long_mode_active() && !canonical(linear, v.linear_bits)) return v.raise(stack ? kSSv : kGP, 0);
  for (uint64_t page = linear >> 12; page <= (linear + size - 1) >> 12; page++)
    if (machine->absent.contains(page)) {
      uint32_t error = (write ? 2 : 0) | (v.cpl == 3 && !system ? 4 : 0);
      v.raise(kPFv, error);
      v.fault.payload = page == linear >> 12 ? linear : page << 12;
      return Outcome::kFault;
    }
  if (write && machine->exit_on_write) return Outcome::kExit;
  return Outcome::kNext;
}

uint8_t* at(uint64_t linear) { return &machine->ram[linear & (Machine::kRam - 1)]; }

}  // namespace

Outcome read_linear(VcpuState& v, uint64_t linear, void* out, unsigned size, bool system, bool stack) {
  STEP(check(v, linear, size, false, system, stack));
  std::memcpy(out, at(linear), size);
  return Outcome::kNext;
}
Outcome write_linear(VcpuState& v, uint64_t linear, const void* in, unsigned size, bool system, bool stack) {
  STEP(check(v, linear, size, true, system, stack));
  std::memcpy(at(linear), in, size);
  return Outcome::kNext;
}
Outcome probe_write(VcpuState& v, uint64_t linear, unsigned size, bool system, bool stack) {
  return check(v, linear, size, true, system, stack);
}
Outcome update_linear_byte(VcpuState& v, uint64_t linear, uint8_t set, uint8_t clear) {
  STEP(check(v, linear, 1, true, true, false));
  *at(linear) = static_cast<uint8_t>((*at(linear) & ~clear) | set);
  return Outcome::kNext;
}
bool read_physical(VcpuState&, uint64_t physical, void* out, unsigned size) {
  if (physical + size > Machine::kRam) return false;
  std::memcpy(out, at(physical), size);
  return true;
}
bool write_physical(VcpuState&, uint64_t physical, const void* in, unsigned size) {
  if (physical + size > Machine::kRam) return false;
  std::memcpy(at(physical), in, size);
  return true;
}
Outcome linear_address(VcpuState& v, SegmentRegister segment, uint64_t offset, unsigned size, AccessType, uint64_t& linear) {
  if (v.in_64bit()) {
    linear = segment >= kFS ? v.segment[segment].base + offset : offset;
    return canonical(linear, v.linear_bits) ? Outcome::kNext : v.raise(segment == kSS ? kSSv : kGP, 0);
  }
  const Segment& s = v.segment[segment];
  if ((v.protected_mode() && s.unusable) || !within_limit(s, offset, size)) return v.raise(segment == kSS ? kSSv : kGP, 0);
  linear = static_cast<uint32_t>(s.base + offset);
  return Outcome::kNext;
}
uint64_t effective_offset(const VcpuState& v, const Insn& i) {
  uint64_t a = static_cast<uint64_t>(i.displacement) + (i.rip_relative ? v.rip + i.length : 0);
  if (i.base != kNoRegister) a += v.gpr[i.base];
  if (i.index != kNoRegister) a += v.gpr[i.index] * i.scale;
  return i.address_size == 8 ? a : a & ((1ull << i.address_size * 8) - 1);
}
Outcome memory_operand(VcpuState& v, const Insn& i, unsigned size, AccessType type, uint64_t& linear) {
  return linear_address(v, static_cast<SegmentRegister>(i.segment), effective_offset(v, i), size, type, linear);
}
void update_mode(VcpuState& v) {
  v.mode = static_cast<uint32_t>(v.code_mode()) | v.cpl << 2 | (v.segment[kSS].db() ? 16 : 0) | (v.cr0 & kCr0Ts ? 32 : 0);
  v.seg_base_fs_copy = v.segment[kFS].base;
  v.seg_base_gs_copy = v.segment[kGS].base;
}
void flush_tlb(VcpuState&, bool keep_global, bool) {
  machine->flushes++;
  machine->last_keep_global = keep_global;
}
void switch_address_space(VcpuState&, bool flush) {
  machine->address_spaces++;
  machine->pcid_flushes += flush;
}
void change_keys(VcpuState& vcpu, bool user, uint32_t value) {
  (user ? vcpu.pkru : vcpu.pkrs) = value;
  flush_tlb(vcpu, false);
}
void flush_tlb_page(VcpuState&, uint64_t) { machine->page_flushes++; }
void flush_faulted_page(VcpuState&, uint64_t) {}
void flush_tlb_pcid(VcpuState&, unsigned, bool) { machine->pcid_flushes++; }
Outcome port_io(VcpuState&, uint16_t port, unsigned size, bool write, uint32_t& value) {
  machine->ports.push_back(std::string(write ? "out" : "in") + std::to_string(size) + " " + std::to_string(port) +
                           (write ? " " + std::to_string(value) : ""));
  if (!write) value = static_cast<uint32_t>(machine->port_value);
  return Outcome::kNext;
}
uint64_t guest_tsc(const VcpuState& v) { return machine->tsc + v.msr.tsc_offset; }
void synchronize_tsc(VcpuState& v, uint64_t value) { v.msr.tsc_offset = value - machine->tsc; }
bool msr_filter_allows(VcpuState&, uint32_t index, bool) { return !machine->filtered_msrs.contains(index); }
Outcome hypercall(VcpuState&, uint64_t number, const uint64_t (&arguments)[4], uint64_t& result) {
  result = number + arguments[0];
  return Outcome::kNext;
}
uint64_t read_cr8(VcpuState&) { return machine->cr8; }
void write_cr8(VcpuState&, uint64_t value) { machine->cr8 = value; }
bool read_apic_msr(VcpuState&, uint32_t index, uint64_t& value) {
  value = index == 0x1b ? machine->apic_base : 0;
  return true;
}
bool write_apic_msr(VcpuState&, uint32_t, uint64_t) { return true; }
void tsc_moved(VcpuState&) {}
void write_paravirtual_msr(VcpuState&, uint32_t, uint64_t) {}

Machine::Machine() {
  machine = this;
  v.run = &run;
  v.cpuid = &cpuid;
  v.physical_bits = 40;
  cpuid.amd = false;
  for (uint32_t& w : cpuid.words) w = ~0u;
  set_feature(kCpuidLa57, false);
  set_feature(kCpuidVmx, false);
  set_feature(kCpuidSvm, false);
  cpuid.xcr0_supported = 0xe7;
}
Machine::~Machine() { machine = nullptr; }

void Machine::set_feature(unsigned bit, bool on) {
  cpuid.words[bit / 32] = on ? cpuid.words[bit / 32] | 1u << bit % 32 : cpuid.words[bit / 32] & ~(1u << bit % 32);
}

Outcome Machine::execute(std::vector<uint8_t> bytes) {
  Insn insn;
  if (decode(bytes.data(), bytes.size(), v.code_mode(), insn) != DecodeStatus::kOk) return v.raise(kUD);
  if (insn.length != bytes.size()) throw "test gives too many bytes";
  Outcome outcome = execute_system(v, insn);
  if (outcome == Outcome::kNext) v.rip += insn.length;
  return outcome;
}

uint64_t Machine::descriptor(uint32_t base, uint32_t limit, uint16_t access) {
  return (limit & 0xffff) | static_cast<uint64_t>(base & 0xffffff) << 16 | static_cast<uint64_t>(access & 0xff) << 40 |
         static_cast<uint64_t>(limit >> 16 & 15) << 48 | static_cast<uint64_t>(access >> 12 & 15) << 52 |
         static_cast<uint64_t>(base >> 24) << 56;
}
uint64_t Machine::gate(uint16_t selector, uint32_t offset, unsigned type, unsigned dpl, unsigned low5, bool present) {
  return (offset & 0xffff) | static_cast<uint64_t>(selector) << 16 | static_cast<uint64_t>(low5) << 32 |
         static_cast<uint64_t>(type | dpl << 5 | (present ? 0x80 : 0)) << 40 | static_cast<uint64_t>(offset >> 16) << 48;
}
void Machine::set_gate64(unsigned vector, uint16_t selector, uint64_t offset, unsigned type, unsigned dpl, unsigned ist) {
  poke(kIdt + vector * 16, gate(selector, static_cast<uint32_t>(offset), type, dpl, ist));
  poke(kIdt + vector * 16 + 8, offset >> 32);
}

namespace {
void load(Machine& m, SegmentRegister which, uint16_t selector) {
  Descriptor d;
  d.low = m.peek<uint64_t>(Machine::kGdt + (selector & 0xfff8));
  d.selector = selector;
  m.v.segment[which] = d.segment();
}
}  // namespace

void Machine::long_mode(unsigned cpl) {
  set_gdt(1, descriptor(0, 0xfffff, 0xa09b));
  set_gdt(2, descriptor(0, 0xfffff, 0xc093));
  set_gdt(3, descriptor(0, 0xfffff, 0xc0fb));
  set_gdt(4, descriptor(0, 0xfffff, 0xc0f3));
  set_gdt(5, descriptor(0, 0xfffff, 0xa0fb));
  set_gdt(6, descriptor(kTss, 0x67, 0x89));
  set_gdt(7, 0);
  poke<uint64_t>(kTss + 4, 0x8000);
  poke<uint64_t>(kTss + 36, 0x7000);
  v.gdtr = {kGdt, 0x7f};
  v.idtr = {kIdt, 0xfff};
  v.cr0 = kCr0Pe | kCr0Pg | kCr0Et | kCr0Ne | kCr0Wp;
  v.cr4 = kCr4Pae;
  v.efer = kEferLme | kEferLma | kEferSce;
  load(*this, kCS, cpl ? kUserCs : kKernelCs);
  load(*this, kSS, cpl ? kUserSs : kKernelSs);
  for (SegmentRegister r : {kES, kDS, kFS, kGS}) load(*this, r, kUserSs);
  v.cpl = static_cast<uint8_t>(cpl);
  v.tr = {kTss, 0x67, kTr64, 0x8b, false};
  v.ldtr.unusable = true;
  v.rip = kCode;
  v.gpr[kRsp] = kStack;
  v.set_rflags(kIF | 2);
  update_mode(v);
}

void Machine::protected_mode(unsigned cpl) {
  set_gdt(1, descriptor(0, 0xfffff, 0xc09b));
  set_gdt(2, descriptor(0, 0xfffff, 0xc093));
  set_gdt(3, descriptor(0, 0xfffff, 0xc0fb));
  set_gdt(4, descriptor(0, 0xfffff, 0xc0f3));
  set_gdt(5, descriptor(kTss, 0x67, 0x8b));
  set_gdt(6, descriptor(0, 0xffff, 0x009b));
  set_gdt(7, descriptor(0, 0xffff, 0x0093));
  poke<uint32_t>(kTss + 4, 0x8000);
  poke<uint32_t>(kTss + 8, 0x10);
  v.gdtr = {kGdt, 0x7f};
  v.idtr = {kIdt, 0x7ff};
  v.cr0 = kCr0Pe | kCr0Et | kCr0Ne;
  load(*this, kCS, cpl ? kUserCs32 : kKernelCs);
  load(*this, kSS, cpl ? kUserSs : kKernelSs);
  for (SegmentRegister r : {kES, kDS, kFS, kGS}) load(*this, r, kUserSs);
  v.cpl = static_cast<uint8_t>(cpl);
  v.tr = {kTss, 0x67, kTr32, 0x8b, false};
  v.ldtr.unusable = true;
  v.rip = kCode;
  v.gpr[kRsp] = kStack;
  v.set_rflags(kIF | 2);
  update_mode(v);
}

void Machine::real_mode() {
  reset_cpu(v);
  v.idtr = {0, 0x3ff};
  v.segment[kCS] = {0x10000, 0xffff, 0x1000, 0x9b, false};
  v.segment[kSS] = {0x8000, 0xffff, 0x800, 0x93, false};
  v.rip = 0x100;
  v.gpr[kRsp] = 0x1000;
  v.set_rflags(kIF | 2);
  update_mode(v);
}

void Machine::vm86_mode(unsigned iopl) {
  protected_mode(0);
  v.set_rflags(kIF | kVM | iopl << 12 | 2);
  v.cpl = 3;
  for (unsigned r = 0; r < 6; r++) v.segment[r] = {0x10000, 0xffff, 0x1000, 0xf3, false};
  v.rip = 0x100;
  v.gpr[kRsp] = 0x1000;
  update_mode(v);
}

}  // namespace vireo::softkvm
