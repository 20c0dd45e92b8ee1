// SPDX-License-Identifier: Apache-2.0
// Kernels that are nothing but headers, loaded into memory without a machine.
#include "machine/boot.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

namespace vireo {
namespace {

using Bytes = std::vector<std::byte>;

template <class T>
void put(Bytes& to, uint64_t at, const T& value) {
  if (to.size() < at + sizeof value) to.resize(at + sizeof value);
  memcpy(&to[at], &value, sizeof value);
}

class File {
 public:
  explicit File(const Bytes& bytes) {
    int fd = mkstemp(path_);
    EXPECT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    close(fd);
  }
  ~File() { unlink(path_); }
  std::string path() const { return path_; }

 private:
  char path_[32] = "/tmp/vireo-boot-XXXXXX";
};

// A bzImage whose kernel proper is 512 bytes of nothing.
Bytes bzimage(uint64_t pref_address, uint32_t init_size, bool relocatable, uint32_t initrd_most = 0x7fffffff) {
  Bytes file(1536);
  boot_params params{};
  params.hdr.setup_sects = 1;
  params.hdr.boot_flag = 0xaa55;
  params.hdr.jump = 0x6aeb;
  params.hdr.header = 0x53726448;
  params.hdr.version = 0x020f;
  params.hdr.loadflags = LOADED_HIGH;
  params.hdr.xloadflags = XLF_KERNEL_64;
  params.hdr.relocatable_kernel = relocatable;
  params.hdr.pref_address = pref_address;
  params.hdr.init_size = init_size;
  params.hdr.cmdline_size = 255;
  params.hdr.initrd_addr_max = initrd_most;
  memcpy(&file[0x1f1], &params.hdr, sizeof params.hdr);
  return file;
}

// An ELF kernel with one segment of 16 bytes in the file; with a PVH entry, or a multiboot header, where it says so.
struct Elf {
  uint64_t physical = 0x100000, size = 0x1000, entry = 0x100000;
  bool pvh = false, multiboot = false;
  Bytes bytes() const {
    Bytes file(0x1010);
    Elf64_Ehdr head{};
    memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_type = ET_EXEC, head.e_machine = EM_X86_64, head.e_entry = entry, head.e_phoff = sizeof head, head.e_phnum = 2;
    put(file, 0, head);
    put(file, sizeof head, Elf64_Phdr{PT_LOAD, PF_R | PF_X, 0x1000, physical, physical, 16, size, 0});
    put(file, sizeof head + sizeof(Elf64_Phdr), Elf64_Phdr{PT_NOTE, PF_R, 0x200, 0, 0, pvh ? 20u : 0u, pvh ? 20u : 0u, 4});
    if (pvh) {
      put(file, 0x200, Elf64_Nhdr{4, 4, 18});  // XEN_ELFNOTE_PHYS32_ENTRY
      put(file, 0x20c, std::array<char, 4>{'X', 'e', 'n', 0});
      put(file, 0x210, static_cast<uint32_t>(physical));
    }
    if (multiboot) put(file, 0x400, std::array<uint32_t, 3>{0x1badb002, 0, 0u - 0x1badb002});
    return file;
  }
};

class BootTest : public testing::Test {
 protected:
  static constexpr uint64_t kMiB = 1 << 20;
  Result<CpuEntry> load(const Bytes& kernel, uint64_t initrd = 0, uint64_t memory_size = 64 * kMiB, uint64_t low_limit = 0x80000000) {
    File file(kernel), second(Bytes(initrd, std::byte{0x77}));
    kernel_path = file.path();
    initrd_path = second.path();
    memory = std::move(*GuestMemory::create({.size = memory_size}, low_limit));
    auto image = TRY(BootImage::open({.kernel = file.path(), .initrd = initrd ? second.path() : ""}));
    return image.load({*memory, {{0, 0x9fc00, MemoryMapEntry::kRam}}});
  }
  std::string refusal(const Bytes& kernel, uint64_t initrd = 0, uint64_t memory_size = 64 * kMiB, uint64_t low_limit = 0x80000000) {
    auto loaded = load(kernel, initrd, memory_size, low_limit);
    return loaded ? "loaded" : loaded.error().message;
  }
  static bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }
  std::unique_ptr<GuestMemory> memory;
  std::string kernel_path, initrd_path;
};

TEST_F(BootTest, AKernelThatCannotBeMovedGoesWhereItWantsToBe) {
  auto entry = load(bzimage(0x200000, 0x10000, false));
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->rip, 0x200200u);
}

TEST_F(BootTest, WhereNoKernelCanBeItIsRefused) {
  const std::string low = refusal(bzimage(0x10000, 0x10000, false));
  EXPECT_TRUE(says(low, "below 1 MiB")) << low;
  for (uint64_t address : {0xffff8000ull, 0x100000000ull, ~0ull}) {
    const std::string high = refusal(bzimage(address, 0x10000, false));
    EXPECT_TRUE(says(high, "4 GiB")) << high;
    EXPECT_FALSE(says(high, "--memory")) << high;
  }
}

