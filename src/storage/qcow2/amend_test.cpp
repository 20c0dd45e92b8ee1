// SPDX-License-Identifier: Apache-2.0
// Changes of a whole image: whatever they do to the tables, the contents stay and the check finds nothing.
#include <gtest/gtest.h>

#include "storage/file/memory_file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

constexpr uint64_t kCluster = 4096, kSize = 1 << 20;

std::unique_ptr<Qcow2> fresh(unsigned bits, MemoryFile*& file) {
  auto made = std::make_unique<MemoryFile>();
  file = made.get();
  CreateConfig config{.size = kSize, .cluster_size = kCluster, .refcount_bits = bits};
  EXPECT_TRUE(create(*made, config));
  auto image = Qcow2::open(std::move(made), nullptr, {});
  EXPECT_TRUE(image);
  return std::move(*image);
}

std::vector<std::byte> pattern(uint64_t length, int value) { return std::vector<std::byte>(length, static_cast<std::byte>(value)); }

void expect_sound(MemoryFile& file) {
  std::string said;
  auto result = check(file, Repair::kNone, [&](const std::string& line) { said += line + "\n"; });
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->corruptions + result->errors + result->leaks, 0u) << said;
}

bool reads_as(Qcow2& image, uint64_t offset, uint64_t length, int value) {
  std::vector<std::byte> data(length);
  return image.read(offset, data) && data == pattern(length, value);
}

TEST(Amend, EveryWidthBecomesEveryOther) {
  for (unsigned from = 0; from <= 6; ++from)
    for (unsigned to = 0; to <= 6; ++to) {
      MemoryFile* file;
      auto image = fresh(1u << from, file);
      ASSERT_TRUE(image->write(8192, std::span<const std::byte>(pattern(200000, 0x5a))));
      ASSERT_TRUE(image->change_refcount_width(to, [](uint64_t, uint64_t) {}));
      EXPECT_EQ(image->header().geometry.refcount_order, to);
      ASSERT_TRUE(image->write(500000, std::span<const std::byte>(pattern(100000, 0x33))));
      ASSERT_TRUE(image->flush());
      EXPECT_TRUE(reads_as(*image, 8192, 200000, 0x5a) && reads_as(*image, 500000, 100000, 0x33));
      expect_sound(*file);
    }
}

TEST(Amend, AWidthThatIsTooSmallIsRefusedWithNothingTaken) {
  MemoryFile* file;
  auto image = fresh(16, file);
  ASSERT_TRUE(image->write(0, std::span<const std::byte>(pattern(kCluster, 1))));
  ASSERT_TRUE(image->create_snapshot("s", 0, 0));
  auto changed = image->change_refcount_width(0, [](uint64_t, uint64_t) {});
  ASSERT_FALSE(changed);
  EXPECT_NE(changed.error().message.find("has a refcount of 2"), std::string::npos);
  ASSERT_TRUE(image->flush());
  expect_sound(*file);
}

TEST(Amend, ZeroClustersOfSnapshotsAreExpandedToo) {
  MemoryFile* file;
  auto image = fresh(16, file);
  ASSERT_TRUE(image->write(0, std::span<const std::byte>(pattern(2 * kCluster, 1))));
  ASSERT_TRUE(image->write_zeroes(0, kCluster, false));  // keeps its space
  ASSERT_TRUE(image->write_zeroes(4 * kCluster, kCluster, true));
  ASSERT_TRUE(image->create_snapshot("s", 0, 0));
  ASSERT_TRUE(image->write(0, std::span<const std::byte>(pattern(kCluster, 2))));
  ASSERT_TRUE(image->expand_zero_clusters([](uint64_t, uint64_t) {}));
  Header h = image->header();
  h.version = 2;
  h.compatible = h.autoclear = 0;
  h.set(extension::kFeatureNames, {});
  ASSERT_TRUE(image->rewrite_header(h));
  EXPECT_TRUE(reads_as(*image, 0, kCluster, 2));
  ASSERT_TRUE(image->apply_snapshot(0));
  EXPECT_TRUE(reads_as(*image, 0, kCluster, 0) && reads_as(*image, kCluster, kCluster, 1) && reads_as(*image, 4 * kCluster, kCluster, 0));
  ASSERT_TRUE(image->flush());
  expect_sound(*file);
}

TEST(Amend, AnEmptiedImageIsAsShortAsANewOne) {
  MemoryFile* file;
  auto image = fresh(16, file);
  const uint64_t before = file->size();
  ASSERT_TRUE(image->write(0, std::span<const std::byte>(pattern(kSize, 1))));
  ASSERT_TRUE(image->make_empty());
  EXPECT_LE(file->size(), before + kCluster);
  expect_sound(*file);
}

// The part of the first cluster that was there before shows what lies below.
TEST(Amend, PreallocatingAGrownOverlayKeepsWhatItsBackingFileHas) {
  MemoryFile *below, *file;
  std::shared_ptr<Qcow2> base = fresh(16, below);
  ASSERT_TRUE(base->write(0, std::span<const std::byte>(pattern(1024, 7))));
  auto made = std::make_unique<MemoryFile>();
  file = made.get();
  ASSERT_TRUE(create(*made, {.size = 1024, .cluster_size = kCluster, .backing_file = "base", .backing_format = "qcow2"}));
  auto image = std::move(*Qcow2::open(std::move(made), nullptr, {}));
  image->set_backing(base);
  ASSERT_TRUE(image->resize(3 * kCluster, Preallocation::kMetadata));
  EXPECT_TRUE(reads_as(*image, 0, 1024, 7) && reads_as(*image, 1024, 3 * kCluster - 1024, 0));
  ASSERT_TRUE(image->flush());
  expect_sound(*file);
}

TEST(VmState, LiesBehindTheDiskAndGoesWithASnapshot) {
  MemoryFile* file;
  auto image = fresh(16, file);
  ASSERT_TRUE(image->write(kSize - 512, std::span<const std::byte>(pattern(512, 9))));
  ASSERT_TRUE(image->write_vm_state(100, pattern(20000, 0x77)));
  ASSERT_TRUE(image->write_vm_state(5000, pattern(10, 0x78)));  // inside of what is there
  std::vector<std::byte> back(20000);
  auto expected = pattern(20000, 0x77);
  std::fill_n(expected.begin() + 4900, 10, std::byte{0x78});
  ASSERT_TRUE(image->read_vm_state(100, back));
  EXPECT_EQ(back, expected);
  ASSERT_TRUE(image->create_snapshot("s", 0, 0));
  ASSERT_TRUE(image->write_vm_state(100, pattern(20000, 1)));
  ASSERT_TRUE(image->apply_snapshot(0));
  ASSERT_TRUE(image->read_vm_state(100, back));
  EXPECT_EQ(back, expected);
  EXPECT_TRUE(reads_as(*image, kSize - 512, 512, 9));
  EXPECT_FALSE(image->write_vm_state(uint64_t{1} << 62, back));
  // A disk that grows over it does not show it.
  ASSERT_TRUE(image->delete_snapshot(0));
  ASSERT_TRUE(image->resize(2 * image->vm_state_start(), Preallocation::kOff));
  EXPECT_TRUE(reads_as(*image, kSize, image->size() - kSize, 0));
  ASSERT_TRUE(image->flush());
  expect_sound(*file);
}

}  // namespace
}  // namespace vireo::storage::qcow2
