// SPDX-License-Identifier: Apache-2.0
// Headers as the specification has them, and values that it forbids or that would cost too much.
#include "storage/qcow2/header.h"

#include <gtest/gtest.h>

#include "storage/file/memory_file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

std::unique_ptr<MemoryFile> made(CreateConfig config = {.size = 1 << 20}) {
  auto file = std::make_unique<MemoryFile>();
  EXPECT_TRUE(create(*file, config));
  return file;
}

template <class T>
void poke(MemoryFile& file, unsigned offset, T value) {
  std::byte bytes[sizeof(T)];
  store(bytes, value);
  ASSERT_TRUE(file.write(offset, bytes));
}

TEST(Qcow2Header, LayoutIsTheOneThatOthersUse) {
  auto file = made({.size = 64 << 20});
  auto header = Header::read(*file);
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_EQ(header->reftable_offset, 0x10000u);
  EXPECT_EQ(header->l1_offset, 0x30000u);
  EXPECT_EQ(file->size(), 196616u);
  std::byte length[4];
  ASSERT_TRUE(file->read(at::kHeaderLength, length));
  EXPECT_EQ(load<uint32_t>(length), 112u);
  EXPECT_EQ(header->find(extension::kFeatureNames)->data.size(), 384u);
}

TEST(Qcow2Header, UnknownExtensionsAndFieldsAreKept) {
  auto file = made();
  auto header = Header::read(*file);
  header->set(0x12345678, std::vector<std::byte>(13, std::byte{9}));
  header->unknown.assign(16, std::byte{5});
  auto bytes = header->serialize();
  ASSERT_TRUE(bytes);
  ASSERT_TRUE(file->write(0, *bytes));
  auto again = Header::read(*file);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->find(0x12345678)->data, std::vector<std::byte>(13, std::byte{9}));
  EXPECT_EQ(again->unknown, std::vector<std::byte>(16, std::byte{5}));
}

TEST(Qcow2Header, UnknownIncompatibleFeaturesAreRefusedByName) {
  auto file = made();
  poke<uint64_t>(*file, at::kIncompatible, 1ull << 40 | 1ull << 63);
  auto header = Header::read(*file);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(header.error().message.find("8000010000000000"), std::string::npos) << header.error().message;
}

TEST(Qcow2Header, UnknownAutoclearBitsGoWhenOpenedForWritingOnly) {
  auto file = made();
  poke<uint64_t>(*file, at::kAutoclear, 1ull << 50);
  auto copy = file->copy();
  copy->set_read_only(true);
  { ASSERT_TRUE(Qcow2::open(std::move(copy), nullptr, {})); }
  auto header = Header::read(*file);
  EXPECT_EQ(header->autoclear, 1ull << 50);
  auto opened = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(opened);
  EXPECT_EQ(Header::read((*opened)->file())->autoclear, 0u);
}

struct Bad {
  const char* what;
  unsigned offset;
  int bytes;
  uint64_t value;
};
class BadHeader : public testing::TestWithParam<Bad> {};

TEST_P(BadHeader, IsRefused) {
  auto file = made();
  const Bad& bad = GetParam();
  bad.bytes == 4 ? poke<uint32_t>(*file, bad.offset, static_cast<uint32_t>(bad.value)) : poke<uint64_t>(*file, bad.offset, bad.value);
  auto header = Header::read(*file);
  ASSERT_FALSE(header) << bad.what;
  EXPECT_FALSE(header.error().message.empty());
  EXPECT_FALSE(Qcow2::open(std::move(file), nullptr, {}));
}

INSTANTIATE_TEST_SUITE_P(Values, BadHeader, testing::Values(
    Bad{"version 4", 4, 4, 4}, Bad{"version 1", 4, 4, 1}, Bad{"cluster bits 8", 20, 4, 8}, Bad{"cluster bits 22", 20, 4, 22},
    Bad{"cluster bits 64", 20, 4, 64}, Bad{"crypt 3", 32, 4, 3}, Bad{"L1 too small", 36, 4, 0}, Bad{"L1 too large", 36, 4, 0x7fffffff},
    Bad{"L1 unaligned", 40, 8, 0x30001}, Bad{"L1 at the end of time", 40, 8, 0xffffffffffff0000}, Bad{"reftable unaligned", 48, 8, 0x10200},
    Bad{"reftable at 0", 48, 8, 0}, Bad{"reftable empty", 56, 4, 0}, Bad{"reftable huge", 56, 4, 0xffffffff}, Bad{"snapshots too many", 60, 4, 65537},
    Bad{"size huge", 24, 8, ~0ull}, Bad{"refcount order 7", 96, 4, 7}, Bad{"header length 100", 100, 4, 100}, Bad{"header length huge", 100, 4, 0x10001},
    Bad{"backing offset", 8, 8, 0x10001}, Bad{"extension length", 116, 4, 0xfffffff0}, Bad{"zstd without its bit", 104, 4, 0x01000000}));

