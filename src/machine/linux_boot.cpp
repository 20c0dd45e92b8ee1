// SPDX-License-Identifier: Apache-2.0
// The Linux/x86 boot protocol. Spec: the kernel's Documentation/x86/boot.rst and zero-page.rst.
#include <asm/bootparam.h>

#include <algorithm>
#include <cstddef>

#include "machine/boot.h"
#include "machine/elf_image.h"
#include "machine/packed_kernel.h"

namespace vireo {
namespace {

constexpr uint64_t kZeroPage = 0x10000;
constexpr uint64_t kCommandLine = 0x20000;
constexpr uint64_t kCommandLineRoom = 0x10000;
constexpr uint64_t kKernelStart = 0x100000;
constexpr uint16_t kOldestVersion = 0x020c;  // the first with xloadflags, Linux 3.8
constexpr uint8_t kLoaderUnregistered = 0xff;
constexpr uint64_t kEntry64 = 0x200;
constexpr uint64_t kIdentityMapped = 1ull << 32;  // by the page tables of cpu_entry.h

void fill_map(boot_params& params, const BootEnvironment& environment) {
  size_t count = std::min<size_t>(environment.map.size(), E820_MAX_ENTRIES_ZEROPAGE);
  for (size_t i = 0; i < count; i++)
    params.e820_table[i] = {environment.map[i].start, environment.map[i].size, environment.map[i].type};
  params.e820_entries = static_cast<uint8_t>(count);
  params.acpi_rsdp_addr = raw(environment.rsdp);
}

Result<> store(const BootEnvironment& environment, const boot_params& params) {
  if (!environment.memory.write(GuestAddress{kZeroPage}, std::as_bytes(std::span(&params, 1))))
    return fail(ErrorKind::kInvalid, "the guest's memory is too small; give it more with --memory");
  return {};
}

}  // namespace

Result<CpuEntry> BootImage::load_bzimage(const BootEnvironment& environment) const {
  boot_params params{};
  // The header ends where the jump at its start leads to (boot.rst, "jump": offset 0x202 + byte at 0x201).
  uint8_t jump = 0;
  kernel_.get(0x201, jump);
  constexpr uint64_t kHeaderStart = offsetof(boot_params, hdr);
  uint64_t header_end = std::min<uint64_t>(0x202 + jump, kHeaderStart + sizeof params.hdr);
  auto header = kernel_.slice(kHeaderStart, header_end - kHeaderStart);
  if (header.empty()) return fail(ErrorKind::kCorrupt, "setup header is cut off");
  memcpy(reinterpret_cast<std::byte*>(&params) + kHeaderStart, header.data(), header.size());
  setup_header& h = params.hdr;
  if (h.version < kOldestVersion) return fail(ErrorKind::kUnsupported, "boot protocol older than 2.12");
  if (!(h.loadflags & LOADED_HIGH)) return fail(ErrorKind::kUnsupported, "a zImage, not a bzImage");
  bool wide = protocol_ == BootProtocol::kLinux64;
  // A 32-bit kernel has no 64-bit entry: it is entered as it can be.
  if (wide && !(h.xloadflags & XLF_KERNEL_64)) wide = false;

  uint64_t setup = linux_setup_size(kernel_);
  if (setup >= kernel_.bytes().size()) return fail(ErrorKind::kCorrupt, "the kernel proper is missing");
  auto code = kernel_.bytes().subspan(setup);
  uint64_t start = h.relocatable_kernel ? std::max<uint64_t>(kKernelStart, h.pref_address) : h.pref_address;
  uint64_t need = std::max<uint64_t>(h.init_size, code.size());
  if (start < kKernelStart)
    return fail(ErrorKind::kUnsupported, "cannot be moved from where it wants to be, below 1 MiB, where its boot data go");
  if (need > kIdentityMapped || start > kIdentityMapped - need) return fail(ErrorKind::kUnsupported, "does not lie below 4 GiB, where kernels are entered");
  if (environment.memory.range(GuestAddress{start}, need).empty())
    return fail(ErrorKind::kInvalid, "needs " + in_mib(start + need) + " to start; " + more_memory(environment));
  h.type_of_loader = kLoaderUnregistered;
  h.loadflags |= CAN_USE_HEAP;
  h.heap_end_ptr = 0xfe00;
  h.code32_start = static_cast<uint32_t>(start);
  h.cmd_line_ptr = static_cast<uint32_t>(kCommandLine);
  TRY_VOID(place_command_line(environment, kCommandLine, std::min<uint64_t>(kCommandLineRoom, uint64_t{h.cmdline_size} + 1), config_.append));
  Placed initrd = TRY(place_initrd(environment, start + need, uint64_t{h.initrd_addr_max} + 1));
  h.ramdisk_image = static_cast<uint32_t>(initrd.start);
  h.ramdisk_size = static_cast<uint32_t>(initrd.size);
  fill_map(params, environment);
  uint64_t entry = wide ? start + kEntry64 : start;
  if (auto unpacked = unpack_here(environment, h, code, initrd.size ? initrd.start : UINT64_MAX)) {
    entry = unpacked->entry;
    if (unpacked->randomized) h.loadflags |= KASLR_FLAG;
  } else {
    environment.memory.write(GuestAddress{start}, code);
  }
  TRY_VOID(store(environment, params));
  return CpuEntry{.mode = wide ? CpuEntry::Mode::kLong64 : CpuEntry::Mode::kProtected32,
                  .rip = entry,
                  .rsi = kZeroPage};
}

// In the RAM from the kernel's usual place up to the initrd. What asks for the boot protocol's own entry, by --boot-protocol, gets that.
std::optional<UnpackedKernel> BootImage::unpack_here(const BootEnvironment& environment, const setup_header& header, std::span<const std::byte> code, uint64_t initrd) const {
  if (config_.protocol != BootProtocol::kAuto || header.payload_offset > code.size() || header.payload_length > code.size() - header.payload_offset) return {};
  for (const MemoryMapEntry& entry : environment.map) {
    if (entry.type != MemoryMapEntry::kRam || entry.start > header.pref_address || header.pref_address - entry.start >= entry.size) continue;
    return unpack_kernel({.payload = code.subspan(header.payload_offset, header.payload_length),
                          .header = header,
                          .command_line = config_.append,
                          .low = std::max(entry.start, kKernelStart),
                          .high = std::min({entry.start + entry.size, initrd, kIdentityMapped})},
                         environment.memory);
  }
  return {};
}

// An uncompressed kernel has no setup header of its own: the loader makes one up.
Result<CpuEntry> BootImage::load_vmlinux(const BootEnvironment& environment) const {
  ElfImage elf = TRY(ElfImage::parse(kernel_));
  if (elf.physical_entry >= kIdentityMapped) return fail(ErrorKind::kUnsupported, "its entry lies in none of its segments, nor below 4 GiB, where kernels are entered");
  for (const ElfSegment& segment : elf.loaded)
    TRY_VOID(keep_clear(segment.physical, segment.physical + segment.memory_size,
                        {{kBootGdt, kBootGdtEnd}, {kBootPageTables, kBootDataEnd}, {kZeroPage, kZeroPage + sizeof(boot_params)}, {kCommandLine, kCommandLine + kCommandLineRoom}}));
  TRY_VOID(ElfImage::load(kernel_, environment.memory));
  boot_params params{};
  setup_header& h = params.hdr;
  h.boot_flag = 0xaa55;
  h.header = 0x53726448;
  h.version = 0x020f;
  h.type_of_loader = kLoaderUnregistered;
  h.loadflags = LOADED_HIGH;
  h.kernel_alignment = 0x1000000;
  h.cmd_line_ptr = static_cast<uint32_t>(kCommandLine);
  h.cmdline_size = 2047;
  TRY_VOID(place_command_line(environment, kCommandLine, kCommandLineRoom, config_.append));
  Placed initrd = TRY(place_initrd(environment, std::max(elf.end, kInitrdFloor), 0x80000000));
  h.ramdisk_image = static_cast<uint32_t>(initrd.start);
  h.ramdisk_size = static_cast<uint32_t>(initrd.size);
  fill_map(params, environment);
  TRY_VOID(store(environment, params));
  bool wide = protocol_ == BootProtocol::kLinux64 && elf.is64;
  return CpuEntry{.mode = wide ? CpuEntry::Mode::kLong64 : CpuEntry::Mode::kProtected32, .rip = elf.physical_entry, .rsi = kZeroPage};
}

}  // namespace vireo
