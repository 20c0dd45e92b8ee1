// SPDX-License-Identifier: Apache-2.0
// The local APIC of one vCPU: registers, priorities, the ICR, the timer. FAST code throughout. Registers live in the
// layout of KVM_GET_LAPIC; where hardware and the kernel's emulation differ (no ESR errors, arbitration by vector,
// lenient reserved bits) this does as the kernel does, so that state moves between the two.
// Threads: the vCPU's own thread reads and writes registers, acknowledges and ends interrupts; any thread may accept(),
// which is an atomic OR into IRR and a kick. GET/SET state and reset are for when the vCPU does not run.
// Spec: Intel SDM vol 3, chapter 11.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>

#include "softkvm/irqchip/apic_bus.h"
#include "softkvm/irqchip/timers.h"

namespace vireo::softkvm {

// What a local APIC does to its vCPU; the engine implements it. From any thread, the vCPU's own included, in FAST code:
// no libc, no locks that the vCPU may hold.
class VcpuSignal {
 public:
  // There may be an interrupt to take: leave halt or translated code and ask has_interrupt().
  virtual void kick() = 0;
  virtual void request_nmi() = 0;
  virtual void request_smi() = 0;
  virtual void request_init() = 0;  // forgets an earlier SIPI that was not taken yet
  virtual void request_sipi(uint8_t vector) = 0;
  virtual void request_ioapic_eoi(uint8_t vector) = 0;  // split irqchip: KVM_EXIT_IOAPIC_EOI
  virtual uint64_t guest_tsc() const = 0;

 protected:
  ~VcpuSignal() = default;
};

namespace apic {  // register offsets of the xAPIC page; x2APIC MSRs are 0x800 + offset / 16
enum Register : uint32_t {
  kId = 0x20, kVersion = 0x30, kTpr = 0x80, kApr = 0x90, kPpr = 0xa0, kEoi = 0xb0, kLdr = 0xd0, kDfr = 0xe0, kSvr = 0xf0,
  kIsr = 0x100, kTmr = 0x180, kIrr = 0x200, kEsr = 0x280, kLvtCmci = 0x2f0, kIcr = 0x300, kIcr2 = 0x310,
  kLvtTimer = 0x320, kLvtThermal = 0x330, kLvtPerf = 0x340, kLvt0 = 0x350, kLvt1 = 0x360, kLvtError = 0x370,
  kTmict = 0x380, kTmcct = 0x390, kTdcr = 0x3e0, kSelfIpi = 0x3f0,
};
constexpr uint32_t kLvtMasked = 1 << 16;
constexpr uint64_t kDefaultBase = 0xfee00000, kBaseBsp = 1 << 8, kBaseX2apic = 1 << 10, kBaseEnable = 1 << 11;
constexpr uint32_t kMsrBase = 0x1b, kMsrTscDeadline = 0x6e0, kMsrX2apicFirst = 0x800, kMsrX2apicLast = 0x8ff;
}  // namespace apic

class Lapic final : private HostTimer {
 public:
  // The owner attaches it to `bus` and `timers`, see Irqchip::create_lapic().
  Lapic(ApicBus& bus, TimerQueue& timers, VcpuSignal& signal, uint32_t id, bool bsp);
  Lapic(const Lapic&) = delete;

  // --- what the vCPU offers; from KVM_SET_CPUID2, KVM_SET_TSC_KHZ, KVM_CAP_X86_APIC_BUS_CYCLES_NS
  struct Features {
    bool x2apic = false;
    bool tsc_deadline = false;
    bool cmci = false;          // a seventh LVT entry
    bool directed_eoi = false;  // offered in a split irqchip only
    uint8_t physical_bits = 40;
  };
  void set_features(const Features& features);
  void set_tsc_khz(uint32_t khz);
  void set_bus_cycle_ns(uint32_t ns) { bus_cycle_ns_ = ns; }
  void tsc_changed();  // the guest's TSC jumped: the deadline is at another time now

  // KVM_RUN begins and ends. Between two runs the timer does not expire, so that what the state calls read, one after the other, is of
  // one moment; what was due then expires as the next run begins.
  void enter();
  void leave();

  // Power-on, or INIT: which leaves APIC base and, as KVM does, the ID.
  void reset(bool init);

  // --- the vCPU's thread
  bool has_interrupt() const;  // acknowledge() would give a vector (as far as TPR and ISR go; RFLAGS.IF is the engine's)
  int acknowledge();           // a vector, or -1: PIC first if LINT0 is ExtINT, then the highest of IRR, which moves to ISR
  void eoi();
  uint64_t cr8() const { return (reg(apic::kTpr) & 0xff) >> 4; }
  void set_cr8(uint64_t value);
  // True if this APIC answers at `address`: also where it is disabled or in x2APIC mode (reads as ones, KVM_X86_QUIRK_LAPIC_MMIO_HOLE).
  bool covers(uint64_t address) const { return address - (base() & kBaseMask) < 0x1000; }
  uint64_t mmio_read(uint32_t offset, unsigned size);
  void mmio_write(uint32_t offset, unsigned size, uint64_t value);
  // IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC MSRs. False: #GP.
  bool msr_read(uint32_t index, uint64_t& value) const;
  bool msr_write(uint32_t index, uint64_t value);
  uint64_t base() const { return base_.load(std::memory_order_relaxed); }
  bool set_base(uint64_t value, bool host);  // false: #GP, or EINVAL to the host, which may make any transition
  // The same question for a vCPU whose APIC is in user space.
  static bool valid_base(uint64_t value, uint64_t old, bool host, bool x2apic, unsigned physical_bits);
  uint64_t tsc_deadline() const;
  void set_tsc_deadline(uint64_t tsc);