TEST(Qcow2Header, BackingNameMustLieInTheFirstCluster) {
  auto file = made();
  poke<uint64_t>(*file, at::kBacking, 0xfff0);
  poke<uint32_t>(*file, at::kBackingSize, 17);
  EXPECT_FALSE(Header::read(*file));
}

TEST(Qcow2Check, FindsLeaksAndRepairsThem) {
  auto file = made();
  // One more cluster counted than used. The first refcount block is at 0x20000, two bytes a count.
  std::byte one[2];
  store<uint16_t>(one, 1);
  ASSERT_TRUE(file->write(0x20000 + 2 * 7, one));
  std::vector<std::string> lines;
  auto say = [&](const std::string& line) { lines.push_back(line); };
  auto found = check(*file, Repair::kNone, say);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->leaks, 1u);
  EXPECT_EQ(lines, std::vector<std::string>{"Leaked cluster 7 refcount=1 reference=0"});
  auto repaired = check(*file, Repair::kLeaks, say);
  EXPECT_EQ(repaired->leaks_fixed, 1u);
  EXPECT_EQ(check(*file, Repair::kNone, say)->leaks, 0u);
}

TEST(Qcow2Check, RebuildsALostRefcountStructure) {
  auto file = made();
  {
    auto copy = std::unique_ptr<MemoryFile>(file->copy());
    MemoryFile* raw = copy.get();
    auto image = Qcow2::open(std::move(copy), nullptr, {});
    ASSERT_TRUE(image);
    std::vector<std::byte> data(200000, std::byte{3});
    ASSERT_TRUE((*image)->write(1000 * 512, data));
    ASSERT_TRUE((*image)->close());
    file = raw->copy();
  }
  poke<uint64_t>(*file, 0x10000, 0x7fffff0000);  // the first refcount block is said to lie outside
  auto quiet = [](const std::string&) {};
  EXPECT_GT(check(*file, Repair::kNone, quiet)->corruptions, 0u);
  auto repaired = check(*file, Repair::kAll, quiet);
  ASSERT_TRUE(repaired) << repaired.error().message;
  auto now = check(*file, Repair::kNone, [](const std::string& line) { ADD_FAILURE() << line; });
  EXPECT_EQ(now->corruptions + now->leaks, 0u);
  auto image = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(image);
  std::vector<std::byte> data(200000);
  ASSERT_TRUE((*image)->read(1000 * 512, data));
  EXPECT_EQ(data[199999], std::byte{3});
}

TEST(Qcow2Overlap, AWriteToMetadataIsStoppedAndMarksTheImage) {
  auto file = made();
  MemoryFile* raw = file.get();
  {
    auto image = Qcow2::open(std::move(file), nullptr, {});
    ASSERT_TRUE(image);
    std::vector<std::byte> data(512, std::byte{1});
    ASSERT_TRUE((*image)->write(0, data));
    ASSERT_TRUE((*image)->close());
    file = raw->copy();
  }
  auto l1 = Header::read(*file)->l1_offset;
  std::byte entry[8];
  ASSERT_TRUE(file->read(l1, entry));
  uint64_t l2 = load<uint64_t>(entry) & kOffsetMask;
  store<uint64_t>(entry, kCopied | l1);  // the first cluster's data is said to lie in the L1 table
  ASSERT_TRUE(file->write(l2, entry));
  raw = file.get();
  auto image = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(image);
  std::vector<std::byte> data(512, std::byte{2});
  auto written = (*image)->write(0, data);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, EIO);
  EXPECT_TRUE(Header::read(*raw)->incompatible & incompatible::kCorrupt);
  EXPECT_FALSE((*image)->write(65536, data));
  EXPECT_FALSE(Qcow2::open(raw->copy(), nullptr, {}));  // not for writing any more
}

TEST(Qcow2Faults, AFailedWriteLeavesTheImageSound) {
  // Each write in turn fails once with ENOSPC; afterwards the image still works and checks clean.
  for (unsigned fail_at = 0; fail_at < 60; ++fail_at) {
    auto file = made({.size = 4 << 20, .cluster_size = 4096, .refcount_bits = 64});
    MemoryFile* raw = file.get();
    auto image = Qcow2::open(std::move(file), nullptr, {.l2_cache = 4096, .refcount_cache = 4096});
    ASSERT_TRUE(image);
    unsigned writes = 0;
    raw->fault = [&](MemoryFile::Op op, uint64_t, uint64_t) { return op == MemoryFile::Op::kWrite && writes++ == fail_at ? ENOSPC : 0; };
    std::vector<std::byte> data(20000, std::byte{8});
    for (uint64_t i = 0; i < 20; ++i) {
      (void)(*image)->write(i * 150000, data);
      if (i % 5 == 4) (void)(*image)->flush();
    }
    raw->fault = nullptr;
    for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE((*image)->write(i * 150000, data)) << fail_at;
    ASSERT_TRUE((*image)->close()) << fail_at;
    auto after = raw->copy();
    auto result = check(*after, Repair::kNone, [&](const std::string& line) { ADD_FAILURE() << fail_at << ": " << line; });
    ASSERT_TRUE(result);
  }
}

}  // namespace
}  // namespace vireo::storage::qcow2
