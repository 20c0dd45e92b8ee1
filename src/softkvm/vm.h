// SPDX-License-Identifier: Apache-2.0
// A virtual machine and its vCPUs inside softkvm: what the ioctl layer (abi/) drives. The engine (mmu/, translate/) implements
// these. Calls on a Vcpu come one at a time (abi/ holds the vCPU's mutex as the kernel does); calls on a Vm may come from any thread.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "softkvm/cpu/vcpu_state.h"
#include "softkvm/irqchip/read_section.h"
#include "softkvm/mmu/large_pages.h"
#include "softkvm/mmu/lent_memory.h"

namespace vireo::softkvm {

class Irqchip;   // irqchip/irqchip.h
struct MsrFilter; // abi/msr_filter.h
class Ioeventfds; // irqchip/ioeventfd.h
class Slots;     // mmu/slots.h: memory slots
class CodeCache; // translate/code_cache.h
class StoredCode; // translate/stored_code.h
struct VmCounters; // counters.h
struct Engine;   // translate/engine.h: one vCPU's TLBs, jump cache and translated-code entry

class Vm {
 public:
  static std::unique_ptr<Vm> create();
  ~Vm();

  // KVM_SET_USER_MEMORY_REGION: 0 or -errno with the kernel's checks. Returns when no vCPU can use an old mapping.
  int set_memory_region(const kvm_userspace_memory_region& region);
  // KVM_GET_DIRTY_LOG / KVM_CLEAR_DIRTY_LOG. 0 or -errno.
  int get_dirty_log(uint32_t slot, void* bitmap, bool clear);
  int clear_dirty_log(uint32_t slot, uint64_t first_page, uint32_t num_pages, const void* bitmap);
  // Host code wrote this memory.
  void notice_write(const void* host, size_t size);
  // The same for all VMs, and without dirtying pages. See softkvm.h.
  // The page of slot `slot` at `gpa` was written by nobody's guest code: as dirtied() of mmu/access.h, into some vCPU's ring.
  void dirtied(const struct Slot& slot, uint64_t gpa);
  // KVM_RESET_DIRTY_RINGS: how many entries came back.
  int reset_dirty_rings();
  static void notice_change(const void* host, size_t size);
  static void expect_unseen_writes();
  static void expect_foreign_writes(uint64_t host_tsc_ticks);  // how long a device may take
  // Memory that was lent is not to be mapped in stub processes any more; none has it when this returns.
  void return_memory(const void* host, uint64_t size);
  int allow_large_pages(const void* host, uint64_t size);  // 0 or -errno
  // Plain access to guest physical RAM for the hypervisor's own writes (kvmclock pages ...). False: not RAM.
  bool read_physical(uint64_t gpa, void* out, size_t size);
  bool write_physical(uint64_t gpa, const void* in, size_t size);

  LentMemory lent;
  PageWorker page_worker;  // runs where large pages are allowed
  LargePages large{page_worker};
  std::unique_ptr<Slots> slots;
  std::unique_ptr<CodeCache> code;
  std::unique_ptr<StoredCode> stored;  // null: no translated code is kept beyond the VM
  VmCounters* counters = nullptr;  // a page of its own; written by who may only look at the VM, too
  const uint32_t off;        // translate/switches.h
  const bool unseen_writes;  // host code writes memory without notice_write
  static std::atomic<uint64_t> foreign_ticks;  // 0: all unseen writes are told by an interrupt or an exit
  std::atomic<uint64_t> alert_until{0};        // host TSC: until then a foreign write may come
  Irqchip* irqchip = nullptr;      // set by abi/ on KVM_CREATE_IRQCHIP; owned there
  bool pit_present = false;
  Ioeventfds* ioeventfds = nullptr;  // set by abi/, always there; guest writes to devices ask it before they leave,
  class CoalescedWrites* coalesced = nullptr;  // ... and then this; also of abi/
  Published<MsrFilter> msr_filter;   // set by abi/, asked by msr_filter_allows()
  struct TscWrites {
    std::mutex mutex;
    bool valid = false;
    bool by_user = false;  // set by KVM_SET_MSRS, not by the first vCPU's creation
    uint64_t offset = 0, ratio = 0;  // for vCPUs of this rate
  } tsc_writes;                      // the TSC offset that the vCPUs share, see synchronize_tsc()
  // kvmclock: one moment by both clocks. The pages of all vCPUs name it, so that they agree to the tick.
  struct ClockBase {
    std::mutex mutex;
    uint64_t host_tsc = 0, ns = 0;
  } clock_base;
  std::mutex vcpus_mutex;
  // The vCPU that runs one instruction with the others held, or the VM itself where all are: Exclusive and AllHeld in translate/safe_point.h.
  std::mutex exclusive_mutex;
  std::atomic<const void*> exclusive{nullptr};
  std::mutex watch_mutex;  // of wait_for_writers()
  std::vector<class Vcpu*> vcpus;  // by index of creation; abi/ appends

