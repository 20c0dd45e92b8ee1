// SPDX-License-Identifier: Apache-2.0
// Rows of clusters that are longer than one refcount block counts, as tables of images with small clusters need them.
#include <gtest/gtest.h>

#include <random>

#include "storage/file/memory_file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

constexpr uint64_t kCluster = 512, kPerBlock = kCluster / 8, kL2Span = kCluster / 8 * kCluster;

// The file stays with the test.
std::unique_ptr<Qcow2> make(uint64_t size, MemoryFile*& file) {
  auto owned = std::make_unique<MemoryFile>();
  file = owned.get();
  EXPECT_TRUE(create(*owned, {.size = size, .cluster_size = kCluster, .refcount_bits = 64}));
  auto opened = Qcow2::open(std::move(owned), nullptr, {});
  EXPECT_TRUE(opened);
  return opened ? std::move(*opened) : nullptr;
}

std::string wrong(File& file) {
  std::string said;
  auto found = check(file, Repair::kNone, [&](const std::string& line) { said += line + "\n"; });
  if (!found) return found.error().message;
  return found->corruptions || found->errors ? said : "";
}

TEST(LongRows, ASnapshotOfAnImageWithALongTableTakesNoMoreThanItNeeds) {
  MemoryFile* file;
  const uint64_t size = 20 * kPerBlock * kCluster / 8 * kL2Span;  // an L1 table of as many clusters as 20 blocks count
  auto image = make(size, file);
  ASSERT_TRUE(image);
  const uint64_t table = size / kL2Span * 8, before = file->size();
  ASSERT_GT(table / kCluster, kPerBlock);
  ASSERT_TRUE(image->create_snapshot("a", 1, 2));
  // The table, its blocks, what one range has left over at either end, the snapshot list.
  EXPECT_LT(file->size(), before + table + (table / kCluster / (kPerBlock - 1) + 2 * kPerBlock + 8) * kCluster);
  const uint64_t once = file->size();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(image->delete_snapshot(0));
    ASSERT_TRUE(image->create_snapshot("b", 1, 2));
  }
  EXPECT_LE(file->size(), once + 2 * kPerBlock * kCluster) << "freed rows are used again";
  ASSERT_TRUE(image->flush());
  EXPECT_EQ(wrong(*file), "");
}

// A table that grows without a dirty bit: after a power cut at any write the counts are right, leaks aside.
TEST(LongRows, APowerCutLeavesLeaksAtWorst) {
  std::mt19937_64 random(1);
  // Blocks in one sector of the refcount table, and in several.
  for (uint64_t position : {kPerBlock * 2 * kCluster / 8 * kL2Span, kPerBlock * kPerBlock * kCluster / 8 * kL2Span}) {
    uint64_t cuts = 0;
    for (uint64_t at = 0;; ++at) {
      MemoryFile* file;
      auto image = make(1 << 20, file);
      ASSERT_TRUE(image);
      file->keep_history = true;
      std::vector<std::unique_ptr<MemoryFile>> left;
      uint64_t writes = 0;
      file->on_change = [&, file] {
        if (writes++ == at)
          for (unsigned keep : {0u, 30u, 40u, 50u, 60u, 70u}) left.push_back(file->crash(random, keep));
      };
      const std::vector<std::byte> data(512, std::byte{1});
      ASSERT_TRUE(image->write_vm_state(position, data));
      ASSERT_TRUE(image->flush());
      file->on_change = nullptr;
      if (left.empty()) break;
      ++cuts;
      for (auto& crashed : left) ASSERT_EQ(wrong(*crashed), "") << "position " << position << ", cut before write " << at;
      image->abandon();
    }
    EXPECT_GT(cuts, 10u);
  }
}

// The header names the new table, or the old one: nobody knows, where the flush behind it failed.
TEST(Refcounts, ATableThatTheHeaderMayNameIsNotWrittenOver) {
  MemoryFile* file;
  auto image = make(8 << 20, file);
  ASSERT_TRUE(image);
  bool named = false, failed = false;
  file->fault = [&](MemoryFile::Op op, uint64_t offset, uint64_t) {
    if (op == MemoryFile::Op::kWrite && offset == at::kReftable) named = true;
    return op == MemoryFile::Op::kFlush && named && !std::exchange(failed, true) ? EIO : 0;
  };
  const std::vector<std::byte> data(kCluster, std::byte{0xff});
  uint64_t at = 0;
  for (; at < 8 << 20 && !failed; at += kCluster) (void)image->write(at, data);
  ASSERT_TRUE(failed);
  for (uint64_t end = std::min<uint64_t>(8 << 20, at + 100 * kCluster); at < end; at += kCluster) (void)image->write(at, data);
  EXPECT_FALSE(image->flush());
  image->abandon();
  EXPECT_EQ(wrong(*file), "");
}

// The table grows while a commit has taken blocks and not written them yet: a power cut then must not find a table that names what is not there.
TEST(Refcounts, ATableThatGrowsNamesOnlyBlocksThatAreInTheFile) {
  MemoryFile file;
  ASSERT_TRUE(create(file, {.size = 1 << 20, .cluster_size = kCluster, .refcount_bits = 64}));
  auto header = Header::read(file);
  ASSERT_TRUE(header);
  Refcounts counts(file, *header, 4 << 20);
  ASSERT_TRUE(counts.load());
  const uint64_t before = header->reftable_offset;
  for (uint64_t i = 0; i < (kPerBlock - 2) * kPerBlock; ++i) ASSERT_TRUE(counts.allocate_cluster());
  const auto taken = counts.blocks().take();
  ASSERT_GT(taken.size(), 10u);
  while (header->reftable_offset == before) ASSERT_TRUE(counts.allocate_cluster());
  auto cut = file.copy();
  auto after = Header::read(*cut);
  ASSERT_TRUE(after);
  ASSERT_NE(after->reftable_offset, before);
  Refcounts there(*cut, *after, 4 << 20);
  ASSERT_TRUE(there.load());
  uint64_t blocks = 0;
  for (uint64_t entry : there.table()) {
    if (!entry) continue;
    ++blocks;
    auto count = there.get(entry / kCluster);
    ASSERT_TRUE(count);
    ASSERT_EQ(*count, 1u) << "the block at " << entry;
  }
  EXPECT_GE(blocks, kPerBlock);
}

}  // namespace
}  // namespace vireo::storage::qcow2
