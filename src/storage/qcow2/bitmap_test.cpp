// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/bitmap.h"

#include <gtest/gtest.h>

#include <random>

#include "storage/file/memory_file.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

std::vector<bool> dirty_sectors(const BitmapBits& bits) {
  std::vector<bool> out;
  for (uint64_t at = 0; at < bits.disk_size();) {
    auto run = bits.run(at);
    EXPECT_GT(run.length, 0u);
    if (run.length == 0) break;
    for (uint64_t n = 0; n < run.length; n += 512) out.push_back(run.dirty);
    at += run.length;
  }
  return out;
}

TEST(BitmapBits, AgreeWithOneFlagPerSector) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    const unsigned order = 9 + random() % 4;
    uint64_t sectors = 1 + random() % 60000;
    BitmapBits bits(sectors * 512, order, 512);  // 4096 bits a piece
    std::vector<bool> flags(sectors);
    for (int step = 0; step < 30; ++step) {
      if (random() % 8 == 0) {
        sectors = 1 + random() % 60000;
        bits.resize(sectors * 512);
        // A granule that the end cuts stays dirty as a whole; it is compared as far as the disk goes.
        const uint64_t per = (1ull << order) / 512, before = flags.size();
        const bool last = before && flags[before - 1];
        flags.resize(sectors);
        for (uint64_t s = before; s < std::min(sectors, round_up(before, per)); ++s) flags[s] = last;
      } else {
        uint64_t from = random() % sectors, count = 1 + random() % (random() % 4 ? 200 : sectors - from + 1);
        count = std::min(count, sectors - from);
        bits.set(from * 512, count * 512);
        const uint64_t per = (1ull << order) / 512;
        for (uint64_t s = from / per * per; s < std::min(sectors, round_up(from + count, per)); ++s) flags[s] = true;
      }
    }
    ASSERT_EQ(dirty_sectors(bits), flags) << "round " << round;
    BitmapBits coarse(sectors * 512, 16, 512);
    coarse.merge(bits);
    auto merged = dirty_sectors(coarse);
    for (uint64_t s = 0; s < sectors; ++s) {
      bool any = false;
      for (uint64_t k = s / 128 * 128; k < std::min(sectors, s / 128 * 128 + 128); ++k) any = any || flags[k];
      ASSERT_EQ(merged[s], any);
    }
    bits.clear();
    EXPECT_EQ(bits.dirty_bytes(), 0u);
  }
}

struct Disk {
  std::unique_ptr<MemoryFile> file = std::make_unique<MemoryFile>();
  MemoryFile* raw = file.get();
  std::unique_ptr<Qcow2> image;

  explicit Disk(uint64_t size = 1 << 20) {
    EXPECT_TRUE(create(*file, {.size = size, .cluster_size = 4096}));
    open();
  }
  void open() {
    auto opened = Qcow2::open(std::move(file), nullptr, {});
    ASSERT_TRUE(opened) << opened.error().message;
    image = std::move(*opened);
  }
  void reopen(bool cleanly) {
    if (cleanly) {
      EXPECT_TRUE(image->close());
    }
    auto copy = raw->copy();
    image->abandon();
    image.reset();
    file = std::move(copy);
    raw = file.get();
    std::string said;
    auto checked = check(*file, Repair::kNone, [&](const std::string& line) { said += line + "\n"; });
    ASSERT_TRUE(checked);
    EXPECT_EQ(checked->corruptions, 0u) << said;
    if (cleanly) {
      EXPECT_EQ(checked->leaks, 0u) << said;
    }
    open();
  }
  void write(uint64_t offset, uint64_t length) {
    std::vector<std::byte> data(length, std::byte{7});
    ASSERT_TRUE(image->write(offset, data));
  }
  uint64_t dirty(const std::string& name) {
    auto bits = image->bitmap_bits(name);
    return bits ? (*bits)->dirty_bytes() : UINT64_MAX;
  }
};