TEST_F(BootTest, MoreMemoryIsAskedForWhereItHelps) {
  const Bytes kernel = bzimage(0x200000, 80 * kMiB, true);
  EXPECT_TRUE(says(refusal(kernel), "give it more with --memory"));
  // The rest lies above 4 GiB.
  const std::string full = refusal(kernel, 0, 96 * kMiB, 64 * kMiB);
  EXPECT_FALSE(says(full, "give it more")) << full;
  EXPECT_TRUE(says(full, "64 MiB")) << full;
}

TEST_F(BootTest, AnInitrdThatDoesNotFitIsNamedWithWhatLimitsIt) {
  const Bytes kernel = bzimage(0x200000, 10 * kMiB, true);
  std::string message = refusal(kernel, 60 * kMiB);
  EXPECT_TRUE(says(message, "--initrd " + initrd_path)) << message;
  EXPECT_TRUE(says(message, "give it more with --memory")) << message;
  message = refusal(kernel, 60 * kMiB, 96 * kMiB, 64 * kMiB);
  EXPECT_TRUE(says(message, "--initrd " + initrd_path)) << message;
  EXPECT_FALSE(says(message, "give it more")) << message;
  message = refusal(bzimage(0x200000, 10 * kMiB, true, 32 * kMiB - 1), 30 * kMiB);
  EXPECT_TRUE(says(message, "--initrd " + initrd_path)) << message;
  EXPECT_TRUE(says(message, "32 MiB")) << message;
  EXPECT_FALSE(says(message, "give it more")) << message;
}

// With 2 MiB of memory, an initrd of 1.5 would begin in the first, where boot data and the BIOS area are.
TEST_F(BootTest, AnInitrdLiesAboveTheFirstMegabyteWhereverTheKernelIs) {
  for (Elf kernel : {Elf{.physical = 0x50000, .entry = 0x50000, .pvh = true}, Elf{.physical = 0x50000, .entry = 0x50000}, Elf{.physical = 0x50000, .entry = 0x50000, .multiboot = true}}) {
    EXPECT_TRUE(says(refusal(kernel.bytes(), kMiB * 3 / 2, 2 * kMiB), "--initrd"));
    EXPECT_EQ(refusal(kernel.bytes(), kMiB / 2, 2 * kMiB), "loaded");
  }
}

TEST_F(BootTest, AMultibootKernelIsEnteredBelow4GiB) {
  EXPECT_EQ(refusal(Elf{.multiboot = true}.bytes()), "loaded");
  const std::string message = refusal(Elf{.entry = 0xffffffff80100000, .multiboot = true}.bytes());
  EXPECT_TRUE(says(message, "entry")) << message;
}

TEST_F(BootTest, AnElfKernelIsEnteredBelow4GiB) {
  EXPECT_EQ(refusal(Elf{}.bytes()), "loaded");
  const std::string message = refusal(Elf{.entry = 0xffffffff80100000}.bytes());
  EXPECT_TRUE(says(message, "entry")) << message;
}

TEST_F(BootTest, AnElfKernelDoesNotLieWhereItsBootDataGo) {
  for (uint64_t at : {0x500, 0x9000, 0xf000, 0x10000, 0x2f000}) {
    const std::string message = refusal(Elf{.physical = at, .entry = at}.bytes());
    EXPECT_TRUE(says(message, "boot data")) << std::hex << at << ' ' << message;
  }
  for (uint64_t at : {0x500, 0x6000, 0x67ff, 0x20000}) {
    const std::string message = refusal(Elf{.physical = at, .entry = at, .pvh = true}.bytes());
    EXPECT_TRUE(says(message, "boot data")) << std::hex << at << ' ' << message;
  }
  for (Elf kernel : {Elf{.physical = 0x11000, .entry = 0x11000}, Elf{.physical = 0x6800, .entry = 0x6800, .pvh = true}, Elf{.physical = 0x30000, .entry = 0x30000, .pvh = true}})
    EXPECT_EQ(refusal(kernel.bytes()), "loaded");
}

TEST_F(BootTest, AMultibootKernelDoesNotLieWhereItsBootDataGo) {
  for (Elf kernel : {Elf{.physical = 0x94fff, .entry = 0x94fff, .multiboot = true}, Elf{.physical = 0x80000, .size = 0x10001, .entry = 0x80000, .multiboot = true}}) {
    const std::string message = refusal(kernel.bytes());
    EXPECT_TRUE(says(message, "boot data")) << message;
  }
  for (Elf kernel : {Elf{.physical = 0x95000, .entry = 0x95000, .multiboot = true}, Elf{.physical = 0x80000, .size = 0x10000, .entry = 0x80000, .multiboot = true}})
    EXPECT_EQ(refusal(kernel.bytes()), "loaded");
  // With addresses of its own: header, load, load end, bss end, entry.
  Bytes flat;
  put(flat, 0, std::array<uint32_t, 8>{0x1badb002, 1u << 16, 0u - 0x1badb002 - (1u << 16), 0x80000, 0x80000, 0x80020, 0x90001, 0x80000});
  const std::string message = refusal(flat);
  EXPECT_TRUE(says(message, "boot data")) << message;
}

TEST_F(BootTest, AFifoIsRefusedAtOnce) {
  const std::string path = "/tmp/vireo-fifo-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  auto image = BootImage::open({.kernel = path});
  unlink(path.c_str());
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().message, "--kernel " + path + ": not a regular file");
}

}  // namespace
}  // namespace vireo
