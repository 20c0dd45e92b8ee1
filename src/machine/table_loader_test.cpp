// SPDX-License-Identifier: Apache-2.0
// The script carried out as firmware does must give the tables that a direct boot gets.
#include "machine/table_loader.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <string>

#include "machine/pc_devices.h"

namespace vireo {
namespace {

using aml::Bytes;

struct File {
  Bytes bytes;
  uint64_t address = 0;
};

void carry_out(const Bytes& script, std::map<std::string, File>& files, std::map<std::string, uint64_t> places) {
  ASSERT_EQ(script.size() % 128, 0u);
  auto number = [](const uint8_t* at) { return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24; };
  for (size_t i = 0; i < script.size(); i += 128) {
    const uint8_t* c = &script[i];
    std::string name(reinterpret_cast<const char*>(c + 4));
    ASSERT_TRUE(files.contains(name)) << name;
    File& file = files[name];
    switch (number(c)) {
      case 1:
        ASSERT_TRUE(c[64] == 1 || c[64] == 2);
        file.address = places.at(name);
        ASSERT_EQ(file.address % number(c + 60), 0u);
        break;
      case 2: {
        std::string target(reinterpret_cast<const char*>(c + 60));
        ASSERT_TRUE(files.contains(target));
        ASSERT_NE(files[target].address, 0u) << "used before it was placed";
        uint32_t offset = number(c + 116);
        uint8_t size = c[120];
        ASSERT_TRUE(size == 4 || size == 8);
        ASSERT_LE(offset + size, file.bytes.size());
        uint64_t value = 0;
        memcpy(&value, &file.bytes[offset], size);
        ASSERT_LT(value, files[target].bytes.size());
        value += files[target].address;
        memcpy(&file.bytes[offset], &value, size);
        break;
      }
      case 3: {
        uint32_t at = number(c + 60), start = number(c + 64), length = number(c + 68);
        ASSERT_LE(uint64_t{start} + length, file.bytes.size());
        EXPECT_EQ(file.bytes[at], 0);  // edk2 sets it to what SeaBIOS adds to it
        file.bytes[at] -= static_cast<uint8_t>(std::accumulate(&file.bytes[start], &file.bytes[start] + length, 0));
        break;
      }
      default: FAIL() << "command " << number(c);
    }
  }
}

TEST(TableLoader, MakesTheTablesOfADirectBoot) {
  AcpiConfig config{.cpus = 2};
  config.ecam = AcpiConfig::Ecam{0xb0000000, 255};
  config.numa = {{{0}, {{0, 1 << 20}}}, {{1}, {{1 << 20, 1 << 20}}}};
  config.dsdt = aml::scope("\\_SB", PcDevices::describe());
  auto memory = std::move(*GuestMemory::create({.size = 2 << 20}, 1ull << 31));
  auto direct = write_acpi(*memory, config, GuestAddress{0xe0000}, GuestAddress{0x100000});
  ASSERT_TRUE(direct);

  AcpiBlob blob = build_acpi(config);
  std::map<std::string, File> files{{"r", {blob.rsdp}}, {"t", {blob.tables}}};
  carry_out(TableLoader::of(blob, "r", "t").script(), files, {{"r", 0xe0000}, {"t", 0xe0040}});
  auto at = [&](uint64_t address, size_t size) {
    Bytes bytes(size);
    EXPECT_TRUE(memory->read(GuestAddress{address}, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  };
  EXPECT_EQ(files["r"].bytes, at(raw(direct->rsdp), blob.rsdp.size()));
  EXPECT_EQ(files["t"].bytes, at(0xe0040, blob.tables.size()));
}

TEST(TableLoader, CommandsHaveTheLayoutThatFirmwareReads) {
  TableLoader loader;
  loader.allocate("etc/x", 64, TableLoader::Zone::kHigh);
  loader.add_pointer("a", "b", 0x10203, 8);
  const Bytes& script = loader.script();
  ASSERT_EQ(script.size(), 256u);
  EXPECT_EQ(script[0], 1);
  EXPECT_STREQ(reinterpret_cast<const char*>(&script[4]), "etc/x");
  EXPECT_EQ(script[60], 64);
  EXPECT_EQ(script[64], 1);
  EXPECT_EQ(script[128], 2);
  EXPECT_EQ(script[128 + 4], 'a');
  EXPECT_EQ(script[128 + 60], 'b');
  EXPECT_EQ(script[128 + 116], 3);
  EXPECT_EQ(script[128 + 118], 1);
  EXPECT_EQ(script[128 + 120], 8);
}

}  // namespace
}  // namespace vireo