TEST(Bitmap, FollowsWritesAcrossAClose) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("b", 12, true));
  d.write(10000, 100);
  d.reopen(true);
  EXPECT_EQ(d.dirty("b"), 4096u);
  d.write(65536, 8192);
  ASSERT_TRUE(d.image->write_zeroes(0, 512, true));
  d.reopen(true);
  EXPECT_EQ(d.dirty("b"), 4096u * 4);
}

TEST(Bitmap, IsInconsistentAfterAWriteWithoutAClose) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("b", 12, true));
  d.reopen(true);
  d.reopen(false);
  EXPECT_FALSE(d.image->find_bitmap("b")->inconsistent()) << "nothing was written";
  d.write(0, 512);
  d.reopen(false);
  EXPECT_TRUE(d.image->find_bitmap("b")->inconsistent());
  EXPECT_FALSE(d.image->edit_bitmap("b"));
  d.write(0, 512);
  d.reopen(true);
  EXPECT_TRUE(d.image->find_bitmap("b")->inconsistent());
  ASSERT_TRUE(d.image->remove_bitmap("b"));
  d.reopen(true);
  EXPECT_TRUE(d.image->bitmaps().empty());
}

TEST(Bitmap, DisabledDoesNotFollowWrites) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("off", 16, false));
  d.write(0, 4096);
  d.reopen(false);
  EXPECT_EQ(d.dirty("off"), 0u) << "and is not marked as in use by writes";
  ASSERT_TRUE(d.image->enable_bitmap("off", true));
  d.write(0, 4096);
  d.reopen(true);
  EXPECT_EQ(d.dirty("off"), 65536u);
}

TEST(Bitmap, GrowsAndShrinksWithTheDisk) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("b", 9, true));  // one piece at first, eight at 128 MiB
  d.write((1 << 20) - 4096, 4096);
  ASSERT_TRUE(d.image->resize(128 << 20, Preallocation::kOff));
  d.write((128 << 20) - 512, 512);
  d.reopen(true);
  EXPECT_EQ(d.dirty("b"), 4096u + 512u);
  ASSERT_TRUE(d.image->resize(1 << 20, Preallocation::kOff));
  d.reopen(true);
  EXPECT_EQ(d.dirty("b"), 4096u);
}

TEST(Bitmap, AnAppliedSnapshotIsAWriteToEverything) {
  Disk d;
  ASSERT_TRUE(d.image->create_snapshot("s", 0, 0));
  ASSERT_TRUE(d.image->add_bitmap("b", 12, true));
  ASSERT_TRUE(d.image->apply_snapshot(0));
  d.reopen(true);
  EXPECT_EQ(d.dirty("b"), 1u << 20);
}

TEST(Bitmap, ADamagedDirectoryIsGivenUpAndTheDiskKept) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("b", 12, true));
  d.write(0, 4096);
  ASSERT_TRUE(d.image->close());
  const Extension* e = d.image->header().find(extension::kBitmaps);
  ASSERT_TRUE(e);
  std::byte bad[2] = {std::byte{0xff}, std::byte{0xff}};
  ASSERT_TRUE(d.raw->write(load<uint64_t>(&e->data[16]) + 18, bad));  // the length of a name
  auto copy = d.raw->copy();
  d.image->abandon();
  d.image.reset();
  d.file = std::move(copy);
  d.raw = d.file.get();
  d.open();
  EXPECT_TRUE(d.image->bitmaps().empty());
  std::vector<std::byte> data(4096);
  ASSERT_TRUE(d.image->read(0, data));
  EXPECT_EQ(data[5], std::byte{7});
  EXPECT_EQ(d.image->header().autoclear & autoclear::kBitmaps, 0u);
}

