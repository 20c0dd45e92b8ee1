// SPDX-License-Identifier: Apache-2.0
// The PVH entry of ELF kernels. Spec: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h.
#include <algorithm>
#include <array>

#include "machine/boot.h"
#include "machine/elf_image.h"

namespace vireo {
namespace {

constexpr uint64_t kStartInfo = 0x6000, kModules = 0x6100, kMemoryMap = 0x6200, kMapRoom = 64;
constexpr uint64_t kCommandLine = 0x20000, kCommandLineRoom = 0x10000;
constexpr uint32_t kStartMagic = 0x336ec578;

struct StartInfo {
  uint32_t magic, version, flags, modules;
  uint64_t module_list, command_line, rsdp, memory_map;
  uint32_t memory_map_entries, reserved;
};
static_assert(sizeof(StartInfo) == 56);
struct Module {
  uint64_t start, size, command_line, reserved;
};
struct MapEntry {
  uint64_t start, size;
  uint32_t type, reserved;
};

}  // namespace

Result<CpuEntry> BootImage::load_pvh(const BootEnvironment& environment) const {
  ElfImage elf = TRY(ElfImage::parse(kernel_));
  for (const ElfSegment& segment : elf.loaded)
    TRY_VOID(keep_clear(segment.physical, segment.physical + segment.memory_size,
                        {{kBootGdt, kBootGdtEnd}, {kStartInfo, kMemoryMap + kMapRoom * sizeof(MapEntry)}, {kCommandLine, kCommandLine + kCommandLineRoom}}));
  TRY_VOID(ElfImage::load(kernel_, environment.memory));
  TRY_VOID(place_command_line(environment, kCommandLine, kCommandLineRoom, config_.append));
  Placed initrd = TRY(place_initrd(environment, std::max(elf.end, kInitrdFloor), 0x80000000));
  auto put = [&](uint64_t at, const auto& value) {
    return environment.memory.write(GuestAddress{at}, std::as_bytes(std::span(&value, 1)));
  };
  uint32_t entries = 0;
  bool ok = true;
  for (const MemoryMapEntry& line : environment.map) {
    if (entries == kMapRoom) break;
    ok &= put(kMemoryMap + entries++ * sizeof(MapEntry), MapEntry{line.start, line.size, line.type, 0});
  }
  ok &= put(kModules, Module{initrd.start, initrd.size, 0, 0});
  ok &= put(kStartInfo, StartInfo{.magic = kStartMagic,
                                  .version = 1,
                                  .flags = 0,
                                  .modules = initrd.size ? 1u : 0u,
                                  .module_list = initrd.size ? kModules : 0,
                                  .command_line = kCommandLine,
                                  .rsdp = raw(environment.rsdp),
                                  .memory_map = kMemoryMap,
                                  .memory_map_entries = entries,
                                  .reserved = 0});
  if (!ok) return fail(ErrorKind::kInvalid, "the guest's memory is too small; give it more with --memory");
  return CpuEntry{.mode = CpuEntry::Mode::kProtected32, .rip = *elf.pvh_entry, .rbx = kStartInfo};
}

}  // namespace vireo