  // --- from any thread
  // 1 if taken, 0 if not. Edge messages and asserts of level ones.
  int accept(DeliveryMode mode, uint8_t vector, bool assert_level, bool level_triggered);
  // Raises a local interrupt source: apic::kLvtPerf for a PMU overflow, kLvtThermal, kLvtCmci ...
  int deliver_local(uint32_t lvt);
  void nmi_watchdog();
  bool matches(const ApicMessage& message, const Lapic* source) const;
  bool present() const { return base() & apic::kBaseEnable; }
  bool x2apic() const { return base() & apic::kBaseX2apic; }
  bool software_enabled() const { return reg(apic::kSvr) & 0x100; }
  bool takes_extint() const;  // from the PIC: LINT0 is ExtINT, or the APIC is off
  uint32_t id() const { return id_; }
  bool bsp() const { return bsp_; }
  VcpuSignal& signal() const { return signal_; }

  // --- split irqchip: the PIC is in user space and its vector comes by KVM_INTERRUPT
  bool external_vector_free() const { return external_vector_.load() < 0; }
  void set_external_vector(int vector);
  int external_vector() const { return external_vector_.load(); }

  // --- KVM_GET_LAPIC, KVM_SET_LAPIC: 0 or -errno
  int get_state(kvm_lapic_state& state) const;
  int set_state(const kvm_lapic_state& state);

  uint32_t reg(uint32_t offset) const { return __atomic_load_n(&regs_[offset / 4], __ATOMIC_RELAXED); }

 private:
  static constexpr uint64_t kBaseMask = 0x000ffffffffff000ull;
  enum class TimerMode : uint8_t { kOneShot, kPeriodic, kTscDeadline, kReserved };

  // registers
  void set(uint32_t offset, uint32_t value) { __atomic_store_n(&regs_[offset / 4], value, __ATOMIC_RELAXED); }
  uint32_t& vector_word(uint32_t bank, uint8_t vector) { return regs_[(bank + (vector >> 5) * 16) / 4]; }
  bool test_vector(uint32_t bank, uint8_t vector) const { return reg(bank + (vector >> 5) * 16) >> (vector & 31) & 1; }
  bool set_vector(uint32_t bank, uint8_t vector);    // false: it was set
  void clear_vector(uint32_t bank, uint8_t vector);
  int highest(uint32_t bank) const;
  uint32_t ppr() const;
  int deliverable() const;
  void recheck();  // kicks the vCPU if TPR, ISR or LINT0 have just let something through
  bool readable(uint32_t offset) const;
  uint32_t read_register(uint32_t offset) const;
  bool write_register(uint32_t offset, uint32_t value);
  void write_svr(uint32_t value);
  void set_version();
  void set_id_register();
  void note_id();
  void send_ipi(uint32_t low, uint32_t destination);

  // timer; all under timer_lock_
  void expire(uint64_t now_ns);
  void write_lvt_timer(uint32_t value);
  void update_timer_mode();
  void write_initial_count(uint32_t value);
  void write_divide(uint32_t value);
  void update_divide();
  uint64_t count_ns(uint32_t count) const;
  void limit_period();
  void start_timer(uint64_t first_ns);
  void stop_timer();
  void arm_deadline();
  uint32_t current_count() const;

  alignas(64) uint32_t regs_[KVM_APIC_REG_SIZE / 4] = {};
  ApicBus& bus_;
  TimerQueue& timers_;
  VcpuSignal& signal_;
  const uint32_t id_;
  const bool bsp_;
  bool foreign_id_ = false;
  std::atomic<uint64_t> base_;
  Features features_;
  std::atomic<int> external_vector_{-1};

  mutable SpinLock timer_lock_;
  TimerMode timer_mode_ = TimerMode::kOneShot;
  bool entered_ = true, late_ = false;  // late: was due while the vCPU was not run
  bool running_ = false;        // one-shot or periodic: counting to target_ns_
  uint32_t divide_ = 2;
  uint32_t bus_cycle_ns_ = 1;   // KVM's bus runs at 1 GHz
  uint64_t period_ns_ = 0;
  uint64_t target_ns_ = 0;
  uint64_t tsc_deadline_ = 0;   // 0: not armed
  uint64_t ns_per_tick_ = 1ull << 32;  // 32.32 fixed point

  friend class Irqchip;  // attaches the timer
};

}  // namespace vireo::softkvm
