// SPDX-License-Identifier: Apache-2.0
// Spec: elf(5), notes; dl_iterate_phdr(3).
#include "softkvm/translate/engine_key.h"

#include <cpuid.h>
#include <elf.h>
#include <link.h>

#include <cstring>
#include <span>

#include "softkvm/cpu/feature.h"
#include "softkvm/cpu/feature_enabled.h"

namespace vireo::softkvm {
namespace {

// The build ID in a segment of notes, or nothing.
std::span<const uint8_t> build_id_in(const uint8_t* notes, size_t size) {
  auto padded = [](size_t n) { return (n + 3) & ~size_t{3}; };
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes + at, sizeof note);
    const size_t name = at + sizeof note, content = name + padded(note.n_namesz), end = content + padded(note.n_descsz);
    if (end > size) break;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(notes + name, "GNU", 4) == 0) return {notes + content, note.n_descsz};
    at = end;
  }
  return {};
}

// Of the program or library that has this code.
std::span<const uint8_t> build_id() {
  static const std::span<const uint8_t> found = [] {
    std::span<const uint8_t> id;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          const auto here = reinterpret_cast<uintptr_t>(&build_id_in);
          bool mine = false;
          std::span<const uint8_t> id;
          for (unsigned i = 0; i < info->dlpi_phnum; i++) {
            const ElfW(Phdr)& segment = info->dlpi_phdr[i];
            const uintptr_t start = info->dlpi_addr + segment.p_vaddr;
            if (segment.p_type == PT_LOAD && here - start < segment.p_memsz) mine = true;
            if (segment.p_type == PT_NOTE && id.empty()) id = build_id_in(reinterpret_cast<const uint8_t*>(start), segment.p_memsz);
          }
          if (mine) *static_cast<std::span<const uint8_t>*>(out) = id;
          return mine ? 1 : 0;
        },
        &id);
    return id;
  }();
  return found;
}

}  // namespace

std::optional<CodeKey> engine_key(const VcpuState& vcpu, uint32_t off) {
  const std::span<const uint8_t> id = build_id();
  if (id.empty()) return std::nullopt;
  Sha256 sha;
  auto add = [&](const auto& value) { sha.add(&value, sizeof value); };
  add(CodeFileHead::kVersion);
  add(static_cast<uint64_t>(id.size()));
  sha.add(id);
  uint32_t host[8] = {};
  __get_cpuid(0, &host[0], &host[1], &host[2], &host[3]);
  __get_cpuid(1, &host[4], &host[5], &host[6], &host[7]);
  const uint32_t model[4] = {host[1], host[2], host[3], host[4]};  // vendor; family, model and stepping
  add(model);
#ifdef VIREO_VERIFY_BLOCKS
  add('v');
#else
  add('-');
#endif
  add(off);
  add(vcpu.vendor_is_amd);
  for (unsigned i = 0; i <= static_cast<unsigned>(Feature::kCount); i++) add(feature_enabled(vcpu, static_cast<Feature>(i)));
  return sha.digest();
}

}  // namespace vireo::softkvm
