// SPDX-License-Identifier: Apache-2.0
// Whatever a guest writes and whatever state is loaded, nothing of ours breaks: to be run with sanitizers. Seeds are fixed.
#include <gtest/gtest.h>

#include <random>

#include "softkvm/irqchip/irqchip_fake.h"

namespace vireo::softkvm {
namespace {

class Chaos {
 public:
  explicit Chaos(unsigned seed) : random_(seed), vm_(3) { vm_.chip->create_pit(KVM_PIT_SPEAKER_DUMMY); }

  void load_random_state() {
    kvm_lapic_state lapic;
    fill(lapic);
    vm_.lapic(below(3)).set_state(lapic);
    kvm_irqchip chip;
    fill(chip);
    chip.chip_id = below(4);
    vm_.chip->set_irqchip(chip);
    kvm_pit_state2 pit;
    fill(pit);
    vm_.chip->set_pit2(pit);
  }

  void step() {
    static constexpr uint16_t kPorts[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61};
    Lapic& lapic = vm_.lapic(below(3));
    uint64_t value = random_() | static_cast<uint64_t>(random_()) << 32;
    uint32_t narrow = random_();
    switch (below(12)) {
      case 0: lapic.mmio_write(below(0x100) * 16, 4, value); break;
      case 1: lapic.mmio_read(below(0x1000), 1u << below(4)); break;
      case 2: lapic.msr_write(0x800 + below(0x100), below(2) ? narrow : value); break;
      case 3: lapic.msr_read(0x800 + below(0x100), value); break;
      case 4: lapic.set_base(0xfee00000 | below(4) << 10 | 0x100, below(2)); break;
      case 5: vm_.chip->pio(kPorts[below(11)], 1u << below(3), below(2), narrow); break;
      case 6: vm_.ioapic_write(static_cast<uint8_t>(below(72)), narrow); break;
      case 7: vm_.chip->mmio(0xfec00000 + below(0x100), 1u << below(4), below(2), value); break;
      case 8: vm_.chip->set_irq(below(30), below(2)); break;
      case 9: vm_.chip->router().send_msi(narrow, static_cast<uint32_t>(value), random_()); break;
      case 10: vm_.advance(below(5'000'000)); break;
      default:
        if (lapic.has_interrupt()) lapic.acknowledge();
        if (below(2)) lapic.eoi();
        lapic.set_cr8(below(16));
    }
  }

 private:
  uint32_t below(uint32_t n) { return random_() % n; }
  template <class T>
  void fill(T& object) {
    for (size_t i = 0; i < sizeof object; ++i) reinterpret_cast<uint8_t*>(&object)[i] = static_cast<uint8_t>(random_());
  }

  std::mt19937 random_;
  FakeVm vm_;
};

TEST(Hostile, RandomAccesses) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Chaos chaos(seed);
    for (int i = 0; i < 2000; ++i) chaos.step();
  }
}

TEST(Hostile, RandomAccessesAfterRandomStates) {
  for (unsigned seed = 1; seed <= 50; ++seed) {
    Chaos chaos(seed);
    for (int round = 0; round < 5; ++round) {
      chaos.load_random_state();
      for (int i = 0; i < 200; ++i) chaos.step();
    }
  }
}

}  // namespace
}  // namespace vireo::softkvm
