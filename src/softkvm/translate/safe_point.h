// SPDX-License-Identifier: Apache-2.0
// Bringing the vCPUs of a VM to a safe point: outside of translated code and its helpers, with the requests done or to be done before
// they run again. Never called by a vCPU that is running (Engine::running), so waiting cannot go in circles.
#pragma once

#include <cstdint>
#include <mutex>

#include "softkvm/vm.h"

namespace vireo::softkvm {

// Posts kRequest* bits to all vCPUs but one and waits until none can still use what they drop.
void reach_safe_points(Vm& vm, uint32_t request, const Vcpu* except);
// Drops translations made from [gpa, gpa+size).
void invalidate_code(Vm& vm, uint64_t gpa, uint64_t size);

// Slots stay while one lives, as for translated code: who changes them waits for the vCPU. No lock: a page that is touched may have to come first, from a
// thread that asks for the slots itself (post-copy). For the vCPU's thread, in the slow half.
class AtMemory {
 public:
  explicit AtMemory(Vcpu& vcpu);
  ~AtMemory();
  AtMemory(const AtMemory&) = delete;
  AtMemory& operator=(const AtMemory&) = delete;

 private:
  Vcpu& vcpu_;
};

// While one lives, no vCPU but its own runs translated code or its helpers: for an instruction that has to be atomic to the others and
// cannot be so on the host. Taken in the slow half, for one call of run_fast(): nobody may be held while this vCPU waits for user space.
class Exclusive {
 public:
  explicit Exclusive(Vcpu& vcpu);
  ~Exclusive();
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  Vcpu& vcpu_;
  std::unique_lock<std::mutex> lock_;
};
// While one lives, no vCPU does. For threads that are no vCPU's, or whose vCPU does not run.
class AllHeld {
 public:
  explicit AllHeld(Vm& vm);
  ~AllHeld();
  AllHeld(const AllHeld&) = delete;
  AllHeld& operator=(const AllHeld&) = delete;

 private:
  Vm& vm_;
  std::unique_lock<std::mutex> lock_;
};
// Waits while another vCPU is exclusive, or all are held. In the slow half.
void wait_while_held(const Vcpu& vcpu);

}  // namespace vireo::softkvm
