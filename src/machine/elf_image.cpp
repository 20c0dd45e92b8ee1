// SPDX-License-Identifier: Apache-2.0
#include "machine/elf_image.h"

#include <elf.h>

#include <algorithm>

namespace vireo {
namespace {

constexpr uint32_t kPhys32Entry = 18;

template <class T>
bool get(std::span<const std::byte> file, uint64_t offset, T& out) {
  if (offset > file.size() || sizeof(T) > file.size() - offset) return false;
  memcpy(&out, file.data() + offset, sizeof(T));
  return true;
}

template <class Ehdr, class Phdr>
Result<ElfHeaders> read_headers(std::span<const std::byte> file, bool is64) {
  Ehdr head;
  if (!get(file, 0, head)) return fail(ErrorKind::kCorrupt, "ELF header is cut off");
  if (head.e_machine != EM_386 && head.e_machine != EM_X86_64) return fail(ErrorKind::kInvalid, "ELF file for another processor");
  if (head.e_type != ET_EXEC && head.e_type != ET_DYN) return fail(ErrorKind::kInvalid, "ELF file that is not linked");
  ElfHeaders headers{is64, head.e_entry, {}, head.e_shoff + uint64_t{head.e_shnum} * head.e_shentsize};
  for (unsigned i = 0; i < head.e_phnum; i++) {
    Phdr p;
    if (!get(file, head.e_phoff + uint64_t{i} * sizeof(Phdr), p)) return fail(ErrorKind::kCorrupt, "ELF program headers are cut off");
    if (p.p_type == PT_INTERP) return fail(ErrorKind::kInvalid, "not a kernel but a program: it asks for a dynamic linker");
    headers.segments.push_back({p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz});
  }
  return headers;
}

std::optional<uint32_t> find_pvh(std::span<const std::byte> notes) {
  auto round = [](uint64_t n) { return (n + 3) & ~3ull; };
  while (notes.size() >= sizeof(Elf32_Nhdr)) {
    Elf32_Nhdr head;
    memcpy(&head, notes.data(), sizeof head);
    uint64_t name = sizeof head, value = name + round(head.n_namesz), next = value + round(head.n_descsz);
    if (value > notes.size() || head.n_descsz > notes.size() - value) return {};
    if (head.n_type == kPhys32Entry && head.n_namesz == 4 && memcmp(notes.data() + name, "Xen", 4) == 0 && head.n_descsz >= 4) {
      uint32_t entry;
      memcpy(&entry, notes.data() + value, sizeof entry);
      return entry;
    }
    if (next >= notes.size()) return {};
    notes = notes.subspan(next);
  }
  return {};
}

}  // namespace

Result<ElfHeaders> ElfHeaders::read(std::span<const std::byte> start) {
  uint8_t ident[EI_NIDENT];
  if (!get(start, 0, ident) || memcmp(ident, ELFMAG, SELFMAG)) return fail(ErrorKind::kCorrupt, "ELF header is cut off");
  if (ident[EI_CLASS] == ELFCLASS64) return read_headers<Elf64_Ehdr, Elf64_Phdr>(start, true);
  return read_headers<Elf32_Ehdr, Elf32_Phdr>(start, false);
}

bool ElfImage::is_elf(const FileView& file) {
  char magic[4];
  return file.get(0, magic) && memcmp(magic, ELFMAG, SELFMAG) == 0;
}

Result<ElfImage> ElfImage::parse(const FileView& file) {
  const ElfHeaders headers = TRY(ElfHeaders::read(file.bytes()));
  ElfImage image{.is64 = headers.is64, .entry = headers.entry, .physical_entry = headers.entry, .pvh_entry = {}, .loaded = {}};
  for (const ElfSegment& s : headers.segments) {
    if (s.type == PT_LOAD) {
      if (s.memory_size) image.loaded.push_back(s);
      image.end = std::max(image.end, s.physical + s.memory_size);
      if (headers.entry >= s.virtual_address && headers.entry - s.virtual_address < s.memory_size)
        image.physical_entry = headers.entry - s.virtual_address + s.physical;
    } else if (s.type == PT_NOTE && !image.pvh_entry) {
      image.pvh_entry = find_pvh(file.slice(s.offset, s.file_size));
    }
  }
  if (!image.end) return fail(ErrorKind::kCorrupt, "ELF file without loadable segments");
  return image;
}

Result<> ElfImage::load(const FileView& file, GuestMemory& memory) {
  const ElfHeaders headers = TRY(ElfHeaders::read(file.bytes()));
  for (const ElfSegment& s : headers.segments) {
    if (s.type != PT_LOAD || s.memory_size == 0) continue;
    auto bytes = file.slice(s.offset, s.file_size);
    if (bytes.size() != s.file_size || s.file_size > s.memory_size) return fail(ErrorKind::kCorrupt, "ELF segment is cut off");
    auto target = memory.range(GuestAddress{s.physical}, s.memory_size);
    if (target.empty()) return fail(ErrorKind::kInvalid, "ELF segment lies outside the guest's memory; give it more with --memory");
    std::ranges::copy(bytes, target.begin());
    std::ranges::fill(target.subspan(bytes.size()), std::byte{0});
    memory.notice_write(GuestAddress{s.physical}, s.memory_size);
  }
  return {};
}

}  // namespace vireo