// The header takes two sectors here, either of which may be lost.
TEST(Bitmap, APowerCutWhileOneIsAddedLeavesAHeader) {
  for (const std::string& backing : {std::string("base"), std::string(700, 'x')})
    for (unsigned cut = 0;; ++cut) {
      auto file = std::make_unique<MemoryFile>();
      MemoryFile* raw = file.get();
      ASSERT_TRUE(create(*file, {.size = 1 << 20, .cluster_size = 4096, .backing_file = backing, .backing_format = "raw"}));
      raw->keep_history = true;
      auto image = Qcow2::open(std::move(file), nullptr, {});
      ASSERT_TRUE(image && (*image)->flush());
      std::mt19937_64 random(cut);
      std::vector<std::unique_ptr<MemoryFile>> left;
      unsigned changes = 0;
      raw->on_change = [&] {
        if (changes++ == cut)
          for (int i = 0; i < 40; ++i) left.push_back(raw->crash(random, 50));
      };
      ASSERT_TRUE((*image)->add_bitmap("b", 16, true));
      raw->on_change = nullptr;
      (*image)->abandon();
      if (left.empty()) break;
      for (auto& one : left) {
        auto header = Header::read(*one);
        ASSERT_TRUE(header) << "cut " << cut << ": " << header.error().message;
        EXPECT_EQ(header->backing_file, backing) << "cut " << cut;
        EXPECT_EQ(header->backing_format(), "raw");
        auto found = check(*one, Repair::kNone, [](const std::string&) {});
        EXPECT_TRUE(found && !found->corruptions && !found->errors) << "cut " << cut;
      }
    }
}

// As QEMU leaves it on a disk of no size: nothing is to be moved, and nothing owned.
TEST(Bitmap, OneWithAnEmptyTableIsLeftWhenAnotherComes) {
  auto file = std::make_unique<MemoryFile>();
  MemoryFile* raw = file.get();
  ASSERT_TRUE(create(*file, {.size = 1 << 20, .cluster_size = 4096}));
  {
    auto image = Qcow2::open(std::move(file), nullptr, {});
    ASSERT_TRUE(image && (*image)->add_bitmap("first", 16, true) && (*image)->close());
    file = raw->copy();
  }
  auto header = Header::read(*file);
  ASSERT_TRUE(header);
  auto directory = read_bitmap_directory(*file, *header);
  ASSERT_TRUE(directory && directory->bitmaps.size() == 1);
  const std::vector<std::byte> nothing(8);
  ASSERT_TRUE(file->write(directory->offset + directory->bitmaps[0].flags_at - 4, std::span(nothing).first(4)));
  ASSERT_TRUE(file->write(24, nothing));  // the disk's size
  auto image = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_FALSE((*image)->find_bitmap("first")->inconsistent());
  EXPECT_TRUE((*image)->add_bitmap("second", 16, true));
  EXPECT_TRUE((*image)->close());
}

TEST(Bitmap, AfterACloseNothingIsWrittenThatTheyWouldNotKnowOf) {
  Disk d;
  ASSERT_TRUE(d.image->add_bitmap("b", 12, true));
  d.write(0, 512);
  ASSERT_TRUE(d.image->close());
  const std::vector<std::byte> data(512);
  EXPECT_FALSE(d.image->write(65536, data));
  EXPECT_FALSE(d.image->write_zeroes(65536, 512, true));
  EXPECT_FALSE(d.image->discard(65536, 4096));
  EXPECT_FALSE(d.image->resize(2 << 20, Preallocation::kOff));
}

