// SPDX-License-Identifier: Apache-2.0
// Expected values: PCI Local Bus 3.0, 6.2.5 (BARs), 6.8.2 (MSI-X).
#include "devices/pci_device.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include "devices/archive_fake.h"

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override { level = l; }
  bool level = false;
};
struct Sink final : MsiSink {
  void send(uint64_t address, uint32_t data) override { sent.emplace_back(address, data); }
  std::vector<std::pair<uint64_t, uint32_t>> sent;
};
struct Parent final : PciParent {
  void decoding_changed(PciDevice&) override { calls++; }
  int calls = 0;
};

class Card final : public PciDevice {
 public:
  explicit Card(Pins pins) : PciDevice({.vendor = 0x1234, .device = 0x5678, .class_code = 0x020000}, pins) {
    add_bar(0, 0x100, BarType::kIo);
    add_bar(1, 0x1000, BarType::kMemory32);
    add_bar(2, 0x4000, BarType::kMemory64Prefetchable);
    uint8_t body[] = {1, 2};
    vendor = add_capability(PCI_CAP_ID_VNDR, std::as_bytes(std::span(body)));
    add_msix(3, 1, 0, 0x800);
  }
  using PciDevice::msix;
  using PciDevice::set_intx;
  unsigned vendor = 0;
  uint64_t last_write = 0;

 protected:
  void read_bar(unsigned, Access access, std::span<std::byte> data) override { data[0] = std::byte{static_cast<uint8_t>(access.offset)}; }
  void write_bar(unsigned, Access access, std::span<const std::byte>) override { last_write = access.offset; }
  void device_reset(ResetKind) override {}
  void device_fields(Archive&) override {}
};

