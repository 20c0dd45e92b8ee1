// SPDX-License-Identifier: Apache-2.0
// Expected values: PCI Local Bus 3.0, 3.2.2.3.2 and 6.2.5.
#include "machine/pci_root.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include "devices/reset_control.h"
#include "kvm/system.h"

namespace vireo {
namespace {

// Reads as its number.
class Card final : public PciDevice {
 public:
  explicit Card(uint8_t number) : PciDevice({.vendor = 0x1234, .device = number, .interrupt_pin = false}, {}), number_(number) {
    add_bar(0, 0x1000, BarType::kMemory32);
  }

 protected:
  void read_bar(unsigned, Access, std::span<std::byte> data) override { data[0] = std::byte{number_}; }
  void write_bar(unsigned, Access, std::span<const std::byte>) override {}
  void device_reset(ResetKind) override {}
  void device_fields(Archive&) override {}

 private:
  uint8_t number_;
};

class PciRootTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = kvm::System::open(kvm::soft_api() ? *kvm::soft_api() : kvm::kernel_api());
    if (!opened) GTEST_SKIP() << "no hypervisor";
    system = std::move(*opened);
    vm = std::move(*system->create_vm());
    doorbells = std::make_unique<Doorbells>(*vm, *loop);
    root = std::make_unique<PciRoot>(ports, mmio, *doorbells, reset_control, PciRoot::MemorySlots{});
    ASSERT_TRUE(root->map());
    for (uint8_t slot : {1, 2}) {
      ASSERT_TRUE(root->add(slot, 0, std::make_unique<Card>(slot)));
      config<uint16_t>(slot, PCI_COMMAND, PCI_COMMAND_MEMORY);
    }
  }
  template <class T>
  void config(unsigned slot, unsigned offset, T value) {
    const uint32_t address = 1u << 31 | slot << 11 | (offset & 0xfc);
    ports.write(0xcf8, std::as_bytes(std::span(&address, 1)));
    ports.write(0xcfc + (offset & 3), std::as_bytes(std::span(&value, 1)));
  }
  void place(unsigned slot, uint32_t address) { config(slot, PCI_BASE_ADDRESS_0, address); }
  uint8_t read(uint64_t address) {
    std::byte value{};
    mmio.read(address, {&value, 1});
    return std::to_integer<uint8_t>(value);
  }

  static constexpr uint32_t kHere = 0xe0000000, kThere = 0xe0010000;
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<kvm::System> system;
  std::unique_ptr<kvm::Vm> vm;
  Bus ports, mmio;
  ResetControl reset_control{[] {}};
  std::unique_ptr<Doorbells> doorbells;
  std::unique_ptr<PciRoot> root;
};

// As a system does that gives places anew one register after the other, with decoding on.
TEST_F(PciRootTest, TwoBarsThatChangePlacesAreBothSeenInTheEnd) {
  place(1, kHere);
  place(2, kThere);
  EXPECT_EQ(read(kHere), 1);
  EXPECT_EQ(read(kThere), 2);
  place(1, kThere);
  EXPECT_EQ(read(kHere), 0xff);
  place(2, kHere);
  EXPECT_EQ(read(kHere), 2);
  EXPECT_EQ(read(kThere), 1);
}

TEST_F(PciRootTest, ABarComesForwardWhenWhatIsOverItIsSwitchedOff) {
  place(1, kHere);
  place(2, kHere);
  EXPECT_EQ(read(kHere), 1);
  config<uint16_t>(1, PCI_COMMAND, 0);
  EXPECT_EQ(read(kHere), 2);
  config<uint16_t>(1, PCI_COMMAND, PCI_COMMAND_MEMORY);
  EXPECT_EQ(read(kHere), 2);
  root->reset(ResetKind::kCold);
  EXPECT_EQ(read(kHere), 0xff);
}

TEST_F(PciRootTest, ABarComesForwardWhenTheConfigurationSpaceHasGone) {
  root->map_ecam(kHere, 0x10000);
  place(1, kHere);
  EXPECT_EQ(read(kHere), 0xff);  // nothing at 0:0.0
  root->map_ecam(0, 0);
  EXPECT_EQ(read(kHere), 1);
}

}  // namespace
}  // namespace vireo
