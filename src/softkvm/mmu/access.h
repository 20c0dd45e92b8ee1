// SPDX-License-Identifier: Apache-2.0
// Guest memory accesses in C++: TLB fills, the accesses of step mode with their bounce buffers, and device accesses by fragments.
// General registers only. What the instruction layer needs of it is declared in cpu/system.h.
#pragma once

#include "softkvm/cpu/system.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/translate/engine.h"

namespace vireo::softkvm {

// The inline TLB's miss: fills it and gives the host address of `linear`, or null with Engine::reason set.
extern "C" uint8_t* softkvm_tlb_miss(VcpuState* vcpu, uint64_t linear, uint32_t descriptor);
// The check of a group of accesses has failed: `tagged` is the group's linear address xor the tag that it was compared with, which was the recent page's, or that of
// the TLB's entry number `entry`; `what` has the first access's descriptor and, in its upper half, what engine.h tells at kGroupDeltaShift. Gives
// the host address of the group, 1 where each access has to be checked by itself, or null with the reason to leave, which is the first one's.
extern "C" uint8_t* softkvm_group_miss(VcpuState* vcpu, uint64_t tagged, uint64_t what, uint64_t entry);
// An access outside of the inline TLB: `offset` in the descriptor's segment. Null with Engine::reason set.
extern "C" uint8_t* softkvm_access(VcpuState* vcpu, uint64_t offset, uint32_t descriptor);

// The host address of [linear, linear+size) inside one page for C++ to use until the next guest instruction, with a TLB fill; null with
// vcpu.fault pending or Engine::need_step set (`outcome` says which). Where a write would hit translated code: with `before_code`, and if something
// comes before the code, the address, and how many bytes that is.
uint8_t* host_address(VcpuState& vcpu, uint64_t linear, unsigned size, bool write, Outcome& outcome, unsigned* before_code = nullptr);

// linear_address() for accesses that are never checked for alignment where `aligned` is false.
Outcome linear_address(VcpuState& vcpu, SegmentRegister segment, uint64_t offset, unsigned size, AccessType type, uint64_t& linear,
                       bool aligned);

// The host address of one byte of RAM as a supervisor's implicit access sees it, or null.
uint8_t* system_host_address(VcpuState& vcpu, uint64_t linear, Outcome& outcome);

// May where a walk has come be kept as an area of Engine::areas or fetch_areas?
bool has_area(const VcpuState& vcpu, const PageTranslation& t);

// The vCPU has written, or is about to write before its next safe point, the page of `slot` at `gpa`.
void dirtied(VcpuState& vcpu, const struct Slot& slot, uint64_t gpa);

// Before a step-mode instruction runs (again): forgets what its last try queued but not what user space answered.
void begin_step(Engine& engine);
// After it: is it a masked store on a bounce buffer that has run once? It runs again, with another background, and the bytes that are equal
// after both runs are those that it stores. (Such an instruction changes nothing else.)
bool masked_store_again(Engine& engine);
// After it: copies bounce buffers out. Device writes that have to leave are in Engine::writes.
void commit_step(VcpuState& vcpu);
// Forgets everything open (the state was changed from outside).
void drop_open(Engine& engine);

// Devices inside the hypervisor (irqchip, doorbells). True: handled. On writes `value` is the data; on reads it is filled.
bool device_mmio(VcpuState& vcpu, uint64_t gpa, unsigned size, bool write, uint64_t& value);
bool device_pio(VcpuState& vcpu, uint16_t port, unsigned size, bool write, uint32_t& value);

inline void copy_bytes(void* to, const void* from, uint64_t n) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

}  // namespace vireo::softkvm
