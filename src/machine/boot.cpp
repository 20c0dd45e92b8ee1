// SPDX-License-Identifier: Apache-2.0
#include "machine/boot.h"

#include <algorithm>
#include <cstdio>

#include "machine/elf_image.h"
#include "machine/multiboot.h"

namespace vireo {
namespace {

constexpr uint64_t kLinuxMagicOffset = 0x202, kSetupSectorsOffset = 0x1f1;
constexpr uint32_t kLinuxMagic = 0x53726448;  // "HdrS"

}  // namespace

std::string in_mib(uint64_t bytes) { return std::to_string((bytes >> 20) + (bytes % (1 << 20) != 0)) + " MiB"; }

std::string more_memory(const BootEnvironment& environment) {
  const auto& regions = environment.memory.regions();
  if (regions.size() == 1) return "give it more with --memory";
  return "below 4 GiB this board has " + in_mib(regions.front().size) + " at the most";
}

Result<> keep_clear(uint64_t start, uint64_t end, std::initializer_list<BootData> data) {
  for (const BootData& d : data) {
    if (start >= d.end || end <= d.start) continue;
    char text[80];
    snprintf(text, sizeof text, "lies where its boot data go, from 0x%llx to 0x%llx", static_cast<unsigned long long>(d.start), static_cast<unsigned long long>(d.end));
    return fail(ErrorKind::kUnsupported, text);
  }
  return {};
}

uint64_t linux_setup_size(const FileView& image) {
  uint32_t magic = 0;
  uint8_t sectors = 0;
  if (!image.get(kLinuxMagicOffset, magic) || magic != kLinuxMagic || !image.get(kSetupSectorsOffset, sectors)) return 0;
  return (uint64_t{sectors ? sectors : uint8_t{4}} + 1) * 512;
}

Result<BootImage> BootImage::open(const BootConfig& config) {
  BootImage image;
  image.config_ = config;
  image.kernel_ = TRY(FileView::open(config.kernel, "--kernel"));
  if (!config.initrd.empty()) image.initrd_ = TRY(FileView::open(config.initrd, "--initrd"));
  image.elf_ = ElfImage::is_elf(image.kernel_);
  bool multiboot = find_multiboot_header(image.kernel_).has_value();
  bool bzimage = !image.elf_ && linux_setup_size(image.kernel_);
  bool pvh = false, elf64 = false;
  if (image.elf_) {
    auto elf = ElfImage::parse(image.kernel_);
    if (!elf) return std::unexpected(std::move(elf).error().within("--kernel " + config.kernel));
    pvh = elf->pvh_entry.has_value();
    elf64 = elf->is64;
  }
  image.protocol_ = config.protocol;
  switch (config.protocol) {
    case BootProtocol::kAuto:
      if (bzimage)
        image.protocol_ = BootProtocol::kLinux64;
      else if (multiboot)
        image.protocol_ = BootProtocol::kMultiboot;
      else if (pvh)
        image.protocol_ = BootProtocol::kPvh;
      else if (image.elf_)
        image.protocol_ = BootProtocol::kLinux64;
      else
        return fail(ErrorKind::kInvalid, image.kernel_named("not a kernel (neither bzImage, ELF nor multiboot)"));
      break;
    case BootProtocol::kLinux64:
    case BootProtocol::kLinux32:
      if (!bzimage && !image.elf_) return fail(ErrorKind::kInvalid, image.kernel_named("not a Linux kernel"));
      if (config.protocol == BootProtocol::kLinux32 && elf64)
        return fail(ErrorKind::kInvalid, image.kernel_named("a 64-bit ELF kernel has no 32-bit Linux entry (pvh may be one)"));
      break;
    case BootProtocol::kPvh:
      if (!pvh) return fail(ErrorKind::kInvalid, image.kernel_named("has no PVH entry note"));
      break;
    case BootProtocol::kMultiboot:
      if (!multiboot) return fail(ErrorKind::kInvalid, image.kernel_named("has no multiboot header"));
      break;
  }
  return image;
}

Result<CpuEntry> BootImage::load(const BootEnvironment& environment) const {
  auto entry = [&]() -> Result<CpuEntry> {
    switch (protocol_) {
      case BootProtocol::kPvh: return load_pvh(environment);
      case BootProtocol::kMultiboot: return load_multiboot(environment);
      default: return elf_ ? load_vmlinux(environment) : load_bzimage(environment);
    }
  }();
  if (!entry) return std::unexpected(std::move(entry).error().within("--kernel " + config_.kernel));
  return entry;
}

Result<BootImage::Placed> BootImage::place_initrd(const BootEnvironment& environment, uint64_t floor, uint64_t limit) const {
  uint64_t size = initrd_.bytes().size();
  if (!size) return Placed{};
  const MemoryRegion& low = environment.memory.regions().front();
  uint64_t top = std::min(low.size, limit);
  if (size > top || ((top - size) & ~0xfffull) < floor) {
    const std::string advice = limit < low.size ? "this kernel takes none above that" : more_memory(environment);
    return fail(ErrorKind::kInvalid, "--initrd " + config_.initrd + ": " + in_mib(size) + " do not fit between " + in_mib(floor) + " and " + in_mib(top) + "; " + advice);
  }
  uint64_t start = (top - size) & ~0xfffull;
  if (!environment.memory.write(GuestAddress{start}, initrd_.bytes())) return fail(ErrorKind::kInternal, "initrd outside memory");
  return Placed{start, size};
}

Result<> BootImage::place_command_line(const BootEnvironment& environment, uint64_t at, uint64_t room, const std::string& text) const {
  if (text.size() + 1 > room)
    return fail(ErrorKind::kInvalid, "--append: " + std::to_string(text.size()) + " bytes, this kernel takes " + std::to_string(room - 1));
  if (!environment.memory.write(GuestAddress{at}, std::as_bytes(std::span(text.c_str(), text.size() + 1))))
    return fail(ErrorKind::kInvalid, "memory too small for the command line");
  return {};
}

}  // namespace vireo
