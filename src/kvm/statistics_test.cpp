// SPDX-License-Identifier: Apache-2.0
// Files made by hand after api.rst, 4.133, and what is wrong with some.
#include "kvm/statistics.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <functional>

namespace vireo::kvm {
namespace {

// Offsets as the kernel's struct has them.
struct Header {
  uint32_t flags = 0, name_size = 48, num_desc = 3, id_offset = 24, desc_offset = 72, data_offset = 72 + 3 * 64;
};
struct Descriptor {
  uint32_t flags;
  int16_t exponent;
  uint16_t size;
  uint32_t offset, bucket_size;
  char name[48];
};

struct Image {
  Header header;
  char id[48] = "kvm-77/vcpu-3";
  Descriptor descriptors[3] = {{0x000, 0, 1, 0, 0, "exits"},          // cumulative, no unit, powers of ten
                               {0x021, -9, 1, 8, 0, "wait_ns"},       // instant, seconds
                               {0x114, 10, 3, 16, 0, "sizes_hist"}};  // logarithmic histogram, bytes, powers of two
  uint64_t data[5] = {7, 8, 1, 2, 3};
};

OwnedFd file_of(const Image& image, size_t size = sizeof(Image)) {
  OwnedFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), &image, size), static_cast<ssize_t>(size));
  return fd;
}

TEST(StatisticsFile, TellsCountersUnitsAndValues) {
  auto file = StatisticsFile::open(file_of({}));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->id(), "kvm-77/vcpu-3");
  EXPECT_EQ(file->vcpu(), 3);
  const std::vector<Counter> wanted = {
      {"exits", Counter::Type::kCumulative, Counter::Unit::kNone, 10, 0, 0, 1},
      {"wait_ns", Counter::Type::kInstant, Counter::Unit::kSeconds, 10, -9, 0, 1},
      {"sizes_hist", Counter::Type::kLogHistogram, Counter::Unit::kBytes, 2, 10, 0, 3},
  };
  EXPECT_EQ(file->counters(), wanted);
  EXPECT_EQ(file->read().value(), (std::vector<uint64_t>{7, 8, 1, 2, 3}));
}

TEST(StatisticsFile, ValuesMayLieInAnyOrder) {
  Image image;
  image.descriptors[0].offset = 32, image.descriptors[1].offset = 0, image.descriptors[2].offset = 8;
  auto file = StatisticsFile::open(file_of(image));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->read().value(), (std::vector<uint64_t>{3, 7, 8, 1, 2}));
}

TEST(StatisticsFile, AVmsFileHasNoVcpu) {
  for (const char* id : {"kvm-77", "kvm-77/vcpu-", "kvm-77/vcpu-3x", "kvm-77/vcpu--3", "kvm-77/vcpu-99999999999"}) {
    Image image;
    strcpy(image.id, id);
    auto file = StatisticsFile::open(file_of(image));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->vcpu(), -1) << id;
  }
}

TEST(StatisticsFile, RefusesWhatIsWrong) {
  const std::pair<const char*, std::function<void(Image&)>> cases[] = {
      {"flags", [](Image& i) { i.header.flags = 1; }},
      {"counters", [](Image& i) { i.header.num_desc = 5000; }},
      {"counters", [](Image& i) { i.header.name_size = 0; }},
      {"counters", [](Image& i) { i.header.name_size = 257; }},
      {"ends", [](Image& i) { i.header.id_offset = ~0u; }},
      {"ends", [](Image& i) { i.header.desc_offset = 100000; }},
      {"file's name", [](Image& i) { i.id[0] = 0; }},
      {"file's name", [](Image& i) { i.id[1] = '\x1b'; }},
      {"file's name", [](Image& i) { memset(i.id, 'x', sizeof i.id); }},
      {"counter's name", [](Image& i) { i.descriptors[1].name[2] = '\n'; }},
      {"exits has 0", [](Image& i) { i.descriptors[0].size = 0; }},
      {"exits has 2", [](Image& i) { i.descriptors[0].size = 2; }},
      {"sizes_hist has 2000", [](Image& i) { i.descriptors[2].size = 2000; }},
      {"exponent", [](Image& i) { i.descriptors[0].exponent = 31; }},
      {"twice", [](Image& i) { strcpy(i.descriptors[1].name, "exits"); }},
  };
  for (const auto& [said, spoil] : cases) {
    Image image;
    spoil(image);
    auto file = StatisticsFile::open(file_of(image));
    ASSERT_FALSE(file) << said;
    EXPECT_NE(file.error().message.find(said), std::string::npos) << file.error().message;
  }
}

TEST(StatisticsFile, ValuesBehindItsEndAreAnError) {
  Image image;
  image.descriptors[2].offset = ~0u - 7;  // far from the others, too: nothing of that size is made
  auto far = StatisticsFile::open(file_of(image));
  ASSERT_TRUE(far);
  EXPECT_FALSE(far->read());
  auto cut = StatisticsFile::open(file_of({}, sizeof(Image) - 1));
  ASSERT_TRUE(cut);
  EXPECT_FALSE(cut->read());
}

TEST(StatisticsFile, APipeIsAnError) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  OwnedFd other(ends[1]);
  EXPECT_FALSE(StatisticsFile::open(OwnedFd(ends[0])));
}

}  // namespace
}  // namespace vireo::kvm