// A directory made by hand: `count` bitmaps with tables of `entries` entries, all at one place or each at its own, in what was a hole.
std::unique_ptr<MemoryFile> hostile(uint32_t count, uint64_t cluster_size, uint32_t entries, bool one_place, uint64_t& tables) {
  auto file = std::make_unique<MemoryFile>();
  EXPECT_TRUE(create(*file, {.size = 1 << 20, .cluster_size = cluster_size}));
  auto header = Header::read(*file);
  EXPECT_TRUE(header);
  const uint64_t offset = round_up(file->size(), cluster_size), table = round_up(entries * 8ull, cluster_size);
  std::vector<Bitmap> bitmaps(count);
  uint64_t bytes = 0;
  for (int pass = 0; pass < 2; ++pass) {  // how long it is, and then where the tables are
    tables = round_up(offset + bytes, cluster_size);
    for (uint32_t i = 0; i < count; ++i) {
      bitmaps[i].name = "b" + std::to_string(i);
      bitmaps[i].table_offset = tables + (one_place ? 0 : i * table);
      bitmaps[i].table_entries = entries;
    }
    std::vector<uint64_t> flags_at;
    auto directory = serialize_bitmap_directory(bitmaps, flags_at);
    bytes = directory.size();
    if (pass) {
      EXPECT_TRUE(file->write(offset, directory));
    }
  }
  EXPECT_TRUE(file->truncate(tables + (one_place ? 1 : count) * table));
  header->set(extension::kBitmaps, bitmaps_extension(count, offset, bytes));
  header->autoclear |= autoclear::kBitmaps;
  header->set(extension::kFeatureNames, {});  // no room for them in the smallest clusters
  auto bytes_of_it = header->serialize();
  EXPECT_TRUE(bytes_of_it && file->write(0, *bytes_of_it));
  return file;
}

TEST(Bitmap, ATableThatAllOfThemNameIsReadOnce) {
  uint64_t table = 0, reads = 0;
  auto file = hostile(3000, 4096, 512, true, table);
  file->fault = [&](MemoryFile::Op op, uint64_t offset, uint64_t) {
    reads += op == MemoryFile::Op::kRead && offset == table;
    return 0;
  };
  auto image = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(reads, 1u);
  EXPECT_FALSE((*image)->find_bitmap("b0")->inconsistent());
  EXPECT_TRUE((*image)->find_bitmap("b1")->inconsistent());
  (*image)->abandon();
}

// All begin where nothing is, and end in the one table that is there.
TEST(Bitmap, TablesThatEndInAnotherOneAreNotSearchedWithoutEnd) {
  constexpr uint32_t kEntries = 1 << 20;
  uint64_t table = 0;
  auto file = hostile(20000, 512, kEntries, true, table);
  auto header = Header::read(*file);
  ASSERT_TRUE(header);
  std::byte first[12];
  store(first, table + kEntries * 8ull - 512);
  store(first + 8, uint32_t{64});
  ASSERT_TRUE(file->write(load<uint64_t>(&header->find(extension::kBitmaps)->data[16]), first));
  timespec before, after;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  auto image = Qcow2::open(std::move(file), nullptr, {});
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_FALSE((*image)->find_bitmap("b0")->inconsistent());
  EXPECT_TRUE((*image)->find_bitmap("b1")->inconsistent());
  EXPECT_LT(static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e9, 2.0);
  (*image)->abandon();
}

TEST(Bitmap, TablesInHolesOfTheFileDoNotFillTheMemory) {
  uint64_t tables = 0;
  auto file = hostile(20, 512, 1 << 20, false, tables);
  auto image = Qcow2::open(std::move(file), nullptr, {});
  ASSERT_TRUE(image) << image.error().message;
  uint64_t bytes = 0;
  for (const Bitmap& b : (*image)->bitmaps()) bytes += b.table.size() * 8;
  EXPECT_GT(bytes, 0u);
  EXPECT_LE(bytes, 128u << 20);
  (*image)->abandon();
}

TEST(Bitmap, NorDoTheyInAnImageThatIsOnlyRead) {
  for (bool one_place : {false, true}) {
    uint64_t tables = 0;
    auto file = hostile(20, 512, 1 << 20, one_place, tables);
    file->set_read_only(true);
    auto image = Qcow2::open(std::move(file), nullptr, {});
    ASSERT_TRUE(image) << image.error().message;
    uint64_t readable = 0, bytes = 0;
    for (const Bitmap& b : (*image)->bitmaps()) readable += (*image)->bitmap_bits(b.name).has_value();
    for (const Bitmap& b : (*image)->bitmaps()) bytes += b.table.size() * 8;
    EXPECT_EQ(readable, one_place ? 1u : 16u);
    EXPECT_LE(bytes, 128u << 20);
  }
}

}  // namespace
}  // namespace vireo::storage::qcow2
