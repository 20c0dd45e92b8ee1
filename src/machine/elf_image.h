// SPDX-License-Identifier: Apache-2.0
// ELF kernels, 32 and 64 bits: loading their segments to physical addresses, and finding the PVH entry note.
// Spec: System V ABI, chapter 5; Xen's public elfnote.h for XEN_ELFNOTE_PHYS32_ENTRY.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "machine/file_view.h"
#include "memory/guest_memory.h"

namespace vireo {

struct ElfSegment {
  uint32_t type;
  uint64_t offset, virtual_address, physical, file_size, memory_size;
};

struct ElfHeaders {
  bool is64 = false;
  uint64_t entry = 0;
  std::vector<ElfSegment> segments;
  uint64_t sections_end = 0;  // in the file, behind the section headers
  // `start`: the file's first bytes, with all program headers.
  static Result<ElfHeaders> read(std::span<const std::byte> start);
};

struct ElfImage {
  bool is64 = false;
  uint64_t entry = 0;           // as the header says, usually virtual
  uint64_t physical_entry = 0;  // the same through the segment that holds it
  std::optional<uint32_t> pvh_entry;
  std::vector<ElfSegment> loaded;  // those that take memory
  uint64_t end = 0;                // first physical byte after all of them

  static bool is_elf(const FileView& file);
  // Reads headers and notes.
  static Result<ElfImage> parse(const FileView& file);
  // Copies PT_LOAD segments to their physical addresses and zeroes the rest of each.
  static Result<> load(const FileView& file, GuestMemory& memory);
};

}  // namespace vireo
