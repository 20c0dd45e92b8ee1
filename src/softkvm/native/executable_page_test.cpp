// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/executable_page.h"
#include "softkvm/native/host_components.h"
#include "softkvm/native/host_segment_bases.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

namespace vireo::softkvm {
namespace {

using Page = std::array<uint8_t, 4096>;

Page page_with(size_t at, std::vector<uint8_t> bytes) {
  Page page;
  page.fill(0x90);
  std::copy(bytes.begin(), bytes.end(), page.begin() + static_cast<long>(at));
  return page;
}

// Encodings from the manuals.
const std::vector<std::vector<uint8_t>> kForbidden = {
    {0x0f, 0xa2},              // cpuid
    {0xf3, 0x0f, 0xc7, 0xf8},  // rdpid rax
    {0xf3, 0x41, 0x0f, 0xc7, 0xf9},  // rdpid r9
    {0xf3, 0x66, 0x0f, 0xc7, 0xf8},  // rdpid with prefixes between, as a Zen 5 runs it
    {0xf3, 0x2e, 0x0f, 0xc7, 0xf8},
    {0xf3, 0x64, 0x48, 0x0f, 0xc7, 0xf8},
    {0xf2, 0xf3, 0x26, 0x36, 0x3e, 0x65, 0x67, 0x66, 0x66, 0x66, 0x41, 0x0f, 0xc7, 0xf8},
    {0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x0f, 0xa2},  // cpuid
    {0x0f, 0x03, 0xc0},        // lsl eax, eax
    {0x0f, 0x02, 0xc1},        // lar eax, ecx
    {0x0f, 0x34},              // sysenter
    {0x0f, 0x01, 0xc1},        // vmcall
    {0x0f, 0x01, 0xd9},        // vmmcall
    {0x0f, 0x01, 0xfd},        // rdpru
};

TEST(ExecutablePage, RefusesWhatTellsOfTheHostWhereverItStands) {
  for (const auto& bytes : kForbidden)
    for (size_t at : {size_t{0}, size_t{1}, size_t{2047}, 4096 - bytes.size()})
      EXPECT_FALSE(runs_natively(page_with(at, bytes))) << int{bytes[1]} << " at " << at;
}

TEST(ExecutablePage, LetsOtherInstructionsRun) {
  const std::vector<std::vector<uint8_t>> harmless = {
      {0x0f, 0x05},              // syscall: it is dispatched
      {0x0f, 0x31},              // rdtsc: faults
      {0x0f, 0x01, 0xf9},        // rdtscp: faults
      {0x0f, 0xc7, 0xf8},        // rdseed eax
      {0xf3, 0xf2, 0x0f, 0xc7, 0xf8},  // none
      {0x0f, 0xc7, 0x0f},        // cmpxchg8b [rdi]
      {0x0f, 0x03, 0x00},        // lsl eax, [rax]
      {0x0f, 0xb6, 0xc0},        // movzx eax, al
      {0x0f, 0x84, 0x34, 0, 0, 0}};
  for (const auto& bytes : harmless) EXPECT_TRUE(runs_natively(page_with(100, bytes))) << int{bytes[1]};
}

TEST(ExecutablePage, BasesAreSetWhereTheHostKeepsThem) {
  for (const std::vector<uint8_t>& code : {std::vector<uint8_t>{0xf3, 0x48, 0x0f, 0xae, 0xd0}, std::vector<uint8_t>{0xf3, 0x49, 0x0f, 0xae, 0xdf}, std::vector<uint8_t>{0xf3, 0x0f, 0xae, 0xd8}})
    EXPECT_EQ(runs_natively(page_with(300, code)), host_keeps_segment_bases());
  for (const std::vector<uint8_t>& code : {std::vector<uint8_t>{0xf3, 0x48, 0x0f, 0xae, 0xc0}, std::vector<uint8_t>{0x0f, 0xae, 0xd0}, std::vector<uint8_t>{0xf3, 0x0f, 0xae, 0x10}})
    EXPECT_TRUE(runs_natively(page_with(300, code)));  // rdfsbase; none; ptwrite
}

TEST(ExecutablePage, TakesWhatTellsOfTheHostsComponentsWhereTheGuestHasTheSame) {
  const std::vector<std::vector<uint8_t>> tell = {
      {0x0f, 0x01, 0xd0},              // xgetbv
      {0x0f, 0x01, 0xee},              // rdpkru
      {0x0f, 0x01, 0xef},              // wrpkru
      {0x0f, 0xae, 0x27},              // xsave [rdi]
      {0x48, 0x0f, 0xae, 0x64, 0x24, 0x40},  // xsave64 [rsp + 64]
      {0x0f, 0xc7, 0x64, 0x24, 0x40}};       // xsavec [rsp + 64]
  for (const auto& bytes : tell)
    for (size_t at : {size_t{0}, size_t{2047}, 4096 - bytes.size()})
      EXPECT_EQ(runs_natively(page_with(at, bytes)), !components_of_the_host_alone()) << int{bytes[1]} << " at " << at;
  const std::vector<std::vector<uint8_t>> harmless = {
      {0x0f, 0xae, 0x2f},        // xrstor [rdi]
      {0x0f, 0xae, 0x37},        // xsaveopt [rdi]
      {0xf3, 0x0f, 0xae, 0x27},  // ptwrite [rdi]
      {0x0f, 0xae, 0xe8},        // lfence
      {0x0f, 0xc7, 0xf0}};       // rdrand eax
  for (const auto& bytes : harmless) EXPECT_TRUE(runs_natively(page_with(100, bytes))) << int{bytes[1]};
}

// mov eax, mask; xor edx, edx; mov [rsp + 592], rdx; xsavec [rsp + 64]
TEST(ExecutablePage, TakesASaveOfComponentsThatItNames) {
  auto saves = [](uint32_t mask) {
    Page page = page_with(300, {0xb8, 0, 0, 0, 0, 0x31, 0xd2, 0x48, 0x89, 0x94, 0x24, 0x50, 0x02, 0x00, 0x00, 0x0f, 0xc7, 0x64, 0x24, 0x40});
    memcpy(&page[301], &mask, sizeof mask);
    return page;
  };
  EXPECT_TRUE(runs_natively(saves(0xe6)));
  EXPECT_EQ(runs_natively(saves(~0u)), !(components_of_the_host_alone() & 0xffffffff));
}

TEST(ExecutablePage, TheirBytesInsideAnInstructionDoNotCount) {
  // mov eax, 0xa20f0134; mov rax, [rip + 0xa20f]; an immediate, a displacement
  EXPECT_TRUE(runs_natively(page_with(1000, {0xb8, 0x34, 0x01, 0x0f, 0xa2})));
  EXPECT_TRUE(runs_natively(page_with(1000, {0x48, 0x8b, 0x05, 0x0f, 0xa2, 0x00, 0x00})));
  // The same bytes where little is known of what comes before.
  EXPECT_FALSE(runs_natively(page_with(8, {0xb8, 0x34, 0x01, 0x0f, 0xa2})));
  // Behind zeroes, of which each two are an instruction.
  Page page = page_with(1001, {0x0f, 0xa2});
  std::fill(page.begin() + 900, page.begin() + 1001, 0);
  EXPECT_FALSE(runs_natively(page));
}

TEST(ExecutablePage, TakesNoTimeStampsThatWouldBeTheHosts) {
  for (const std::vector<uint8_t>& code : {std::vector<uint8_t>{0x0f, 0x31}, std::vector<uint8_t>{0x0f, 0x01, 0xf9}}) {
    EXPECT_FALSE(runs_natively(page_with(300, code), TimeStamps::kUnfit));
    auto page = page_with(300, code);
    make_unfit_trap(page, TimeStamps::kUnfit);
    EXPECT_EQ(page[300], 0x0f);
    EXPECT_EQ(page[301], 0x0b);
    EXPECT_TRUE(runs_natively(page, TimeStamps::kUnfit));
  }
}

TEST(ExecutablePage, TakesRdtscpWhereNobodyLooksAtTheCpuNumber) {
  const std::vector<uint8_t> clock = {0x0f, 0x01, 0xf9, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3};  // rdtscp; shl rdx, 32; or rax, rdx; ret
  EXPECT_TRUE(runs_natively(page_with(300, clock), TimeStamps::kRun));
  const std::vector<uint8_t> stored = {0x0f, 0x01, 0xf9, 0x89, 0x0e, 0xc3};  // rdtscp; mov [rsi], ecx; ret
  EXPECT_FALSE(runs_natively(page_with(300, stored), TimeStamps::kRun));
  EXPECT_TRUE(runs_natively(page_with(300, stored), TimeStamps::kFault)) << "it faults there";
  const std::vector<uint8_t> branch = {0x0f, 0x01, 0xf9, 0x85, 0xc0, 0x74, 0x01, 0xc3, 0x89, 0xc8, 0xc3};  // ...; jz 1f; ret; 1: mov eax, ecx; ret
  EXPECT_FALSE(runs_natively(page_with(300, branch), TimeStamps::kRun));
  const std::vector<uint8_t> called = {0x0f, 0x01, 0xf9, 0xe8, 0, 0, 0, 0, 0xc3};  // call: rCX is an argument
  EXPECT_FALSE(runs_natively(page_with(300, called), TimeStamps::kRun));
  const std::vector<uint8_t> overwritten = {0x0f, 0x01, 0xf9, 0x31, 0xc9, 0xe8, 0, 0, 0, 0, 0xc3};  // xor ecx, ecx first
  EXPECT_TRUE(runs_natively(page_with(300, overwritten), TimeStamps::kRun));
}

TEST(ExecutablePage, MakesThemTrapAndNothingElse) {
  Page page = page_with(500, {0x0f, 0xa2});
  page[700] = 0xf3, page[701] = 0x0f, page[702] = 0xc7, page[703] = 0xf8;
  const Page before = page;
  make_unfit_trap(page);
  for (size_t i = 0; i < page.size(); i++) EXPECT_EQ(page[i], i == 501 || i == 702 ? 0x0b : before[i]) << i;
  EXPECT_TRUE(runs_natively(page));
}

TEST(ExecutablePage, LooksOverTheSeam) {
  for (const auto& bytes : kForbidden)
    for (size_t here = 1; here < bytes.size(); here++) {
      const Page first = page_with(4096 - here, {bytes.begin(), bytes.begin() + static_cast<long>(here)});
      const Page second = page_with(0, {bytes.begin() + static_cast<long>(here), bytes.end()});
      EXPECT_TRUE(!seam_runs_natively(first.data(), second.data()) || !runs_natively(second) || !runs_natively(first))
          << int{bytes[1]} << " split behind " << here;
    }
  const Page calm = page_with(0, {});
  EXPECT_TRUE(seam_runs_natively(calm.data(), calm.data()));
}

}  // namespace
}  // namespace vireo::softkvm