 private:
  Vm();
  void drop_code(const void* host, size_t size, bool dirty);
};

class Vcpu : public VcpuState {
 public:
  static std::unique_ptr<Vcpu> create(Vm& vm, unsigned id, kvm_run* run);
  ~Vcpu();
  void operator delete(void* memory);  // it lies in a mapping with its engine

  // KVM_RUN, without the signal mask (abi/ sets that around it): runs until an exit; 0 with kvm_run filled, or -errno (-EINTR).
  // abi/ fills if_flag, cr8, apic_base, flags and ready_for_interrupt_injection afterwards and has dealt with the synced registers.
  int run_guest();

  // Makes the vCPU leave translated code or its halt soon and look at its events again. From any thread, async-signal-safe.
  void kick();
  // Makes a running KVM_RUN return -EINTR at its next safe point. From any thread, async-signal-safe. Sticky: a request made before
  // run_guest() makes it return at once; run_guest() clears it as it returns.
  void request_exit();

  // SIMD and x87 state, in the XSAVE standard (non-compacted) format; valid while KVM_RUN is not running.
  uint8_t* xsave_area();
  static unsigned xsave_size();  // bytes of the standard format for all components this host passes on
  static uint64_t supported_xcr0();

  // To be called after any KVM_SET_*: the engine drops what it derived from the old state.
  void state_changed();

  // Applies an INIT and a SIPI that have come. Only while KVM_RUN is not running, or by it.
  void accept_startup();

  // mp_state as KVM has it (KVM_MP_STATE_*): runnable, uninitialized (waiting for INIT), init received (waiting for SIPI), halted.
  std::atomic<uint32_t> mp_state{0};
  std::atomic<bool> init_pending{false}, sipi_pending{false};
  std::atomic<uint8_t> sipi_vector{0};
  std::atomic<uint8_t> nmi_request{0};  // how many, counted to 2
  std::atomic<bool> smi_request{false};

  // KVM_SET_GUEST_DEBUG as given; state_changed() after a change.
  kvm_guest_debug guest_debug{};
  // KVM_INTERRUPT without an in-kernel irqchip, or an interrupt of KVM_SET_VCPU_EVENTS that is acknowledged already: the vector
  // that waits, or -1. Delivered before the irqchip is asked. Soft: as by INT n, whatever IF says, through the gate's DPL.
  int user_interrupt = -1;
  bool user_interrupt_soft = false;
  // The same for an NMI that was on its way in (nmi_masked is set already).
  bool nmi_injected = false;
  // abi/'s own, for KVM_GET_VCPU_EVENTS: `injected` came as "pending", with a payload that CR2 or DR6 do not hold yet.
  bool injected_is_pending = false, injected_has_payload = false;
  bool triple_fault_pending = false;
  bool user_acted = false;  // abi/'s, too: an ioctl that is not KVM_RUN has come since the last one
  bool guest_stopped = false;  // KVM_KVMCLOCK_CTRL: the next kvmclock page says so (PVCLOCK_GUEST_STOPPED)
  uint64_t steal_updated = 0, steal_seen = 0;  // the last update's TSC, and the thread's waiting time then
  int steal_thread = 0;
  class Lapic* lapic = nullptr;  // irqchip/, owned by abi/; null without an irqchip: then APIC base and CR8 are these
  uint64_t user_apic_base = 0, user_cr8 = 0;

  Engine* engine = nullptr;
  class DirtyRing* dirty_ring = nullptr;  // owned by abi/; null: the slots' bitmaps are asked for
};

}  // namespace vireo::softkvm