class PciDeviceTest : public testing::Test {
 protected:
  void SetUp() override { card.set_parent(&parent); }
  uint32_t get(uint16_t offset, size_t size = 4) {
    uint32_t value = 0;
    card.read_config(offset, std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
  }
  void put(uint16_t offset, uint32_t value, size_t size = 4) { card.write_config(offset, std::as_bytes(std::span(&value, 1)).first(size)); }
  void table(unsigned vector, uint32_t address, uint32_t data, uint32_t control) {
    uint32_t words[] = {address, 0, data, control};
    for (unsigned i = 0; i < 4; i++) card.write(1, {vector * 16 + i * 4}, std::as_bytes(std::span(&words[i], 1)));
  }
  unsigned find(uint8_t id) {
    for (unsigned at = get(PCI_CAPABILITY_LIST, 1); at; at = get(static_cast<uint16_t>(at + 1), 1))
      if (get(static_cast<uint16_t>(at), 1) == id) return at;
    return 0;
  }
  Line line;
  Sink sink;
  Parent parent;
  Card card{{&sink, &line}};
};

TEST_F(PciDeviceTest, IdentityIsReadOnly) {
  put(0, 0);
  EXPECT_EQ(get(0), 0x56781234u);
  EXPECT_EQ(get(8), 0x02000000u);
}

TEST_F(PciDeviceTest, SizingABarTellsItsSizeAndType) {
  for (unsigned bar = 0; bar < 6; bar++) put(static_cast<uint16_t>(0x10 + 4 * bar), 0xffffffff);
  EXPECT_EQ(get(0x10), 0xffffff01u);
  EXPECT_EQ(get(0x14), 0xfffff000u);
  EXPECT_EQ(get(0x18), 0xffffc00cu);
  EXPECT_EQ(get(0x1c), 0xffffffffu);
  EXPECT_EQ(get(0x20), 0u);
}

TEST_F(PciDeviceTest, BarsDecodeOnlyWhenSwitchedOn) {
  put(0x14, 0xe0000000);
  EXPECT_EQ(card.bar_address(1), PciDevice::kNotDecoded);
  put(PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
  EXPECT_EQ(card.bar_address(1), 0xe0000000u);
  EXPECT_EQ(card.bar_address(0), PciDevice::kNotDecoded);
  put(0x18, 0x00000000);
  put(0x1c, 0x00000008);
  EXPECT_EQ(card.bar_address(2), 0x800000000u);
  EXPECT_GE(parent.calls, 4);
}

TEST_F(PciDeviceTest, ASizingProbeWithDecodingOnMapsNothing) {
  put(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_IO, 2);
  for (unsigned bar = 0; bar < 6; bar++) put(static_cast<uint16_t>(0x10 + 4 * bar), 0xffffffff);
  for (unsigned bar = 0; bar < 6; bar++) EXPECT_EQ(card.bar_address(bar), PciDevice::kNotDecoded) << bar;
}

TEST_F(PciDeviceTest, CapabilitiesAreChained) {
  EXPECT_EQ(get(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
  EXPECT_EQ(find(PCI_CAP_ID_VNDR), card.vendor);
  unsigned msix = find(PCI_CAP_ID_MSIX);
  ASSERT_NE(msix, 0u);
  EXPECT_EQ(get(static_cast<uint16_t>(msix + 2), 2), 2u);  // table size minus one
  EXPECT_EQ(get(static_cast<uint16_t>(msix + 4)), 1u);     // BAR 1, offset 0
  EXPECT_EQ(get(static_cast<uint16_t>(msix + 8)), 0x801u);
}

TEST_F(PciDeviceTest, MaskedVectorsStayPendingUntilUnmasked) {
  put(PCI_COMMAND, PCI_COMMAND_MASTER, 2);
  auto control = static_cast<uint16_t>(find(PCI_CAP_ID_MSIX) + 2);
  card.msix()->notify(1);
  EXPECT_TRUE(sink.sent.empty());  // off
  put(control, PCI_MSIX_FLAGS_ENABLE, 2);
  table(1, 0xfee00000, 0x41, 0);
  card.msix()->notify(1);
  ASSERT_EQ(sink.sent.size(), 1u);
  EXPECT_EQ(sink.sent[0], (std::pair<uint64_t, uint32_t>(0xfee00000, 0x41)));
  put(control, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2);
  card.msix()->notify(1);
  card.msix()->notify(1);
  uint64_t pending = 0;
  card.read(1, {0x800}, std::as_writable_bytes(std::span(&pending, 1)));
  EXPECT_EQ(pending, 2u);
  EXPECT_EQ(sink.sent.size(), 1u);
  put(control, PCI_MSIX_FLAGS_ENABLE, 2);
  EXPECT_EQ(sink.sent.size(), 2u);
  card.msix()->notify(99);
  EXPECT_EQ(sink.sent.size(), 2u);
}

// PCI Express Base 5.0, 7.5.1.1.3, "bus master enable": messages are writes to memory, and 0 disables them as well.
TEST_F(PciDeviceTest, NoMessageIsSentWhileTheFunctionMayNotMasterTheBus) {
  put(static_cast<uint16_t>(find(PCI_CAP_ID_MSIX) + 2), PCI_MSIX_FLAGS_ENABLE, 2);
  table(1, 0xfee00000, 0x41, 0);
  card.msix()->notify(1);
  EXPECT_TRUE(sink.sent.empty());
  put(PCI_COMMAND, PCI_COMMAND_MASTER, 2);
  EXPECT_EQ(sink.sent.size(), 1u);
  card.msix()->notify(1);
  EXPECT_EQ(sink.sent.size(), 2u);
  put(PCI_COMMAND, 0, 2);
  card.msix()->notify(1);
  EXPECT_EQ(sink.sent.size(), 2u);
  card.reset(ResetKind::kCold);
  put(PCI_COMMAND, PCI_COMMAND_MASTER, 2);
  put(static_cast<uint16_t>(find(PCI_CAP_ID_MSIX) + 2), PCI_MSIX_FLAGS_ENABLE, 2);
  EXPECT_EQ(sink.sent.size(), 2u);
}

TEST_F(PciDeviceTest, IntxFollowsTheDisableBitAndShowsInStatus) {
  card.set_intx(true);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
  put(PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
  EXPECT_FALSE(line.level);
  put(PCI_COMMAND, 0, 2);
  EXPECT_TRUE(line.level);
  card.set_intx(false);
  EXPECT_FALSE(line.level);
}

TEST_F(PciDeviceTest, SavedStateLoadsIdentically) {
  put(0x14, 0xe0000000);
  put(PCI_COMMAND, 7, 2);
  table(2, 0xfee01000, 7, 0);
  MemoryArchive saved;
  card.fields(saved);
  Card other{{&sink, &line}};
  saved.loading = true;
  other.fields(saved);
  EXPECT_EQ(other.bar_address(1), 0xe0000000u);
  MemoryArchive again;
  other.fields(again);
  EXPECT_EQ(saved.fields, again.fields);
  EXPECT_FALSE(again.duplicate);
}

TEST_F(PciDeviceTest, AccessesBeyondABarReachNobody) {
  std::byte data[8]{};
  card.write(1, {0xffc}, data);
  EXPECT_EQ(card.last_write, 0u);
  card.write(1, {0xff8}, data);
  EXPECT_EQ(card.last_write, 0xff8u);
}

}  // namespace
}  // namespace vireo
