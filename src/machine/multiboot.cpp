// SPDX-License-Identifier: Apache-2.0
// Multiboot 1: finding the header, loading the kernel, and the information structure. Spec: Multiboot Specification 0.6.96.
#include "machine/multiboot.h"

#include <algorithm>

#include "machine/boot.h"
#include "machine/elf_image.h"

namespace vireo {
namespace {

constexpr uint32_t kHeaderMagic = 0x1badb002, kBootMagic = 0x2badb002;
constexpr uint32_t kAddressesGiven = 1u << 16, kUnknownMust = 0xfff8;
constexpr uint64_t kSearch = 8192;
// Boot data lies in the megabyte's upper half, clear of kernels that load low.
constexpr uint64_t kInfo = 0x90000, kModuleList = 0x90100, kMap = 0x90200, kName = 0x90800, kCommandLine = 0x91000,
                   kCommandLineRoom = 0x4000;
constexpr std::initializer_list<BootData> kBootData{{kBootGdt, kBootGdtEnd}, {kInfo, kCommandLine + kCommandLineRoom}};

struct Info {
  uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
  uint32_t drives_length, drives_addr, config_table, boot_loader_name;
};
static_assert(sizeof(Info) == 68);
struct Module {
  uint32_t start, end, string, reserved;
};
struct [[gnu::packed]] MapEntry {
  uint32_t size;
  uint64_t start, length;
  uint32_t type;
};

}  // namespace

std::optional<MultibootHeader> find_multiboot_header(const FileView& file) {
  uint32_t words[3];
  for (uint64_t at = 0; at + sizeof words <= kSearch && file.get(at, words); at += 4) {
    if (words[0] != kHeaderMagic || words[0] + words[1] + words[2] != 0) continue;
    MultibootHeader header{.file_offset = at, .flags = words[1]};
    if (words[1] & kAddressesGiven) {
      uint32_t addresses[5];
      if (!file.get(at + 12, addresses)) return {};
      header.header_address = addresses[0];
      header.load_address = addresses[1];
      header.load_end = addresses[2];
      header.bss_end = addresses[3];
      header.entry = addresses[4];
    }
    return header;
  }
  return {};
}

Result<CpuEntry> BootImage::load_multiboot(const BootEnvironment& environment) const {
  MultibootHeader header = *find_multiboot_header(kernel_);
  if (header.flags & kUnknownMust) return fail(ErrorKind::kUnsupported, "asks for multiboot features that are not there");
  GuestMemory& memory = environment.memory;
  uint64_t entry = 0, end = 0;
  if (elf_ && !(header.flags & kAddressesGiven)) {
    ElfImage elf = TRY(ElfImage::parse(kernel_));
    if (elf.physical_entry > 0xffffffff) return fail(ErrorKind::kUnsupported, "its entry lies in none of its segments, nor below 4 GiB, where multiboot enters");
    for (const ElfSegment& segment : elf.loaded) TRY_VOID(keep_clear(segment.physical, segment.physical + segment.memory_size, kBootData));
    TRY_VOID(ElfImage::load(kernel_, memory));
    entry = elf.physical_entry;
    end = elf.end;
  } else if (header.flags & kAddressesGiven) {
    uint64_t before = uint64_t{header.header_address} - header.load_address;
    if (header.header_address < header.load_address || before > header.file_offset)
      return fail(ErrorKind::kCorrupt, "multiboot header has impossible addresses");
    uint64_t from = header.file_offset - before;
    uint64_t size = header.load_end ? uint64_t{header.load_end} - header.load_address : kernel_.bytes().size() - from;
    auto bytes = kernel_.slice(from, size);
    if (bytes.empty() || (header.load_end && header.load_end < header.load_address))
      return fail(ErrorKind::kCorrupt, "multiboot header has impossible addresses");
    end = std::max<uint64_t>(header.load_address + size, header.bss_end);
    TRY_VOID(keep_clear(header.load_address, end, kBootData));
    auto target = memory.range(GuestAddress{header.load_address}, end - header.load_address);
    if (target.empty()) return fail(ErrorKind::kInvalid, "does not fit the guest's memory; give it more with --memory");
    std::ranges::copy(bytes, target.begin());
    std::ranges::fill(target.subspan(bytes.size()), std::byte{0});
    memory.notice_write(GuestAddress{header.load_address}, target.size());
    entry = header.entry;
  } else {
    return fail(ErrorKind::kUnsupported, "multiboot without ELF and without load addresses");
  }

  auto put = [&](uint64_t at, const auto& value) { return memory.write(GuestAddress{at}, std::as_bytes(std::span(&value, 1))); };
  // The first word is the program's name, the specification wants it there.
  TRY_VOID(place_command_line(environment, kCommandLine, kCommandLineRoom, config_.kernel + " " + config_.append));
  Placed module = TRY(place_initrd(environment, std::max(end, kInitrdFloor), 0xffffffff));
  bool ok = true;
  uint64_t low_kib = 0, upper_kib = 0;
  uint32_t map_size = 0;
  for (const MemoryMapEntry& line : environment.map) {
    if (map_size + sizeof(MapEntry) > kName - kMap) break;
    ok &= put(kMap + map_size, MapEntry{sizeof(MapEntry) - 4, line.start, line.size, line.type});
    map_size += sizeof(MapEntry);
    if (line.type != MemoryMapEntry::kRam) continue;
    if (line.start == 0) low_kib = line.size >> 10;
    if (line.start == 0x100000) upper_kib = line.size >> 10;
  }
  static constexpr char kLoader[] = "vireo";
  ok &= put(kName, kLoader);
  if (module.size)
    ok &= put(kModuleList, Module{static_cast<uint32_t>(module.start), static_cast<uint32_t>(module.start + module.size), static_cast<uint32_t>(kCommandLine), 0});
  ok &= put(kInfo, Info{.flags = 1u | 1u << 2 | 1u << 3 | 1u << 6 | 1u << 9,
                        .mem_lower = static_cast<uint32_t>(low_kib),
                        .mem_upper = static_cast<uint32_t>(upper_kib),
                        .boot_device = 0,
                        .cmdline = kCommandLine,
                        .mods_count = module.size ? 1u : 0u,
                        .mods_addr = kModuleList,
                        .syms = {},
                        .mmap_length = map_size,
                        .mmap_addr = kMap,
                        .drives_length = 0,
                        .drives_addr = 0,
                        .config_table = 0,
                        .boot_loader_name = kName});
  if (!ok) return fail(ErrorKind::kInvalid, "the guest's memory is too small; give it more with --memory");
  return CpuEntry{.mode = CpuEntry::Mode::kProtected32, .rip = entry, .rax = kBootMagic, .rbx = kInfo, .firmware_vectors = true};
}

}  // namespace vireo
