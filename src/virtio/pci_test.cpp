// SPDX-License-Identifier: Apache-2.0
// Expected values: virtio 1.3, 4.1.
#include "virtio/pci.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_pci.h>

#include "virtio/blk.h"
#include "virtio/disk_fake.h"
#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {

class FakeMsi final : public MsiSink {
 public:
  void send(uint64_t address, uint32_t data) override { sent.emplace_back(address, data); }
  std::vector<std::pair<uint64_t, uint32_t>> sent;
};

class PciTest : public testing::Test {
 protected:
  PciTest() { disk.bytes.resize(1 << 20); }
  void make(bool with_msi = true) {
    auto blk = Blk::create({.queues = 2}, {*loop}, std::make_unique<FakeDisk>(disk));
    ASSERT_TRUE(blk);
    pci = Pci::create(std::move(*blk), {*memory, {with_msi ? &msi : nullptr, &irq}});
    for (auto& [type, at] : capabilities()) structures[type] = at;
  }
  template <class T>
  T config(unsigned offset) {
    T value{};
    pci->read_config(static_cast<uint16_t>(offset), std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <class T>
  void set_config(unsigned offset, T value) {
    pci->write_config(static_cast<uint16_t>(offset), std::as_bytes(std::span(&value, 1)));
  }
  // Vendor capabilities: cfg_type to offset in configuration space.
  std::map<uint8_t, unsigned> capabilities() {
    std::map<uint8_t, unsigned> out;
    for (unsigned at = config<uint8_t>(PCI_CAPABILITY_LIST); at; at = config<uint8_t>(at + 1)) {
      if (config<uint8_t>(at) == PCI_CAP_ID_MSIX) msix = at;
      if (config<uint8_t>(at) == PCI_CAP_ID_VNDR) out[config<uint8_t>(at + 3)] = at;
    }
    return out;
  }
  uint32_t place(uint8_t type) { return config<uint32_t>(structures.at(type) + 8); }
  template <class T>
  T get(uint8_t type, uint64_t offset) {
    T value{};
    pci->read(config<uint8_t>(structures.at(type) + 4), {place(type) + offset}, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <class T>
  void set(uint8_t type, uint64_t offset, T value) {
    pci->write(config<uint8_t>(structures.at(type) + 4), {place(type) + offset}, std::as_bytes(std::span(&value, 1)));
  }
  template <class T>
  T common(uint64_t offset) {
    return get<T>(VIRTIO_PCI_CAP_COMMON_CFG, offset);
  }
  template <class T>
  void set_common(uint64_t offset, T value) {
    set<T>(VIRTIO_PCI_CAP_COMMON_CFG, offset, value);
  }
  // Vector v's message is 0x40 + v for processor v.
  void enable_msix() {
    for (uint64_t v = 0; v < 3; ++v) {
      uint64_t address = 0xfee00000 + 0x1000 * v;
      uint32_t data = 0x40 + static_cast<uint32_t>(v);
      auto write = [&](uint64_t offset, uint32_t value) {
        pci->write(0, {Pci::kMsixTable + 16 * v + offset}, std::as_bytes(std::span(&value, 1)));
      };
      write(0, static_cast<uint32_t>(address)), write(4, 0), write(8, data), write(12, 0);
    }
    set_config<uint16_t>(PCI_COMMAND, PCI_COMMAND_MASTER);
    set_config<uint16_t>(msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE);
  }
  void start(uint16_t config_vector = 0xffff, uint16_t queue_vector = 0xffff) {
    set_common<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 0);
    set_common<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 3);
    set_common<uint16_t>(VIRTIO_PCI_COMMON_MSIX, config_vector);
    set_common<uint32_t>(VIRTIO_PCI_COMMON_GFSELECT, 1);
    set_common<uint32_t>(VIRTIO_PCI_COMMON_GF, 1);  // VERSION_1
    set_common<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 3 | 8);
    ASSERT_EQ(common<uint8_t>(VIRTIO_PCI_COMMON_STATUS), 3 | 8);
    for (uint16_t i = 0; i < common<uint16_t>(VIRTIO_PCI_COMMON_NUMQ); ++i) {
      set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, i);
      drivers.push_back(std::make_unique<FakeDriver>(heap, Queue::Format::kSplit, 8, false, false));
      auto& c = drivers[i]->config;
      set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE, 8);
      set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, queue_vector);
      set_common<uint32_t>(VIRTIO_PCI_COMMON_Q_DESCLO, static_cast<uint32_t>(raw(c.descriptors)));
      set_common<uint32_t>(VIRTIO_PCI_COMMON_Q_DESCHI, 0);
      set_common<uint64_t>(VIRTIO_PCI_COMMON_Q_AVAILLO, raw(c.driver));
      set_common<uint32_t>(VIRTIO_PCI_COMMON_Q_USEDLO, static_cast<uint32_t>(raw(c.device)));
      set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE, 1);
    }
    set_common<uint8_t>(VIRTIO_PCI_COMMON_STATUS, 3 | 8 | 4);
  }
  void flush_request(unsigned queue, bool bell = false) {
    virtio_blk_outhdr header{VIRTIO_BLK_T_FLUSH, 0, 0};
    auto& d = *drivers[queue];
    d.add({d.string(std::string(reinterpret_cast<char*>(&header), sizeof header)), d.room(1)});
    uint32_t stride = config<uint32_t>(structures.at(VIRTIO_PCI_CAP_NOTIFY_CFG) + 16);
    set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, queue);
    uint64_t at = stride * common<uint16_t>(VIRTIO_PCI_COMMON_Q_NOFF);
    if (bell) {
      for (auto& b : pci->bar(0).doorbells)
        if (b.offset == place(VIRTIO_PCI_CAP_NOTIFY_CFG) + at) b.ring();
    } else {
      set<uint16_t>(VIRTIO_PCI_CAP_NOTIFY_CFG, at, queue);
    }
    while (!d.used()) loop->step(50);
    loop->step(0);
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  FakeDisk::Controls disk;
  FakeMsi msi;
  FakeIrq irq;
  std::unique_ptr<Pci> pci;
  std::map<uint8_t, unsigned> structures;
  unsigned msix = 0;
  std::vector<std::unique_ptr<FakeDriver>> drivers;
};

