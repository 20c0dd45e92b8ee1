// SPDX-License-Identifier: Apache-2.0
// How samples are told. The files are real ones of the format, made by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <nlohmann/json.hpp>

#include "cli/stat/sample.h"
#include "cli/stat/stat.h"

namespace vireo::cli::stat {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

struct Descriptor {
  uint32_t flags;
  int16_t exponent;
  uint16_t size;
  uint32_t offset, bucket_size;
  char name[48];
};
kvm::StatisticsFile file_of(const char* id, std::vector<Descriptor> table, std::vector<uint64_t> values) {
  for (uint32_t at = 0; Descriptor& d : table) d.offset = at, at += 8u * d.size;
  const auto count = static_cast<uint32_t>(table.size());
  const uint32_t header[] = {0, 48, count, 24, 72, 72 + 64 * count};
  std::string bytes(reinterpret_cast<const char*>(header), sizeof header);
  bytes += std::string(id) + std::string(48 - strlen(id), '\0');
  bytes.append(reinterpret_cast<const char*>(table.data()), 64 * table.size());
  bytes.append(reinterpret_cast<const char*>(values.data()), 8 * values.size());
  OwnedFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  auto file = kvm::StatisticsFile::open(std::move(fd));
  EXPECT_TRUE(file) << file.error().message;
  return std::move(*file);
}

// Flags: type | unit | base; api.rst, 4.133.
const std::vector<Descriptor> kVcpu = {{0x000, 0, 1, 0, 0, "exits"}, {0x020, -9, 1, 0, 0, "halt_wait_ns"}, {0x041, 0, 1, 0, 0, "running"},
                                       {0x000, 0, 1, 0, 0, "never"}, {0x004, 0, 2, 0, 0, "hist"}};
const std::vector<Descriptor> kVm = {{0x111, 0, 1, 0, 0, "code_cache_used"}};

struct Two {
  Two() {
    guest.process = 42;
    guest.files.push_back(file_of("kvm-42", kVm, {3 << 20}));
    guest.files.push_back(file_of("kvm-42/vcpu-0", kVcpu, {100, 1'500'000'000, 1, 0, 1, 2}));
    guest.files.push_back(file_of("kvm-42/vcpu-1", kVcpu, {50, 500'000'000, 1, 0, 3, 4}));
    now = take_sample(guest).value();
    before = now;
    before.monotonic_ns = now.monotonic_ns - 2'000'000'000;
    before.values[1][0] = 80;
    before.values[2][0] = 49;
    before.values[1][1] = 500'000'000;
  }
  control::StatisticsGuest guest;
  Sample now, before;
};

TEST(StatTable, SumsVcpusAndGivesRates) {
  Two t;
  const std::string text = table(t.guest, rows_of(t.guest), t.now, &t.before, {});
  EXPECT_THAT(text, HasSubstr("process 42"));
  EXPECT_THAT(text, ContainsRegex("2 vCPUs +total +per second\n"));
  EXPECT_THAT(text, ContainsRegex("exits +150 +10\\.5\n"));  // 20 and 1 in two seconds
  EXPECT_THAT(text, ContainsRegex("halt_wait_ns +2.000 s +50.0 %\n"));
  EXPECT_THAT(text, ContainsRegex("running +2 *\n"));
  EXPECT_THAT(text, ContainsRegex("hist +10 +0\n"));
  EXPECT_THAT(text, ContainsRegex("VM\ncode_cache_used +3.00 MiB *\n"));
  EXPECT_THAT(text, Not(HasSubstr("never")));
}

TEST(StatTable, OnceHasNoRates) {
  Two t;
  const std::string text = table(t.guest, rows_of(t.guest), t.now, nullptr, {.all = true, .per_vcpu = true});
  EXPECT_THAT(text, Not(HasSubstr("per second")));
  EXPECT_THAT(text, ContainsRegex("total +vcpu 0 +vcpu 1\n"));
  EXPECT_THAT(text, ContainsRegex("exits +150 +100 +50\n"));
  EXPECT_THAT(text, ContainsRegex("never +0 +0 +0\n"));
}

TEST(StatTable, PerVcpuColumnsAreRates) {
  Two t;
  const std::string text = table(t.guest, rows_of(t.guest), t.now, &t.before, {.per_vcpu = true});
  EXPECT_THAT(text, ContainsRegex("vcpu 0/s +vcpu 1/s\n"));
  EXPECT_THAT(text, ContainsRegex("exits +150 +[0-9.]+ +10 +0.5\n"));
}

TEST(StatTable, ACounterThatWentBackHasNoRate) {
  Two t;
  t.before.values[1][0] = 5000;
  EXPECT_THAT(table(t.guest, rows_of(t.guest), t.now, &t.before, {}), ContainsRegex("exits +150 +0\n"));
}

TEST(StatTable, UnitsThatDifferAreNotSummed) {
  Two t;
  std::vector<Descriptor> other = kVcpu;
  other[1].exponent = -6;
  t.guest.files[2] = file_of("kvm-42/vcpu-1", other, {50, 7'000'000, 1, 0, 3, 4});
  t.now = take_sample(t.guest).value();
  const std::string text = table(t.guest, rows_of(t.guest), t.now, nullptr, {.per_vcpu = true});
  EXPECT_THAT(text, ContainsRegex("halt_wait_ns +1.500 s +1.500 s +-\n"));
  EXPECT_THAT(text, ContainsRegex("halt_wait_ns +7.000 s +- +7.000 s\n"));
}

TEST(StatJson, HasEveryValueAsItIs) {
  Two t;
  const auto read = nlohmann::json::parse(json(t.guest, t.now));
  EXPECT_EQ(read["process"], 42);
  EXPECT_EQ(read["vm"]["code_cache_used"], 3 << 20);
  EXPECT_EQ(read["sum"]["exits"], 150);
  EXPECT_EQ(read["sum"]["halt_wait_ns"], 2'000'000'000);
  EXPECT_EQ(read["vcpus"].size(), 2u);
  EXPECT_EQ(read["vcpus"][1]["vcpu"], 1);
  EXPECT_EQ(read["vcpus"][1]["hist"], (std::vector<int>{3, 4}));
  EXPECT_FALSE(read["sum"].contains("hist"));
}

TEST(StatNames, ChooseTheRowsOfTheTable) {
  Two t;
  auto text = [&](std::vector<std::string> names) {
    auto rows = chosen(rows_of(t.guest), {std::move(names)});
    return rows ? table(t.guest, *rows, t.now, nullptr, {.all = true}) : rows.error().message;
  };
  EXPECT_THAT(text({"exits"}), ContainsRegex("total\nexits +150\n$"));
  EXPECT_THAT(text({"ever", "code_*"}), HasSubstr("stat: ever: the machine has no such counter"));
  EXPECT_THAT(text({"[en]*", "code_*"}), ContainsRegex("total\nexits +150\nnever +0\n\nVM\ncode_cache_used +3.00 MiB\n$"));
  EXPECT_EQ(text({}), table(t.guest, rows_of(t.guest), t.now, nullptr, {.all = true}));
}

TEST(StatNames, ChooseWhatJsonHas) {
  Two t;
  const auto read = nlohmann::json::parse(json(t.guest, t.now, {{"hist", "exits"}}));
  EXPECT_EQ(read["vm"], nlohmann::json::object());
  EXPECT_EQ(read["sum"], (nlohmann::json{{"exits", 150}}));
  EXPECT_EQ(read["vcpus"][1], (nlohmann::json{{"vcpu", 1}, {"exits", 50}, {"hist", {3, 4}}}));
}

TEST(StatOptions, BadOnesAreToldInOneLine) {
  const std::pair<std::vector<const char*>, const char*> cases[] = {
      {{"--interval", "0"}, "--interval 0: seconds"}, {{"--interval", "nan"}, "--interval nan"}, {{"--interval", "1x"}, "--interval 1x"},
      {{"--count", "0"}, "--count 0"},                {{"--count", "-1"}, "--count -1"},         {{"1x"}, "1x: not the number of a process"},
      {{"0"}, "0: not the number"},                   {{"1", "2"}, "2: one process"},                         {{"--colour"}, "--colour"},
      {{"999999999"}, "999999999"},                   {{"--count=", "0"}, "0: not the number"},   {{"999999999", "exits"}, "999999999"},
  };
  for (const auto& [words, said] : cases) {
    std::vector<char*> argv;
    for (const char* word : words) argv.push_back(const_cast<char*>(word));
    auto result = run(static_cast<int>(argv.size()), argv.data());
    ASSERT_FALSE(result) << words[0];
    EXPECT_THAT(result.error().message, HasSubstr(said));
    EXPECT_THAT(result.error().message, Not(HasSubstr("\n")));
  }
}

}  // namespace
}  // namespace vireo::cli::stat
