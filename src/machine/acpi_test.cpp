// SPDX-License-Identifier: Apache-2.0
// The tables against ACPI's own rules, and against Intel's disassembler where it is installed.
#include "machine/acpi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "machine/pc_devices.h"

namespace vireo {
namespace {

using aml::Bytes;

TEST(Aml, IntegersTakeTheShortestForm) {
  EXPECT_EQ(aml::integer(0), Bytes({0x00}));
  EXPECT_EQ(aml::integer(1), Bytes({0x01}));
  EXPECT_EQ(aml::integer(0x12), Bytes({0x0a, 0x12}));
  EXPECT_EQ(aml::integer(0x1234), Bytes({0x0b, 0x34, 0x12}));
  EXPECT_EQ(aml::integer(0x12345678), Bytes({0x0c, 0x78, 0x56, 0x34, 0x12}));
}

TEST(Aml, EisaIdsAreCompressed) { EXPECT_EQ(aml::eisa_id("PNP0A03"), Bytes({0x0c, 0x41, 0xd0, 0x0a, 0x03})); }

TEST(Aml, PathsPadTheirSegments) {
  EXPECT_EQ(aml::path("\\_SB"), Bytes({'\\', '_', 'S', 'B', '_'}));
  EXPECT_EQ(aml::path("_SB.PCI0"), Bytes({0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
}

TEST(Aml, PackageLengthsGrow) {
  Bytes small = aml::scope("A", Bytes(10));
  EXPECT_EQ(small[1], 1 + 4 + 10);
  Bytes large = aml::scope("A", Bytes(100));  // two bytes: 106 = 0x6a
  EXPECT_EQ(large[1], 0x4a);
  EXPECT_EQ(large[2], 0x06);
}

class AcpiTables : public testing::Test {
 protected:
  void SetUp() override {
    memory = std::move(*GuestMemory::create({.size = 2 << 20}, 1ull << 31));
    config.cpus = 3;
    config.ecam = AcpiConfig::Ecam{0xb0000000, 255};
    config.hpet = true;
    config.numa = {{{0, 1}, {{0, 1 << 20}}}, {{2}, {{1 << 20, 1 << 20}}}};
    config.dsdt = aml::join({aml::scope("\\_SB", PcDevices::describe()), PcDevices::sleep_states()});
    auto written = write_acpi(*memory, config, GuestAddress{0xe0000}, GuestAddress{0x100000});
    ASSERT_TRUE(written) << written.error().message;
    rsdp = raw(written->rsdp);
  }
  template <class T>
  T at(uint64_t address) {
    T value{};
    EXPECT_TRUE(memory->read(GuestAddress{address}, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  Bytes table(uint64_t address) {
    Bytes bytes(at<uint32_t>(address + 4));
    EXPECT_TRUE(memory->read(GuestAddress{address}, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }
  std::vector<Bytes> all() {
    uint64_t xsdt = at<uint64_t>(rsdp + 24);
    std::vector<Bytes> tables{table(xsdt)};
    for (uint64_t i = 36; i < tables[0].size(); i += 8) tables.push_back(table(at<uint64_t>(xsdt + i)));
    tables.push_back(table(at<uint64_t>(at<uint64_t>(xsdt + 36) + 140)));  // the FADT's DSDT
    return tables;
  }
  std::unique_ptr<GuestMemory> memory;
  AcpiConfig config;
  uint64_t rsdp = 0;
};

TEST_F(AcpiTables, EveryChecksumIsZero) {
  for (uint64_t size : {20, 36}) {
    uint8_t sum = 0;
    for (uint64_t i = 0; i < size; i++) sum += at<uint8_t>(rsdp + i);
    EXPECT_EQ(sum, 0);
  }
  std::string names;
  for (const Bytes& t : all()) {
    EXPECT_EQ(std::accumulate(t.begin(), t.end(), 0) & 0xff, 0);
    names += std::string(t.begin(), t.begin() + 4) + " ";
  }
  EXPECT_EQ(names, "XSDT FACP APIC MCFG HPET SRAT SLIT DSDT ");
}

TEST_F(AcpiTables, TheDisassemblerFindsNothingToComplainAbout) {
  if (system("command -v iasl > /dev/null 2>&1")) {
    GTEST_SKIP() << "no iasl here";
  }
  char folder[] = "/tmp/vireo-acpi-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  for (const Bytes& t : all()) {
    std::string name = std::string(t.begin(), t.begin() + 4);
    std::string file = std::string(folder) + "/" + name;
    std::ofstream(file + ".aml", std::ios::binary).write(reinterpret_cast<const char*>(t.data()), static_cast<std::streamsize>(t.size()));
    std::string command = "cd " + std::string(folder) + " && iasl -d " + name + ".aml > " + name + ".log 2>&1 && ! grep -iE 'error|invalid|bad' " + name + ".log";
    EXPECT_EQ(system(command.c_str()), 0) << name;
    if (name == "DSDT") {
      command = "cd " + std::string(folder) + " && iasl " + name + ".dsl > " + name + ".log2 2>&1 && grep -q ' 0 Errors' " + name + ".log2";
      EXPECT_EQ(system(command.c_str()), 0) << name;
    }
  }
  ASSERT_EQ(system(("rm -r " + std::string(folder)).c_str()), 0);
}

// IA-PC HPET specification 1.0a, 3.2.4.
TEST(AcpiHpet, TableSaysWhereItIs) {
  AcpiBlob blob = build_acpi({.hpet = true});
  const char signature[] = {'H', 'P', 'E', 'T'};
  auto found = std::ranges::search(blob.tables, signature);
  ASSERT_FALSE(found.empty());
  const uint8_t* t = &*found.begin();
  uint32_t length, block;
  uint64_t address;
  memcpy(&length, t + 4, 4);
  memcpy(&block, t + 36, 4);
  memcpy(&address, t + 44, 8);
  EXPECT_EQ(length, 56u);
  EXPECT_EQ(block, 0x8086a201u);
  EXPECT_EQ(t[40], 0) << "in memory";
  EXPECT_EQ(address, 0xfed00000u);
  AcpiBlob without = build_acpi({});
  EXPECT_TRUE(std::ranges::search(without.tables, signature).empty());
}

}  // namespace
}  // namespace vireo
