// SPDX-License-Identifier: Apache-2.0
#include "machine/packed_kernel.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "machine/elf_image.h"
#include "machine/kernel_payload.h"
#include "machine/kernel_relocation.h"

namespace vireo {
namespace {

constexpr uint64_t kLinkedAtMost = 1 << 30;  // KERNEL_IMAGE_SIZE of kernels that can be moved: all of it lies in that much of its addresses
constexpr uint64_t kHeadersRoom = 4096;

// Evenly among `count`, at least 1; a failing source gives the first.
uint64_t random_below(uint64_t count) {
  uint64_t value = 0;
  if (getrandom(&value, sizeof value, 0) != sizeof value) return 0;
  return static_cast<uint64_t>((static_cast<unsigned __int128>(value) * count) >> 64);
}

struct Words {
  bool no_kaslr = false;    // neither place nor addresses are random
  bool memory_map = false;  // it changes which memory there is: the kernel is put where it always lies
};

Words words_of(std::string_view line) {
  Words words;
  while (!line.empty()) {
    const size_t end = std::min(line.find(' '), line.size());
    const std::string_view word = line.substr(0, end);
    line.remove_prefix(std::min(end + 1, line.size()));
    if (word == "--") break;  // what follows is init's
    if (word == "nokaslr") words.no_kaslr = true;
    for (std::string_view start : {"mem=", "memmap=", "hugepages=", "hugepagesz=", "default_hugepagesz=", "movable_node", "efi_fake_mem="})
      if (word.starts_with(start)) words.memory_map = true;
  }
  return words;
}

// As the kernel's file says: each part in the order of both file and memory, and none before where it lies in the file unpacked in place.
struct Layout {
  std::vector<ElfSegment> parts;
  uint64_t file_start = 0;  // of the first part
  uint64_t file_end = 0;    // behind it are relocations
  std::optional<uint64_t> entry;  // from the kernel's start
};

std::optional<Layout> layout_of(std::span<const std::byte> head, uint64_t unpacked, const setup_header& header) {
  auto headers = ElfHeaders::read(head);
  if (!headers || !headers->is64) return {};
  Layout layout{.file_end = headers->sections_end};
  const uint64_t start = header.pref_address, end = start + header.init_size;
  uint64_t file_at = 0, memory_at = start;
  for (const ElfSegment& s : headers->segments) {
    if (s.type != 1 /* PT_LOAD */ || s.memory_size == 0) continue;
    if (s.offset < file_at || s.file_size > s.memory_size || s.offset > unpacked || s.file_size > unpacked - s.offset) return {};
    if (s.physical < memory_at || s.physical > end || s.memory_size > end - s.physical) return {};
    if (layout.parts.empty() && s.physical != start) return {};
    // Parts are moved down, one after the other.
    if (!layout.parts.empty() && s.physical - start > s.offset - layout.file_start) return {};
    if (layout.parts.empty()) layout.file_start = s.offset;
    if (headers->entry >= s.physical && headers->entry - s.physical < s.memory_size)
      layout.entry = headers->entry - start;
    else if (headers->entry >= s.virtual_address && headers->entry - s.virtual_address < s.memory_size)
      layout.entry = headers->entry - s.virtual_address + s.physical - start;
    file_at = s.offset + s.file_size;
    memory_at = s.physical + s.memory_size;
    layout.parts.push_back(s);
  }
  if (!layout.entry || layout.file_end < file_at || layout.file_end > unpacked) return {};
  return layout;
}

// Unpacks the file to the start of `all` and moves the parts to where they belong. Gives the relocations; nothing where the payload is broken.
std::optional<std::vector<uint32_t>> unpack_in_place(Packing packing, std::span<const std::byte> payload, uint64_t unpacked, const Layout& layout, uint64_t linked_at,
                                                      std::span<std::byte> all) {
  if (auto got = unpack(packing, payload, all.first(unpacked)); !got || !got->complete || got->size != unpacked) return {};
  const auto image = all.subspan(layout.file_start), table = all.subspan(layout.file_end, unpacked - layout.file_end);
  std::vector<uint32_t> relocations(table.size() / sizeof(uint32_t));
  if (!relocations.empty()) memcpy(relocations.data(), table.data(), relocations.size() * sizeof(uint32_t));
  for (const ElfSegment& part : layout.parts) {
    const uint64_t to = part.physical - linked_at;
    memmove(&image[to], &image[part.offset - layout.file_start], part.file_size);
    std::ranges::fill(image.subspan(to + part.file_size, part.memory_size - part.file_size), std::byte{0});
  }
  return relocations;
}

}  // namespace

std::optional<UnpackedKernel> unpack_kernel(const UnpackWish& wish, GuestMemory& memory) {
  const setup_header& h = wish.header;
  if (!(h.xloadflags & XLF_KERNEL_64) || wish.payload.size() <= 4) return {};
  const auto packing = packing_of(wish.payload);
  if (!packing) return {};
  // The last four bytes are the size; of gzip they are its own as well.
  uint32_t unpacked;
  memcpy(&unpacked, &wish.payload[wish.payload.size() - 4], 4);
  const auto payload = *packing == Packing::kGzip ? wish.payload : wish.payload.first(wish.payload.size() - 4);
  if (unpacked < kHeadersRoom) return {};
  std::array<std::byte, kHeadersRoom> head;
  if (auto got = unpack(*packing, payload, head); !got || got->size != head.size()) return {};
  const auto layout = layout_of(head, unpacked, h);
  if (!layout) return {};

  // Unpacked so that the first part is where it belongs. Before it are the file's headers, behind the last its relocations.
  const Words words = words_of(wish.command_line);
  const bool can_move = layout->file_end < unpacked;
  const uint64_t align = h.kernel_alignment;
  const uint64_t need = std::max<uint64_t>(h.init_size, unpacked - layout->file_start);
  uint64_t start = h.pref_address, shift = 0;
  if (start < wish.low || start - wish.low < layout->file_start || wish.high < start || wish.high - start < need) return {};
  const bool random = can_move && !words.no_kaslr && h.relocatable_kernel && align && (align & (align - 1)) == 0 && start % align == 0 && start + need <= kLinkedAtMost;
  if (random) {
    shift = random_below((kLinkedAtMost - need - start) / align + 1) * align;
    if (!words.memory_map) start += random_below((wish.high - need - start) / align + 1) * align;
  }
  auto all = memory.range_to_fill(GuestAddress{start - layout->file_start}, layout->file_start + need);
  if (all.empty()) return {};
  const auto table = unpack_in_place(*packing, payload, unpacked, *layout, h.pref_address, all);
  const bool placed = table && (!random || KernelRelocation{all.subspan(layout->file_start, h.init_size), h.pref_address}.apply(*table, shift));
  memory.notice_write(GuestAddress{start - layout->file_start}, all.size());  // also of what is half done
  if (!placed) return {};
  return UnpackedKernel{start + *layout->entry, random};
}

}  // namespace vireo
