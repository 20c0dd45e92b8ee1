// SPDX-License-Identifier: Apache-2.0
// Direct boot: a kernel file, an initrd and a command line become guest memory and an entry state. Protocols: Linux/x86 (64- and
// 32-bit entry), PVH, multiboot 1.
#pragma once

#include <asm/bootparam.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "machine/cpu_entry.h"
#include "machine/file_view.h"
#include "machine/packed_kernel.h"
#include "memory/guest_memory.h"

namespace vireo {

enum class BootProtocol { kAuto, kLinux64, kLinux32, kPvh, kMultiboot };

struct BootConfig {
  std::string kernel, initrd, append;
  BootProtocol protocol = BootProtocol::kAuto;
};

// One line of the memory map; types as in e820.
struct MemoryMapEntry {
  static constexpr uint32_t kRam = 1, kReserved = 2;
  uint64_t start, size;
  uint32_t type;
};

struct BootEnvironment {
  GuestMemory& memory;
  std::vector<MemoryMapEntry> map;
  GuestAddress rsdp{0};
};

// For messages: rounded up; and what to do where the RAM below 4 GiB does not suffice.
std::string in_mib(uint64_t bytes);
std::string more_memory(const BootEnvironment& environment);

// Where a protocol puts what it tells the kernel.
struct BootData {
  uint64_t start, end;
};
// Fails where a kernel's part [start, end) lies there.
Result<> keep_clear(uint64_t start, uint64_t end, std::initializer_list<BootData> data);

// Of a Linux image (bzImage): how many bytes in front are for real mode, which its header says and the file need not have; 0: it is none.
// Spec: Linux's boot protocol, setup_sects.
uint64_t linux_setup_size(const FileView& image);

class BootImage {
 public:
  // Opens the files and finds the protocol; fails when the kernel is none we know.
  static Result<BootImage> open(const BootConfig& config);
  // Places everything; may be called again for each boot.
  Result<CpuEntry> load(const BootEnvironment& environment) const;
  BootProtocol protocol() const { return protocol_; }

 private:
  Result<CpuEntry> load_bzimage(const BootEnvironment& environment) const;
  std::optional<UnpackedKernel> unpack_here(const BootEnvironment& environment, const setup_header& header, std::span<const std::byte> code, uint64_t initrd) const;
  Result<CpuEntry> load_vmlinux(const BootEnvironment& environment) const;
  Result<CpuEntry> load_pvh(const BootEnvironment& environment) const;
  Result<CpuEntry> load_multiboot(const BootEnvironment& environment) const;
  // The first place for an initrd: above the kernel, and never among boot data and the BIOS area.
  static constexpr uint64_t kInitrdFloor = 0x100000;
  // Puts the initrd as high as `limit` allows, above `floor`; size 0 when there is none.
  struct Placed {
    uint64_t start = 0, size = 0;
  };
  Result<Placed> place_initrd(const BootEnvironment& environment, uint64_t floor, uint64_t limit) const;
  Result<> place_command_line(const BootEnvironment& environment, uint64_t at, uint64_t room, const std::string& text) const;
  std::string kernel_named(const char* reason) const { return "--kernel " + config_.kernel + ": " + reason; }

  BootConfig config_;
  FileView kernel_, initrd_;
  BootProtocol protocol_ = BootProtocol::kAuto;
  bool elf_ = false;
};

}  // namespace vireo
