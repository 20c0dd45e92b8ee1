// SPDX-License-Identifier: Apache-2.0
// Blocks that one VM leaves in a file and another takes from there: they are what would be made anew, they are taken only where the guest's bytes, the
// engine and the CPU are the same, and no file is believed that somebody else could have written or that is damaged.
// In builds with VIREO_VERIFY_BLOCKS each restored block is compared with one made anew, byte for byte (make_block.cpp), and verified.
#include "softkvm/translate/stored_code.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "softkvm/counters.h"
#include "softkvm/translate/engine.h"
#include "softkvm/translate/engine_key.h"
#include "softkvm/translate/switches_off.h"
#include "softkvm/translate/test_machine.h"

namespace vireo::softkvm {
namespace {

// More than 64 blocks, as a writing needs, with links, faults' side entries, call-outs, a high register and flags that live on.
GUEST_CODE(program, "xor eax, eax; mov ecx, 50; 1: add rax, rcx; push rax; pop rdx; dec ecx; jnz 1b; mov edi, 0x300000; "
                    "\n.rept 150\nadd rax, 3; test al, 1; jz 2f; adc qword ptr [rdi], 5; 2: lea r9, [rax + rdi]; add r9, r10; movzx ebx, ah; mov ah, bl; jmp 3f; 3: \n.endr\n"
                    "mov [rdi + 8], rax; cpuid; mov rbx, [rdi]; mov rax, [rdi + 8]; hlt")

// A folder for what VMs keep, made known to the process; forgotten at the end.
class Kept {
 public:
  Kept() {
    char name[] = "/tmp/vireo-code-XXXXXX";
    path = mkdtemp(name);
    EXPECT_TRUE(StoredCode::keep(path, 64u << 20).has_value());
  }
  ~Kept() {
    StoredCode::keep_nothing();
    std::filesystem::remove_all(path);
  }
  std::string file() const {
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.path().extension() == CodeFolder::kSuffix) return entry.path();
    return "";
  }
  unsigned files() const {
    unsigned count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path)) count += entry.path().extension() == CodeFolder::kSuffix;
    return count;
  }
  std::string path;
};

struct Counts {
  uint64_t translated, restored, stored;
  uint64_t rax, rbx;
  bool operator==(const Counts&) const = default;
};

// One VM from beginning to end.
Counts run_once(const std::function<void(TestMachine&)>& change = {}, std::span<const uint8_t> code = program()) {
  TestMachine m;
  if (change) change(m);
  if (m.vm->stored) {
    m.vcpu->engine->stored = m.vm->stored->blocks_for(*m.vcpu);
    m.vcpu->engine->stored_known = true;
    m.vm->stored->wait_until_read();
  }
  EXPECT_EQ(m.run(code), unsigned{KVM_EXIT_HLT});
  const VcpuCounters& c = m.vcpu->engine->counters;
  return {c.blocks_translated, c.blocks_restored, m.vm->counters->code_blocks_stored, m.vcpu->gpr[kRax], m.vcpu->gpr[kRbx]};
}

// A module may lie farther from the kernel than accesses are grouped, or nearer, by chance: blocks are made otherwise then.
TEST(StoredField, DoesNotBecomeADistanceForWhichAccessesAreGroupedOtherwise) {
  const auto far = static_cast<uint32_t>(-(kFarthestGrouped + 0x100000)), near = static_cast<uint32_t>(-(kFarthestGrouped - 0x100000));
  for (unsigned kind : {StoredField::kFar, StoredField::kAddress})
    for (uint32_t value : {far, near}) {
      EXPECT_TRUE(StoredField::may_be(kind, value));
      EXPECT_TRUE(StoredField::may_become(kind, value, value + 16));
      EXPECT_FALSE(StoredField::may_become(kind, value, value == far ? near : far));
      EXPECT_FALSE(StoredField::may_become(kind, value, static_cast<uint32_t>(-kFarthestGrouped)));
    }
  EXPECT_FALSE(StoredField::may_become(StoredField::kFar, 0x12345, static_cast<uint32_t>(-0x12345)));
}

TEST(StoredCode, TheSecondVmMakesNoBlockAnewAndComputesTheSame) {
  const Counts without = run_once();
  Kept kept;
  const Counts first = run_once(), second = run_once();
  EXPECT_GT(first.translated, 150u);
  EXPECT_EQ(first.restored, 0u);
  EXPECT_EQ(second.translated, 0u);
  EXPECT_EQ(second.restored, first.translated);
  EXPECT_GE(second.stored, 150u);
  for (const Counts& c : {first, second}) {
    EXPECT_EQ(c.rax, without.rax);
    EXPECT_EQ(c.rbx, without.rbx);
  }
}

