// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk.h"

#include <gtest/gtest.h>

#include <thread>

#include "virtio/disk_fake.h"
#include "virtio/guest_fake.h"

namespace vireo::virtio {
namespace {


class BlkTest : public testing::TestWithParam<bool> {
 protected:
  BlkTest() { disk.bytes.resize(1 << 20); }
  void make(BlkConfig config = {.serial = "VIREO-0001"}) {
    auto blk = Blk::create(config, {*loop}, std::make_unique<FakeDisk>(disk));
    ASSERT_TRUE(blk);
    guest = std::make_unique<FakeGuest>(std::move(*blk), *memory, heap, *loop);
  }
  void start(uint64_t without = 0) {
    guest->start(guest->offered() & ~without & ~(GetParam() ? 0 : bit(VIRTIO_F_RING_PACKED)));
  }
  struct Outcome {
    int status;
    uint32_t used;
  };
  Outcome request(uint32_t type, uint64_t sector, std::vector<Buffer> data, unsigned queue = 0) {
    Buffer status = guest->queues[queue]->string("\xff", true);
    auto used = guest->request(queue, chain(type, sector, data, status));
    return {static_cast<unsigned char>(guest->queues[queue]->text(status.address, 1)[0]), used.length};
  }
  std::vector<Buffer> chain(uint32_t type, uint64_t sector, std::vector<Buffer> data, Buffer status) {
    virtio_blk_outhdr header{type, 0, sector};
    Buffer head = guest->queues[0]->string(std::string(reinterpret_cast<char*>(&header), sizeof header));
    data.insert(data.begin(), head);
    data.push_back(status);
    return data;
  }
  Buffer string(const std::string& s) { return guest->queues[0]->string(s); }
  Buffer room(uint32_t n) { return guest->queues[0]->room(n); }
  Buffer range(uint64_t sector, uint32_t count, uint32_t flags) {
    virtio_blk_discard_write_zeroes r{sector, count, flags};
    return string(std::string(reinterpret_cast<char*>(&r), sizeof r));
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::unique_ptr<GuestMemory> memory = test_memory();
  FakeHeap heap{*memory};
  FakeDisk::Controls disk;
  std::unique_ptr<FakeGuest> guest;
};

TEST_P(BlkTest, AFailedRequestIsToldWithTheDisksName) {
  make({.name = "root.qcow2"});
  start();
  disk.error = ENOSPC;
  testing::internal::CaptureStderr();
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {string(std::string(512, 'x'))}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("disk root.qcow2: a guest request failed: No space left on device\n"), std::string::npos);
}

TEST_P(BlkTest, ConfigSpaceDescribesTheDisk) {
  make({.queues = 3});
  EXPECT_EQ(guest->get(VIRTIO_MMIO_DEVICE_ID), 2u);
  EXPECT_EQ(guest->config<uint64_t>(0), (1u << 20) / 512);
  EXPECT_EQ(guest->config<uint32_t>(offsetof(virtio_blk_config, seg_max)), 254u);
  EXPECT_EQ(guest->config<uint32_t>(offsetof(virtio_blk_config, blk_size)), 512u);
  EXPECT_EQ(guest->config<uint8_t>(offsetof(virtio_blk_config, physical_block_exp)), 3u);
  EXPECT_EQ(guest->config<uint16_t>(offsetof(virtio_blk_config, num_queues)), 3u);
  EXPECT_TRUE(guest->offered() & bit(VIRTIO_BLK_F_MQ));
  EXPECT_FALSE(guest->offered() & bit(VIRTIO_BLK_F_RO));
}

TEST_P(BlkTest, WritesAndReadsBack) {
  make();
  start();
  std::string text(1024, 'w');
  auto out = request(VIRTIO_BLK_T_OUT, 3, {string(text.substr(0, 100)), string(text.substr(100))});
  EXPECT_EQ(out.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(out.used, 1u);
  EXPECT_EQ(memcmp(&disk.bytes[1536], text.data(), text.size()), 0);
  Buffer a = room(512), b = room(512);
  auto in = request(VIRTIO_BLK_T_IN, 3, {a, b});
  EXPECT_EQ(in.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(in.used, 1025u);
  EXPECT_EQ(guest->queues[0]->text(b.address, 512), std::string(512, 'w'));
  EXPECT_TRUE(guest->irq.level);
  EXPECT_EQ(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS), 1u);
  guest->set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_FALSE(guest->irq.level);
}

TEST_P(BlkTest, IdIsTheSerialPaddedWithZeroes) {
  make();
  start();
  Buffer id = room(20);
  auto out = request(VIRTIO_BLK_T_GET_ID, 0, {id});
  EXPECT_EQ(out.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(out.used, 21u);
  EXPECT_EQ(guest->queues[0]->text(id.address, 20), std::string("VIREO-0001") + std::string(10, 0));
}

TEST_P(BlkTest, OutOfRangeAndOddSizesFail) {
  make();
  start();
  uint64_t last = (1 << 20) / 512 - 1;
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, last, {room(512)}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, last, {room(1024)}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, ~0ull, {room(512)}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {string("short")}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(77, 0, {}).status, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(disk.writes, 0u);
  EXPECT_FALSE(guest->needs_reset());
}

TEST_P(BlkTest, RequestWithoutStatusNeedsReset) {
  make();
  start();
  guest->set(VIRTIO_MMIO_INTERRUPT_ACK, 3);
  guest->queues[0]->add({string("tiny")});
  guest->ring(0);
  guest->settle();
  EXPECT_TRUE(guest->needs_reset());
  EXPECT_TRUE(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
  start();  // and works again afterwards
  EXPECT_FALSE(guest->needs_reset());
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}).status, VIRTIO_BLK_S_OK);
}

TEST_P(BlkTest, HostErrorsBecomeIoErrors) {
  make();
  start();
  disk.error = EIO;
  auto in = request(VIRTIO_BLK_T_IN, 0, {room(512)});
  EXPECT_EQ(in.status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(in.used, 0u);
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}).status, VIRTIO_BLK_S_IOERR);
}

