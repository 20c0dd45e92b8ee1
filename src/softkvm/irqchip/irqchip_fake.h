// SPDX-License-Identifier: Apache-2.0
// For tests: a clock that moves when told, a vCPU that counts what it is asked to do, and a VM of some of them.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "softkvm/irqchip/irqchip.h"

namespace vireo::softkvm {

class FakeClock final : public MonotonicClock {
 public:
  uint64_t now_ns() const override { return now.load(); }
  std::atomic<uint64_t> now{1'000'000'000};
};

class FakeVcpu final : public VcpuSignal {
 public:
  static constexpr uint32_t kTscKhz = 2'000'000;  // two ticks a nanosecond

  explicit FakeVcpu(const FakeClock& clock) : clock_(clock) {}
  void kick() override {
    std::lock_guard guard(mutex_);
    ++kicks;
    kicked_.notify_all();
  }
  void request_nmi() override { ++nmis; }
  void request_smi() override { ++smis; }
  void request_init() override { ++inits; }
  void request_sipi(uint8_t vector) override { sipis.push_back(vector); }
  void request_ioapic_eoi(uint8_t vector) override { eois.push_back(vector); }
  uint64_t guest_tsc() const override { return clock_.now_ns() * 2 + tsc_offset; }

  // Waits until the vCPU has something to take, as a halted one does.
  void wait() {
    std::unique_lock lock(mutex_);
    kicked_.wait(lock, [this] { return lapic->has_interrupt(); });
  }

  std::unique_ptr<Lapic> lapic;
  int kicks = 0, nmis = 0, smis = 0, inits = 0;
  uint64_t tsc_offset = 0;
  std::vector<uint8_t> sipis, eois;

 private:
  const FakeClock& clock_;
  std::mutex mutex_;
  std::condition_variable kicked_;
};

// A VM whose APICs are enabled by software and in xAPIC mode.
class FakeVm {
 public:
  explicit FakeVm(unsigned vcpu_count = 1, Irqchip::Config config = {}) {
    config.clock = &clock;
    config.event_thread = false;
    chip = std::move(*Irqchip::create(config));
    for (unsigned id = 0; id < vcpu_count; ++id) {
      vcpus.push_back(std::make_unique<FakeVcpu>(clock));
      vcpus[id]->lapic = chip->create_lapic(id, id == 0, *vcpus[id]);
      lapic(id).set_features({.x2apic = true, .tsc_deadline = true});
      lapic(id).set_tsc_khz(FakeVcpu::kTscKhz);
      lapic(id).mmio_write(apic::kSvr, 4, 0x1ff);
    }
  }
  ~FakeVm() {
    for (auto& vcpu : vcpus) chip->destroy_lapic(std::move(vcpu->lapic));
  }

  Lapic& lapic(unsigned id = 0) { return *vcpus[id]->lapic; }
  FakeVcpu& vcpu(unsigned id = 0) { return *vcpus[id]; }
  void x2apic(unsigned id = 0) { lapic(id).set_base(lapic(id).base() | apic::kBaseX2apic, false); }
  void advance(uint64_t ns) {
    clock.now += ns;
    chip->run_timers();
  }
  // One vector in IRR.
  bool requested(unsigned id, uint8_t vector) {
    return lapic(id).reg(apic::kIrr + (vector >> 5) * 16) >> (vector & 31) & 1;
  }
  bool in_service(unsigned id, uint8_t vector) {
    return lapic(id).reg(apic::kIsr + (vector >> 5) * 16) >> (vector & 31) & 1;
  }
  void out(uint16_t port, uint8_t value) {
    uint32_t v = value;
    chip->pio(port, 1, true, v);
  }
  uint8_t in(uint16_t port) {
    uint32_t value = 0;
    chip->pio(port, 1, false, value);
    return static_cast<uint8_t>(value);
  }
  void ioapic_write(uint8_t index, uint32_t value) {
    uint64_t select = index, data = value;
    chip->mmio(0xfec00000, 4, true, select);
    chip->mmio(0xfec00010, 4, true, data);
  }
  uint32_t ioapic_read(uint8_t index) {
    uint64_t select = index, data = 0;
    chip->mmio(0xfec00000, 4, true, select);
    chip->mmio(0xfec00010, 4, false, data);
    return static_cast<uint32_t>(data);
  }
  void redirect(unsigned pin, uint64_t entry) {
    ioapic_write(static_cast<uint8_t>(0x11 + pin * 2), static_cast<uint32_t>(entry >> 32));
    ioapic_write(static_cast<uint8_t>(0x10 + pin * 2), static_cast<uint32_t>(entry));
  }
  // Both PICs as a PC's firmware sets them up: vectors 8 and 0x70, all lines open, LINT0 of the BSP as ExtINT.
  void pic_init(uint8_t icw4 = 1) {
    for (uint16_t port : {0x20, 0xa0}) out(port, 0x11);
    out(0x21, 0x08), out(0xa1, 0x70);
    out(0x21, 4), out(0xa1, 2);
    out(0x21, icw4), out(0xa1, 1);
    out(0x21, 0), out(0xa1, 0);
    lapic().mmio_write(apic::kLvt0, 4, 0x700);
  }

  FakeClock clock;
  std::unique_ptr<Irqchip> chip;
  std::vector<std::unique_ptr<FakeVcpu>> vcpus;
};

}  // namespace vireo::softkvm