TEST(StoredCode, ABlockIsFoundAtAnotherAddressOfTheSamePageOffset) {
  Kept kept;
  const Counts first = run_once();
  TestMachine m;
  m.vcpu->engine->stored = m.vm->stored->blocks_for(*m.vcpu);
  m.vcpu->engine->stored_known = true;
  m.vm->stored->wait_until_read();
  memcpy(m.ram + 0x700000, program().data(), program().size());
  m.vcpu->rip = 0x700000;
  EXPECT_EQ(m.go(), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(m.vcpu->engine->counters.blocks_restored, first.translated);
  EXPECT_EQ(m.vcpu->engine->counters.blocks_translated, 0u);
}

TEST(StoredCode, BytesThatHaveChangedAreTranslated) {
  Kept kept;
  const Counts first = run_once();
  std::vector<uint8_t> changed(program().begin(), program().end());
  changed[3] = 53;  // mov ecx, 53: the sum is odd again, so that the same jumps are taken
  const Counts second = run_once({}, changed);
  EXPECT_GT(second.translated, 0u);
  EXPECT_LT(second.translated, 5u);
  EXPECT_NE(second.rax, first.rax);
}

// Numbers as a kernel that relocates itself has them: an absolute displacement, a sign-extended immediate, a far call's distance. Each block of the second
// VM differs from the first one's in its number alone.
GUEST_CODE(relocated, "mov r8, 0xffffffff80100000; mov rsi, 0xffffffff80300000; sub rsi, r8; xor eax, eax; mov ecx, 3; 1: "
                      "\n.rept 70\ncmp rax, -1; je 9f; movabs rdx, 0xffffffff80300010; sub rdx, r8; add rax, rdx; "
                      "mov rdx, -0x7fd00000; add rax, rdx; lea rdx, [rcx - 0x7fd00000]; add rax, rdx; jmp 2f; 2: \n.endr\n"
                      "dec ecx; jnz 1b; 9: hlt")
TEST(StoredCode, NumbersOfRelocatedCodeAreFollowed) {
  Kept kept;
  const Counts first = run_once({}, relocated());
  std::vector<uint8_t> moved(relocated().begin(), relocated().end());
  unsigned replaced = 0;
  for (size_t i = 0; i + 4 <= moved.size(); i++) {
    uint32_t v;
    memcpy(&v, &moved[i], 4);
    if (v != 0x80300000 && v != 0x80300010) continue;
    v += 0x2600000;
    memcpy(&moved[i], &v, 4);
    replaced++, i += 3;
  }
  ASSERT_GT(replaced, 150u);
  const Counts second = run_once({}, moved), third = [&] {
    StoredCode::keep_nothing();
    return run_once({}, moved);
  }();
  EXPECT_EQ(second.rax, third.rax);  // as translated
  EXPECT_NE(second.rax, first.rax);
  EXPECT_LT(second.translated, 3u);
  EXPECT_GE(second.restored, first.translated - 3);
}

TEST(StoredCode, AnotherCpuOrOtherSwitchesHaveAFileOfTheirOwn) {
  Kept kept;
  const Counts first = run_once();
  auto other_vendor = [](TestMachine& m) { m.vcpu->vendor_is_amd = !m.vcpu->vendor_is_amd; };
  EXPECT_EQ(run_once(other_vendor).restored, 0u);
  auto no_avx = [](TestMachine& m) {
    for (uint32_t& word : m.cpuid->words) word &= ~0u << 31;
  };
  EXPECT_EQ(run_once(no_avx).restored, 0u);
  EXPECT_EQ(kept.files(), 3u);
  {
    SwitchesOff off("dead-flags");
    EXPECT_EQ(run_once().restored, 0u);
  }
  EXPECT_EQ(kept.files(), 4u);
  EXPECT_EQ(run_once().restored, first.translated);
}

TEST(StoredCode, ASecondVcpuOfAnotherKindTakesAndLeavesNothing) {
  Kept kept;
  TestMachine m;
  EXPECT_NE(m.vm->stored->blocks_for(*m.vcpu), nullptr);
  m.vcpu->vendor_is_amd = !m.vcpu->vendor_is_amd;
  EXPECT_EQ(m.vm->stored->blocks_for(*m.vcpu), nullptr);
}

TEST(StoredCode, ItsSwitchLeavesItOut) {
  Kept kept;
  run_once();
  SwitchesOff off("stored-code");
  const Counts c = run_once();
  EXPECT_EQ(c.restored, 0u);
  EXPECT_EQ(c.stored, 0u);
  EXPECT_EQ(kept.files(), 1u);
}

// The guest overwrites its own code: what is restored afterwards has to be of the new bytes, though the old ones' block is stored as well.
GUEST_CODE(rewriter, "mov edi, 0x340000; mov byte ptr [rdi], 0xb8; mov byte ptr [rdi + 5], 0xc3; xor ebx, ebx; mov ecx, 100; "
                     "1: mov [rdi + 1], ecx; call rdi; add rbx, rax; dec ecx; jnz 1b; hlt")
TEST(StoredCode, SelfModifyingCodeGetsTheBlockOfWhatIsThereNow) {
  Kept kept;
  const Counts first = run_once({}, rewriter()), second = run_once({}, rewriter());
  EXPECT_EQ(first.rbx, 5050u);
  EXPECT_EQ(second.rbx, 5050u);
  EXPECT_GE(second.restored, 100u);
}

// A HLT, and behind it in the same page functions that are called in turn: (1 + 2 + ... + 80) * 3, with branches inside of the page.
GUEST_CODE(called, "hlt; mov ecx, 3; xor ebx, ebx; xor r8d, r8d; 1: \n.set n, 1\n.rept 80\ncall 100f + (n - 1) * 32\n.set n, n + 1\n.endr\n dec ecx; jnz 1b; hlt; .balign 32; "
                   "100: \n.set n, 1\n.rept 80\n101: mov eax, n; test al, al; jz 102f; add rbx, rax; 102: test ebx, ebx; js 102b; ret; .balign 32\n.set n, n + 1\n.endr")
constexpr uint64_t kSum = 80 * 81 / 2 * 3;

struct CalledMachine : TestMachine {
  CalledMachine() {
    if (!vm->stored) return;
    vcpu->engine->stored = vm->stored->blocks_for(*vcpu);
    vcpu->engine->stored_known = true;
    vm->stored->wait_until_read();
  }
  // The HLT alone.
  void begin() { EXPECT_EQ(run(called()), unsigned{KVM_EXIT_HLT}); }
  uint64_t sum() {
    vcpu->rip = kCode + 1;
    EXPECT_EQ(go(), unsigned{KVM_EXIT_HLT});
    return vcpu->gpr[kRbx];
  }
  VcpuCounters& counters() { return vcpu->engine->counters; }
};

TEST(StoredCode, ThePagesOtherBlocksComeWithTheFirst) {
  ASSERT_LT(called().size(), 4096u);
  Kept kept;
  uint64_t all, lookups;
  {
    CalledMachine first;
    first.begin();
    EXPECT_EQ(first.sum(), kSum);
    all = first.counters().blocks_translated;
    lookups = first.counters().lookups;
    EXPECT_GT(all, 150u);
  }
  CalledMachine second;
  second.begin();
  EXPECT_EQ(second.counters().blocks_restored, all);
  EXPECT_EQ(second.counters().blocks_translated, 0u);
  // Jumps inside of the page are linked, and what lookups found before has its jump entries.
  const uint64_t before = second.counters().lookups;
  EXPECT_EQ(second.sum(), kSum);
  EXPECT_EQ(second.counters().blocks_restored, all);
  EXPECT_LE(second.counters().lookups - before, second.vm->off ? ~uint64_t{0} : 5u) << lookups;
}

// Found by a vCPU that keeps none: of another kind than the first.
TEST(StoredCode, AVcpuThatKeepsNoCodeRunsWhatOthersHaveRestored) {
  Kept kept;
  {
    CalledMachine first;
    first.begin();
    EXPECT_EQ(first.sum(), kSum);
  }
  CalledMachine second;
  second.begin();
  second.vcpu->engine->stored = nullptr;
  second.vcpu->rip = TestMachine::kCode + 11;  // the loop, which only a jump inside of the page has led to
  second.vcpu->gpr[kRcx] = 2;
  second.vcpu->gpr[kRbx] = 0;
  EXPECT_EQ(second.go(), unsigned{KVM_EXIT_HLT});
  EXPECT_EQ(second.vcpu->gpr[kRbx], kSum / 3 * 2);
}

TEST(StoredCode, OfThePagesOtherBlocksOnlyThoseComeWhoseBytesAreThere) {
  Kept kept;
  uint64_t all;
  {
    CalledMachine first;
    first.begin();
    EXPECT_EQ(first.sum(), kSum);
    all = first.counters().blocks_translated;
  }
  CalledMachine second;
  std::vector<uint8_t> code(called().begin(), called().end());
  const size_t functions = code.size() - 80 * 32;
  ASSERT_EQ(code[functions + 9 * 32], 0xb8);  // mov eax, 10
  code[functions + 9 * 32 + 1] = 110;
  EXPECT_EQ(second.run(code), unsigned{KVM_EXIT_HLT});
  EXPECT_LT(second.counters().blocks_restored, all);
  EXPECT_GT(second.counters().blocks_restored, all - 10);
  EXPECT_EQ(second.sum(), kSum + 300);
  // And those that have come are dropped where they are overwritten.
  code[functions + 19 * 32 + 1] = 120;
  memcpy(second.ram + TestMachine::kCode, code.data(), code.size());
  second.vm->notice_write(second.ram + TestMachine::kCode, code.size());
  EXPECT_EQ(second.sum(), kSum + 600);
}

// --- files that are not to be believed

// The warning of a file that is not used is one line.
std::string warned(const std::function<void()>& f) {
  testing::internal::CaptureStderr();
  f();
  return testing::internal::GetCapturedStderr();
}
void expect_refused(const std::string& why, uint64_t restored_at_most = 0) {
  Counts c;
  const std::string said = warned([&] { c = run_once(); });
  EXPECT_LE(c.restored, restored_at_most) << why;
  EXPECT_GT(c.translated, 0u);
  EXPECT_NE(said.find("code cache: "), std::string::npos) << why;
  EXPECT_NE(said.find("it is not used"), std::string::npos) << said;
  EXPECT_NE(said.find(why), std::string::npos) << said;
  EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
}

void flip(const std::string& path, off_t at) {
  const int fd = open(path.c_str(), O_RDWR);
  uint8_t byte;
  ASSERT_EQ(pread(fd, &byte, 1, at), 1);
  byte ^= 0x10;
  ASSERT_EQ(pwrite(fd, &byte, 1, at), 1);
  close(fd);
}

TEST(StoredCodeFile, OneFlippedBitAnywhereIsSeen) {
  Kept kept;
  run_once();
  const auto good = std::filesystem::file_size(kept.file());
  for (off_t at : {off_t{0}, off_t{8}, off_t{12}, off_t{16}, off_t{60}, off_t{48}, off_t{56}, off_t{70}, off_t{100}, off_t{140}, off_t{300}, static_cast<off_t>(good / 2), static_cast<off_t>(good - 1)}) {
    std::filesystem::copy_file(kept.file(), kept.path + "/good", std::filesystem::copy_options::overwrite_existing);
    flip(kept.file(), at);
    SCOPED_TRACE(at);
    expect_refused(".code: ");
    std::filesystem::rename(kept.path + "/good", kept.file());
  }
  EXPECT_GT(run_once().restored, 150u);
}

TEST(StoredCodeFile, ATruncatedOrLongerOneIsRefused) {
  Kept kept;
  run_once();
  const std::string file = kept.file();
  const auto size = std::filesystem::file_size(file);
  std::filesystem::copy_file(file, kept.path + "/good");
  for (size_t to : {size - 1, size - 4096, size / 2, size_t{200}, size_t{95}, size_t{1}, size_t{0}, size + 8}) {
    std::filesystem::copy_file(kept.path + "/good", file, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(file, to);
    SCOPED_TRACE(to);
    expect_refused(".code: ");
  }
}

TEST(StoredCodeFile, OneThatOthersMayWriteIsRefused) {
  Kept kept;
  run_once();
  for (mode_t mode : {0620, 0602}) {
    chmod(kept.file().c_str(), mode);
    expect_refused("others than its owner may write to it");
  }
}

TEST(StoredCodeFile, OneOfAnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "giving files away needs root";
  Kept kept;
  run_once();
  ASSERT_EQ(chown(kept.file().c_str(), 12345, 12345), 0);
  expect_refused("it belongs to user 12345");
}

TEST(StoredCodeFile, SymbolicLinksAndOtherThingsAreNotFollowed) {
  Kept kept;
  run_once();
  const std::string file = kept.file();
  std::filesystem::rename(file, kept.path + "/elsewhere");
  std::filesystem::create_symlink(kept.path + "/elsewhere", file);
  expect_refused("symbolic link");
  std::filesystem::remove(file);
  ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
  expect_refused("no regular file");
}

TEST(StoredCodeFile, OneOfAnotherEngineUnderThisNameIsRefused) {
  Kept kept;
  run_once();
  const std::string mine = kept.file();
  run_once([](TestMachine& m) { m.vcpu->vendor_is_amd = !m.vcpu->vendor_is_amd; });
  for (const auto& entry : std::filesystem::directory_iterator(kept.path))
    if (entry.path().extension() == CodeFolder::kSuffix && entry.path() != mine) std::filesystem::copy_file(entry.path(), mine, std::filesystem::copy_options::overwrite_existing);
  expect_refused("another engine");
}

TEST(CodeFolder, IsRefusedWhereOthersMayWriteOrItIsALink) {
  char name[] = "/tmp/vireo-folder-XXXXXX";
  const std::string path = mkdtemp(name);
  auto why = [](const std::string& folder) {
    auto opened = CodeFolder::open(folder, 1u << 20);
    return opened ? std::string() : opened.error().message;
  };
  EXPECT_EQ(why(path), "");
  EXPECT_EQ(why(path + "/new"), "");
  struct stat info;
  ASSERT_EQ(stat((path + "/new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_NE(why(path + "/a/b").find("No such file"), std::string::npos);
  std::filesystem::create_symlink(path + "/new", path + "/link");
  EXPECT_NE(why(path + "/link").find("symbolic link"), std::string::npos);
  std::ofstream(path + "/file") << "x";
  EXPECT_NE(why(path + "/file").find("no folder"), std::string::npos);
  chmod((path + "/new").c_str(), 0770);
  EXPECT_NE(why(path + "/new").find("others than its owner"), std::string::npos);
  if (geteuid() == 0) {
    chmod((path + "/new").c_str(), 0700);
    ASSERT_EQ(chown((path + "/new").c_str(), 12345, 12345), 0);
    EXPECT_NE(why(path + "/new").find("belongs to user 12345"), std::string::npos);
  }
  std::filesystem::remove_all(path);
}

TEST(CodeFolder, KeepsToItsBoundByWhatWasUsedLongestAgo) {
  char name[] = "/tmp/vireo-folder-XXXXXX";
  const std::string path = mkdtemp(name);
  auto folder = CodeFolder::open(path, 1u << 20);
  ASSERT_TRUE(folder);
  for (int i = 0; i < 4; i++) {
    const std::string file = path + "/" + std::to_string(i) + CodeFolder::kSuffix;
    std::ofstream(file) << std::string(400u << 10, 'x');
    const timespec times[2] = {{1000 + i, 0}, {1000 + i, 0}};
    utimensat(AT_FDCWD, file.c_str(), times, 0);
  }
  std::ofstream(path + "/.new-1-2-3") << "left by who was killed";
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  utimensat(AT_FDCWD, (path + "/.new-1-2-3").c_str(), old, 0);
  ASSERT_TRUE(folder->open_file(std::string("1") + CodeFolder::kSuffix));  // is used now
  folder->tidy(std::string("0") + CodeFolder::kSuffix);
  auto there = [&](const char* file) { return std::filesystem::exists(path + "/" + file + CodeFolder::kSuffix); };
  EXPECT_TRUE(there("0"));  // was written just now
  EXPECT_TRUE(there("1"));
  EXPECT_FALSE(there("2"));
  EXPECT_FALSE(there("3"));
  EXPECT_FALSE(std::filesystem::exists(path + "/.new-1-2-3"));
  std::filesystem::remove_all(path);
}

// Processes that use and write one folder at the same time, with code of their own and code in common.
TEST(StoredCode, SeveralProcessesShareAFolder) {
  Kept kept;
  auto run_in_child = [&](unsigned number) {
    const pid_t child = fork();
    if (child) return child;
    std::vector<uint8_t> code(program().begin(), program().end());
    bool good = true;
    for (unsigned i = 0; i < 8; i++) {
      code[3] = static_cast<uint8_t>(10 + number * 8 + i);
      const uint64_t sum = code[3] * (code[3] + 1u) / 2;
      TestMachine m;
      good &= m.run(code) == KVM_EXIT_HLT && sum != 0;
    }
    _exit(good ? 0 : 1);
  };
  pid_t children[4];
  for (unsigned i = 0; i < 4; i++) children[i] = run_in_child(i);
  for (pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(kept.files(), 1u);
  Counts c;
  EXPECT_EQ(warned([&] { c = run_once(); }), "");
  EXPECT_GT(c.restored, 150u);
}

// What another process wrote meanwhile is kept beside what this one has made.
TEST(StoredCode, AWritingKeepsWhatAnotherHasWrittenSince) {
  Kept kept;
  auto machine = std::make_unique<TestMachine>();
  ASSERT_EQ(machine->run(relocated()), unsigned{KVM_EXIT_HLT});
  machine->vm->stored->wait_until_read();
  const Counts other = run_once();
  EXPECT_EQ(other.restored, 0u);
  machine.reset();
  EXPECT_EQ(run_once().translated, 0u);
  EXPECT_EQ(run_once({}, relocated()).translated, 0u);
}

}  // namespace
}  // namespace vireo::softkvm