TEST_F(PciTest, IdentityAndCapabilities) {
  make();
  EXPECT_EQ(config<uint16_t>(PCI_VENDOR_ID), 0x1af4);
  EXPECT_EQ(config<uint16_t>(PCI_DEVICE_ID), 0x1042);
  EXPECT_GE(config<uint8_t>(PCI_REVISION_ID), 1);
  for (uint8_t type : {VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_CAP_DEVICE_CFG,
                       VIRTIO_PCI_CAP_PCI_CFG})
    EXPECT_TRUE(structures.contains(type)) << int(type);
  EXPECT_EQ(config<uint8_t>(structures[VIRTIO_PCI_CAP_NOTIFY_CFG] + 2), 20);
  EXPECT_EQ(config<uint8_t>(structures[VIRTIO_PCI_CAP_COMMON_CFG] + 2), 16);
  EXPECT_EQ(config<uint16_t>(msix + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE, 2);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_NUMQ), 2);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE), 256);
  EXPECT_EQ(get<uint64_t>(VIRTIO_PCI_CAP_DEVICE_CFG, 0), 2048u);
}

TEST_F(PciTest, PinInterruptsAreClearedByReadingIsr) {
  make(false);
  start();
  flush_request(0);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 1);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 0);
}

TEST_F(PciTest, VectorsArriveAsMessages) {
  make();
  enable_msix();
  start(0, 2);
  flush_request(1, true);
  ASSERT_EQ(msi.sent.size(), 1u);
  EXPECT_EQ(msi.sent[0], (std::pair<uint64_t, uint32_t>(0xfee02000, 0x42)));
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 0);
}

// 4.1.5.1.2: no word of DRIVER_OK; illumos maps them after it, and fails when they do not read back.
TEST_F(PciTest, VectorsCanBeMappedWhileTheDeviceWorks) {
  make();
  enable_msix();
  start();
  set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_SELECT, 1);
  set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 2);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), 2);
  flush_request(1);
  ASSERT_EQ(msi.sent.size(), 1u);
  EXPECT_EQ(msi.sent[0], (std::pair<uint64_t, uint32_t>(0xfee02000, 0x42)));
  set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 0xffff);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), 0xffff);
  flush_request(1);
  EXPECT_EQ(msi.sent.size(), 1u);
}

// 4.1.4.5.1: "MUST set the Device Configuration Interrupt bit in ISR status before sending a device configuration change notification", however it is sent.
TEST_F(PciTest, ConfigurationChangesAreInIsrWithMsixToo) {
  make();
  enable_msix();
  start(1, 2);
  disk.bytes.resize(2 << 20);
  loop->call([&] { dynamic_cast<Blk&>(pci->device()).disk_resized(); });
  ASSERT_EQ(msi.sent.size(), 1u);
  EXPECT_EQ(msi.sent[0].second, 0x41u);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 2);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 0);
}

// PCI Local Bus 3.0, 6.8.3.3: with MSI-X enabled the function must not use its pin. virtio 4.1.4.5.1: without it the pin is the OR of ISR's bits.
TEST_F(PciTest, PinRestsWhileMsixIsEnabled) {
  make();
  start();
  flush_request(0);
  EXPECT_TRUE(irq.level);
  set_config<uint16_t>(msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE);
  EXPECT_FALSE(irq.level);
  EXPECT_FALSE(config<uint16_t>(PCI_STATUS) & PCI_STATUS_INTERRUPT);
  set_config<uint16_t>(msix + PCI_MSIX_FLAGS, 0);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 1);
  EXPECT_FALSE(irq.level);
}

