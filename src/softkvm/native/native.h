// SPDX-License-Identifier: Apache-2.0
// Running a vCPU's user code on the bare CPU, in stub processes (docs/native.md). The slow half of the run loop calls it where UserProfile says
// that it pays; afterwards the vCPU's registers and SIMD state are what the code has made of them, an event may be waiting in
// VcpuState::injected, and the run loop goes on at rip, by translation.
// Of the thread that runs the vCPU: its stubs end with it. Where another thread takes over, they are made anew.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "softkvm/counters.h"
#include "softkvm/native/address_space.h"
#include "softkvm/native/cpu_hold.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

class Native {
 public:
  explicit Native(Vcpu& vcpu);  // whose engine is there

  // At the start of KVM_RUN.
  void prepare();
  // Does nothing where the state does not fit the bare CPU, or the host allows no stubs.
  void run();
  // The thread is about to sleep, or leaves KVM_RUN, perhaps for ever: the scheduler may move it.
  void let_cpu_go() { hold_.release(); }
  // The same where it has been held long enough, while no stub runs.
  void let_cpu_go_in_time();
  // Forgets all that is mapped: slots have changed, or what they log.
  void drop_spaces() { spaces_.clear(); }

 private:
  static constexpr size_t kMostSpaces = 12;  // stub processes of a vCPU
  enum class Next { kRun, kLeave };

  bool fit() const;
  bool host_tsc() const;
  AddressSpace* space();
  void drop(AddressSpace* space);
  template <class F>
  void drop_if(F gone);
  bool run_in(AddressSpace& space);
  void load(user_regs_struct& out) const;
  void store(const user_regs_struct& in);
  Outcome load_code_segment(uint16_t selector);
  Next signal(AddressSpace& space, const StubProcess::Stop& stop, user_regs_struct& r);
  Next page_fault(AddressSpace& space, const StubProcess::Stop& stop, const user_regs_struct& r);
  Next time_stamp(user_regs_struct& r);
  bool fetch(uint64_t rip, uint8_t* bytes, unsigned size);
  void system_call(user_regs_struct& r);

  Vcpu& vcpu_;
  CpuHold hold_;
  std::vector<std::unique_ptr<AddressSpace>> spaces_;
  uint64_t thread_ = 0;
  bool refused_ = false;      // the host allows no stubs
  uint64_t fault_address_ = ~0ull, fault_rip_ = 0;  // of the last page fault that was mapped: one that comes again is not to be had so
  unsigned fault_again_ = 0;
  uint64_t uses_ = 0;
  VcpuCounters::Native& counts_;
};

// Stops a stub that is running for the vCPU. From any thread, async-signal-safe. After Vcpu::attention was set.
void wake_native(Engine& engine);

}  // namespace vireo::softkvm