TEST_P(BlkTest, ReadOnlyDiskRefusesWrites) {
  disk.read_only = true;
  make();
  EXPECT_TRUE(guest->offered() & bit(VIRTIO_BLK_F_RO));
  EXPECT_FALSE(guest->offered() & bit(VIRTIO_BLK_F_DISCARD));
  start();
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {string(std::string(512, 'x'))}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {range(0, 1, 0)}).status, VIRTIO_BLK_S_UNSUPP);
}

TEST_P(BlkTest, DiscardAndWriteZeroesTakeRanges) {
  make();
  start();
  disk.bytes.assign(disk.bytes.size(), std::byte{7});
  EXPECT_EQ(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, {range(2, 1, 0), range(4, 2, 1)}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(disk.zeroes, 2u);
  EXPECT_EQ(disk.unmaps, 1u);
  EXPECT_EQ(disk.bytes[1024], std::byte{0});
  EXPECT_EQ(disk.bytes[1536], std::byte{7});
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {range(0, 8, 0)}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {range(0, 8, 1)}).status, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {range(2047, 2, 0)}).status, VIRTIO_BLK_S_IOERR);
  // 5.2.6.2: "MUST set the status byte to VIRTIO_BLK_S_UNSUPP [...] if any unknown flag is set", whatever else is wrong.
  EXPECT_EQ(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, {range(2047, 2, 0), range(0, 8, 2)}).status, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {string("odd")}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(disk.discards, 1u);
}

TEST_P(BlkTest, WriteThroughFlushesBeforeItAnswers) {
  make();
  start();
  EXPECT_EQ(guest->config<uint8_t>(32), 1);
  Buffer data = string(std::string(512, 'x'));
  request(VIRTIO_BLK_T_OUT, 0, {data});
  EXPECT_EQ(disk.flushes, 0u);
  guest->set_config<uint8_t>(32, 0);
  EXPECT_EQ(guest->config<uint8_t>(32), 0);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {data}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(disk.flushes, 1u);
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(guest->config<uint8_t>(32), 1);
  // A driver that knows neither cache control nor flush must not lose data either.
  start(bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_CONFIG_WCE));
  request(VIRTIO_BLK_T_OUT, 0, {data});
  EXPECT_EQ(disk.flushes, 2u);
}