// PCI Local Bus 3.0, 6.2.2: without Bus Master a function makes no accesses. It is all that keeps a device off a kernel started by kexec, until
// that one's driver resets it; hence, as in QEMU, DRIVER_OK is gone with it.
TEST_F(PciTest, WithoutBusMasterNothingIsTouchedUntilReset) {
  make(false);
  set_config<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  start();
  flush_request(0);
  set_config<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY);
  EXPECT_EQ(common<uint8_t>(VIRTIO_PCI_COMMON_STATUS), 3 | 8);
  virtio_blk_outhdr header{VIRTIO_BLK_T_FLUSH, 0, 0};
  drivers[0]->add({drivers[0]->string(std::string(reinterpret_cast<char*>(&header), sizeof header)), drivers[0]->room(1)});
  set<uint16_t>(VIRTIO_PCI_CAP_NOTIFY_CFG, 0, 0);
  set_config<uint16_t>(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  for (int i = 0; i < 4; ++i) loop->step(0);
  EXPECT_EQ(disk.flushes, 1u);
  EXPECT_FALSE(drivers[0]->used());
  drivers.clear();
  start();
  flush_request(0);
  EXPECT_EQ(disk.flushes, 2u);
}

TEST_F(PciTest, ImpossibleVectorReadsBackAsNone) {
  make();
  set_common<uint16_t>(VIRTIO_PCI_COMMON_MSIX, 2);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_MSIX), 2);
  set_common<uint16_t>(VIRTIO_PCI_COMMON_MSIX, 3);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_MSIX), 0xffff);
  set_common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX, 77);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_MSIX), 0xffff);
}

TEST_F(PciTest, BothWaysOfRingingWork) {
  make();
  start();
  flush_request(0, false);
  flush_request(0, true);
  flush_request(1, true);
  EXPECT_EQ(disk.flushes, 3u);
}

TEST_F(PciTest, ConfigurationWindowReachesTheBar) {
  make();
  unsigned w = structures[VIRTIO_PCI_CAP_PCI_CFG];
  auto aim = [&](uint32_t offset, uint32_t length) {
    set_config<uint8_t>(w + 4, 0);
    set_config<uint32_t>(w + 8, offset);
    set_config<uint32_t>(w + 12, length);
  };
  aim(place(VIRTIO_PCI_CAP_DEVICE_CFG), 4);
  EXPECT_EQ(config<uint32_t>(w + 16), 2048u);
  aim(place(VIRTIO_PCI_CAP_COMMON_CFG) + VIRTIO_PCI_COMMON_STATUS, 1);
  set_config<uint32_t>(w + 16, 3);
  EXPECT_EQ(common<uint8_t>(VIRTIO_PCI_COMMON_STATUS), 3);
  EXPECT_EQ(config<uint8_t>(w + 16), 3);
  // Nonsense touches nothing.
  for (auto [offset, length] : {std::pair(1u, 4u), {0u, 3u}, {0x7ffffff0u, 4u}, {0u, 0u}}) {
    aim(offset, length);
    set_config<uint32_t>(w + 16, 0);
    config<uint32_t>(w + 16);
  }
  EXPECT_EQ(common<uint8_t>(VIRTIO_PCI_COMMON_STATUS), 3);
}

TEST_F(PciTest, RandomAccessesAreHarmless) {
  make();
  uint32_t seed = 1;
  auto random = [&] { return seed = seed * 1664525 + 1013904223, seed >> 8; };
  for (int i = 0; i < 50000; ++i) {
    std::byte data[8];
    for (auto& b : data) b = static_cast<std::byte>(random());
    size_t size = 1u << random() % 4;
    uint64_t offset = random() % Pci::kBarSize;
    if (random() % 2) offset %= 0x40;
    random() % 2 ? pci->write(0, {offset}, {data, size}) : pci->read(0, {offset}, {data, size});
    if (i % 64 == 0) loop->step(0);
  }
  make();
}

TEST_F(PciTest, SaveLoadSaveIsTheSame) {
  make();
  start(0, 1);
  flush_request(0);
  MapArchive first, second;
  pci->fields(first);
  make();
  auto loader = first.loader();
  pci->fields(loader);
  pci->fields(second);
  EXPECT_EQ(first.fields, second.fields);
  flush_request(0);
  EXPECT_EQ(disk.flushes, 2u);
}

TEST_F(PciTest, LoadedInterruptIsOnThePinUntilIsrIsRead) {
  make(false);
  start();
  flush_request(0);
  MapArchive saved;
  pci->fields(saved);
  make(false);
  irq.level = false;  // another machine's
  auto loader = saved.loader();
  pci->fields(loader);
  EXPECT_TRUE(irq.level);
  EXPECT_TRUE(config<uint16_t>(PCI_STATUS) & PCI_STATUS_INTERRUPT);
  EXPECT_EQ(get<uint8_t>(VIRTIO_PCI_CAP_ISR_CFG, 0), 1);
  EXPECT_FALSE(irq.level);
}

TEST_F(PciTest, ResetForgetsEverything) {
  make();
  start(0, 1);
  pci->reset(ResetKind::kWarm);
  EXPECT_EQ(common<uint8_t>(VIRTIO_PCI_COMMON_STATUS), 0);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_MSIX), 0xffff);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_ENABLE), 0);
  EXPECT_EQ(common<uint16_t>(VIRTIO_PCI_COMMON_Q_SIZE), 256);
}

}  // namespace
}  // namespace vireo::virtio
