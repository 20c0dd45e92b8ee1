// SPDX-License-Identifier: Apache-2.0
// Hardware task switching through 16- and 32-bit TSSs. The switch has two halves: up to the commit a fault leaves the old task as it was;
// the segment registers are loaded after it, so their faults belong to the new task.
// Spec: Intel SDM vol 3, 8.2.1 and 8.6 (the TSSs), 8.3 (the steps), table 8-1 (faults), table 8-2 (busy, NT, link).
#include "softkvm/cpu/task_switch.h"

#include <cstddef>
#include <initializer_list>

#include "softkvm/cpu/operands.h"
#include "softkvm/cpu/stack.h"
#include "softkvm/cpu/system_instructions.h"

namespace vireo::softkvm {

namespace {

struct Tss32 {
  uint32_t link, stacks[6], cr3, eip, eflags, gpr[8], segment[6], ldt;  // gpr in encoding order; segments ES CS SS DS FS GS
  uint16_t trap, io_map;
};
static_assert(sizeof(Tss32) == 104);

struct Tss16 {
  uint16_t link, stacks[6], ip, flags, gpr[8], segment[4], ldt;
};
static_assert(sizeof(Tss16) == 44);

constexpr unsigned kTss32Saved = 0x20, kTss16Saved = 0x0e;  // where the part that a switch saves begins
constexpr uint64_t kDr7Local = 0x155, kDr6Bt = 1 << 15;

// The new task as either kind of TSS describes it.
struct Task {
  uint32_t cr3 = 0, rip = 0, flags = 0, gpr[8] = {};
  uint16_t segment[6] = {}, ldt = 0;
  bool trap = false;
};

// What the second half changes: put back if it has to be run again from the start.
struct Saved {
  uint64_t gpr[8], rip, cr0, cr3, dr7, pdpte[4];
  Segment segment[6], ldtr, tr;
  uint32_t system_flags;
  uint8_t flag_of, flag_ah, cpl;
};

void save(const VcpuState& v, Saved& s) {
  for (unsigned i = 0; i < 8; i++) s.gpr[i] = v.gpr[i];
  for (unsigned i = 0; i < 6; i++) s.segment[i] = v.segment[i];
  for (unsigned i = 0; i < 4; i++) s.pdpte[i] = v.pdpte[i];
  s.rip = v.rip, s.cr0 = v.cr0, s.cr3 = v.cr3, s.dr7 = v.dr7, s.ldtr = v.ldtr, s.tr = v.tr;
  s.system_flags = v.system_flags, s.flag_of = v.flag_of, s.flag_ah = v.flag_ah, s.cpl = v.cpl;
}

void restore(VcpuState& v, const Saved& s) {
  for (unsigned i = 0; i < 8; i++) v.gpr[i] = s.gpr[i];
  for (unsigned i = 0; i < 6; i++) v.segment[i] = s.segment[i];
  for (unsigned i = 0; i < 4; i++) v.pdpte[i] = s.pdpte[i];
  v.rip = s.rip, v.cr0 = s.cr0, v.dr7 = s.dr7, v.ldtr = s.ldtr, v.tr = s.tr;
  v.system_flags = s.system_flags, v.flag_of = s.flag_of, v.flag_ah = s.flag_ah, v.cpl = s.cpl;
  if (v.cr3 != s.cr3) {
    v.cr3 = s.cr3;
    flush_tlb(v, true);
  }
  update_mode(v);
}

Outcome read_task(VcpuState& v, const Descriptor& d, Task& task) {
  if (d.type() & 8) {
    Tss32 tss;
    STEP(read_linear(v, d.base(), &tss, sizeof tss, true));
    task.cr3 = tss.cr3;
    task.rip = tss.eip;
    task.flags = tss.eflags;
    for (unsigned i = 0; i < 8; i++) task.gpr[i] = tss.gpr[i];
    for (unsigned i = 0; i < 6; i++) task.segment[i] = static_cast<uint16_t>(tss.segment[i]);
    task.ldt = static_cast<uint16_t>(tss.ldt);
    task.trap = tss.trap & 1;
    return Outcome::kNext;
  }
  Tss16 tss;
  STEP(read_linear(v, d.base(), &tss, sizeof tss, true));
  task.rip = tss.ip;
  task.flags = tss.flags;
  for (unsigned i = 0; i < 8; i++) task.gpr[i] = 0xffff0000u | tss.gpr[i];
  for (unsigned i = 0; i < 4; i++) task.segment[i] = tss.segment[i];
  task.ldt = tss.ldt;
  return Outcome::kNext;
}

Outcome write_old_task(VcpuState& v, uint64_t return_rip, uint64_t flags) {
  if (v.tr.type() & 8) {
    Tss32 tss;
    tss.eip = static_cast<uint32_t>(return_rip);
    tss.eflags = static_cast<uint32_t>(flags);
    for (unsigned i = 0; i < 8; i++) tss.gpr[i] = static_cast<uint32_t>(v.gpr[i]);
    for (unsigned i = 0; i < 6; i++) tss.segment[i] = v.segment[i].selector;
    return write_linear(v, v.tr.base + kTss32Saved, &tss.eip, offsetof(Tss32, ldt) - kTss32Saved, true);
  }
  Tss16 tss;
  tss.ip = static_cast<uint16_t>(return_rip);
  tss.flags = static_cast<uint16_t>(flags);
  for (unsigned i = 0; i < 8; i++) tss.gpr[i] = static_cast<uint16_t>(v.gpr[i]);
  for (unsigned i = 0; i < 4; i++) tss.segment[i] = v.segment[i].selector;
  return write_linear(v, v.tr.base + kTss16Saved, &tss.ip, offsetof(Tss16, ldt) - kTss16Saved, true);
}

Outcome load_ldt(VcpuState& v, uint16_t selector) {
  v.ldtr = Segment{};
  v.ldtr.selector = selector;
  v.ldtr.unusable = true;
  if (null_selector(selector)) return Outcome::kNext;
  uint32_t error = selector_error(selector);
  if (selector & 4) return v.raise(kTS, error);
  Descriptor d;
  STEP(read_descriptor(v, selector, kTS, d));
  if (d.system_type() != kLdtType || !d.present()) return v.raise(kTS, error);
  v.ldtr = d.segment();
  return Outcome::kNext;
}

Outcome load_task_code(VcpuState& v, uint16_t selector) {
  uint32_t error = selector_error(selector);
  if (null_selector(selector)) return v.raise(kTS, 0);
  Descriptor d;
  STEP(read_descriptor(v, selector, kTS, d));
  unsigned rpl = selector & 3;
  if (!d.code() || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) return v.raise(kTS, error);
  if (!d.present()) return v.raise(kNP, error);
  STEP(mark_accessed(v, d));
  set_cs(v, d, rpl);
  return Outcome::kNext;
}

Outcome load_task_data(VcpuState& v, SegmentRegister which, uint16_t selector) {
  if (null_selector(selector)) return Outcome::kNext;
  uint32_t error = selector_error(selector);
  Descriptor d;
  if (which == kSS) {
    STEP(check_stack_segment(v, selector, v.cpl, kTS, d));
  } else {
    STEP(read_descriptor(v, selector, kTS, d));
    if (!d.data() && !d.readable_code()) return v.raise(kTS, error);
    if (!d.conforming() && ((selector & 3u) > d.dpl() || v.cpl > d.dpl())) return v.raise(kTS, error);
    if (!d.present()) return v.raise(kNP, error);
  }
  STEP(mark_accessed(v, d));
  v.segment[which] = d.segment();
  return Outcome::kNext;
}

// The second half: the segment registers, the error code.
Outcome load_segments(VcpuState& v, const Task& task, bool wide, bool has_error, uint32_t error) {
  STEP(load_ldt(v, task.ldt));
  if (v.vm86()) {
    for (unsigned i = 0; i < 6; i++) load_vm86_segment(v, static_cast<SegmentRegister>(i), task.segment[i]);
  } else {
    STEP(load_task_code(v, task.segment[kCS]));
    if (null_selector(task.segment[kSS])) return v.raise(kTS, 0);
    for (SegmentRegister r : {kSS, kES, kDS, kFS, kGS}) STEP(load_task_data(v, r, task.segment[r]));
  }
  if (v.rip > v.segment[kCS].limit) return v.raise(kGP, 0);
  if (has_error) {
    Stack stack(v, v.cpl < 3);
    STEP(stack.push(error, wide ? 4 : 2));
    stack.commit();
  }
  return Outcome::kNext;
}

}  // namespace

Outcome task_switch(VcpuState& v, uint16_t selector, TaskSwitchCause cause, uint64_t return_rip, bool has_error, uint32_t error) {
  bool back = cause == TaskSwitchCause::kIret, nest = cause == TaskSwitchCause::kCall || cause == TaskSwitchCause::kGate;
  uint8_t vector = back ? kTS : kGP;
  uint32_t selector_code = selector_error(selector);
  if (null_selector(selector) || (selector & 4)) return v.raise(vector, selector_code);
  Descriptor d;
  STEP(read_descriptor(v, selector, vector, d));
  unsigned type = d.system_type();
  bool wide = type & 8;
  bool right = back ? type == kTss32Busy || type == kTss16Busy : type == kTss32Available || type == kTss16Available;
  if (!right) return v.raise(vector, selector_code);
  if (!d.present()) return v.raise(kNP, selector_code);
  if (d.limit() < (wide ? 103u : 43u)) return v.raise(kTS, selector_code);
  bool old_wide = v.tr.type() & 8;
  if (v.tr.unusable || v.tr.limit < (old_wide ? 103u : 43u)) return v.raise(kTS, selector_error(v.tr.selector));

  Task task;
  STEP(read_task(v, d, task));
  uint64_t old_descriptor = v.gdtr.base + (v.tr.selector & 0xfff8), flags = v.rflags();
  if (back) flags &= ~static_cast<uint64_t>(kNT);
  auto undo_busy = [&] {
    if (!back) update_linear_byte(v, d.linear + 5, 0, 2);
    if (!nest) update_linear_byte(v, old_descriptor + 5, 2, 0);
  };
  // Everything that is written has to be writable before the first byte changes.
  STEP(update_linear_byte(v, d.linear + 5, 0, 0));
  STEP(update_linear_byte(v, old_descriptor + 5, 0, 0));
  if (nest) STEP(probe_write(v, d.base(), 2, true));
  STEP(write_old_task(v, return_rip, flags));
  if (nest) {
    uint16_t link = v.tr.selector;
    STEP(write_linear(v, d.base(), &link, 2, true));
  }
  Saved saved;
  save(v, saved);
  if (!nest) STEP(update_linear_byte(v, old_descriptor + 5, 0, 2));
  if (!back) STEP(update_linear_byte(v, d.linear + 5, 2, 0));
  if (wide && (v.cr0 & kCr0Pg) && (task.cr3 != v.cr3 || (v.cr4 & kCr4Pae))) {
    if (write_cr3(v, task.cr3) != Outcome::kNext) {
      undo_busy();
      return v.raise(kTS, selector_code);
    }
  }

  // The commit: from here on this is the new task.
  v.tr = d.segment();
  v.tr.access |= 2;
  v.cr0 |= kCr0Ts;
  v.dr7 &= ~kDr7Local;
  uint32_t new_flags = task.flags;
  if (nest) new_flags |= kNT;
  v.set_rflags(wide ? new_flags : new_flags & 0xffff);
  for (unsigned i = 0; i < 8; i++) v.gpr[i] = task.gpr[i];
  v.rip = task.rip;
  v.cpl = v.vm86() ? 3 : task.segment[kCS] & 3;
  for (unsigned i = 0; i < 6; i++) {
    v.segment[i] = Segment{};
    v.segment[i].selector = task.segment[i];
    v.segment[i].unusable = true;
  }
  v.segment[kCS].access = 0x409b;  // until it is loaded, a fault is handled as from 32-bit code

  Outcome o = load_segments(v, task, wide, has_error, error);
  if (o == Outcome::kExit) {
    restore(v, saved);
    undo_busy();
    return o;
  }
  update_mode(v);
  if (o == Outcome::kFault) return o;
  if (task.trap) {
    v.raise(kDB);
    v.fault.payload = kDr6Bt;
    return Outcome::kFault;
  }
  return Outcome::kJump;
}

}  // namespace vireo::softkvm