// 5.2.5.2: "If VIRTIO_BLK_F_CONFIG_WCE is negotiated but VIRTIO_BLK_F_FLUSH is not, the device MUST initialize writeback to 0."
TEST_P(BlkTest, DriverThatCannotFlushGetsNoCache) {
  make();
  start(bit(VIRTIO_BLK_F_FLUSH));
  EXPECT_EQ(guest->config<uint8_t>(32), 0);
  request(VIRTIO_BLK_T_OUT, 0, {string(std::string(512, 'x'))});
  EXPECT_EQ(disk.flushes, 1u);
  start();
  EXPECT_EQ(guest->config<uint8_t>(32), 1);
}

TEST_P(BlkTest, EveryQueueWorks) {
  make({.queues = 4});
  start();
  ASSERT_EQ(guest->queues.size(), 4u);
  for (unsigned q = 0; q < 4; ++q) EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}, q).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(disk.flushes, 4u);
}

TEST_P(BlkTest, ResetWaitsForRequestsInFlight) {
  make();
  start();
  disk.hold = true;
  Buffer in = room(512), status = room(1);
  disk.bytes[0] = std::byte{'!'};
  guest->queues[0]->add(chain(VIRTIO_BLK_T_IN, 0, {in}, status));
  guest->ring(0);
  guest->settle();
  EXPECT_FALSE(guest->queues[0]->used());
  guest->set(VIRTIO_MMIO_STATUS, 0);
  EXPECT_TRUE(guest->queues[0]->used());
  EXPECT_EQ(guest->get(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
  EXPECT_FALSE(guest->irq.level);
}

TEST_P(BlkTest, SavedStateGoesOnInAnotherDevice) {
  make();
  start();
  Buffer data = string(std::string(512, 'x'));
  for (int i = 0; i < 70; ++i) request(VIRTIO_BLK_T_OUT, i, {data});
  guest->set_config<uint8_t>(32, 0);
  Buffer status = room(1);
  guest->queues[0]->add(chain(VIRTIO_BLK_T_OUT, 100, {data}, status));  // not rung for yet
  MapArchive saved;
  guest->mmio->pause();
  guest->mmio->fields(saved);

  auto queues = std::move(guest->queues);
  uint64_t accepted = guest->accepted;
  make();
  guest->queues = std::move(queues);
  guest->accepted = accepted;
  auto loader = saved.loader();
  guest->mmio->fields(loader);
  guest->wait_used(0);
  EXPECT_EQ(disk.bytes[100 * 512], std::byte{'x'});
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 101, {data}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(guest->config<uint8_t>(32), 0);
}

// The loop on its own thread, the guest on this one, in a race with resets.
TEST_P(BlkTest, SurvivesResetsUnderLoad) {
  make();
  std::thread io([&] { loop->run(); });
  for (int round = 0; round < 30; ++round) {
    ASSERT_TRUE(guest->negotiate(guest->offered() & ~(GetParam() ? 0 : bit(VIRTIO_F_RING_PACKED))));
    guest->set_up_queues(16);
    guest->driver_ok();
    for (int i = 0; i < 12; ++i) {
      guest->queues[0]->add(chain(VIRTIO_BLK_T_IN, i, {room(512)}, room(1)), true);
      guest->ring(0);
    }
  }
  guest->set(VIRTIO_MMIO_STATUS, 0);
  loop->stop();
  io.join();
}

TEST(BlkCreate, MistakesAreNamed) {
  auto loop = std::move(*EventLoop::create());
  FakeDisk::Controls disk;
  auto make = [&](BlkConfig config) { return Blk::create(config, {*loop}, std::make_unique<FakeDisk>(disk)).error().message; };
  EXPECT_EQ(make({.serial = "123456789012345678901"}), "disk serial '123456789012345678901': longer than 20 bytes");
  EXPECT_EQ(make({.queues = 0}), "disk queues=0: 1 to 64");
  EXPECT_EQ(make({.queue_size = 100}), "disk queue-size=100: a power of two from 4 to 1024");
}

INSTANTIATE_TEST_SUITE_P(Formats, BlkTest, testing::Bool(), [](const auto& info) { return info.param ? "Packed" : "Split"; });

}  // namespace
}  // namespace vireo::virtio
