// SPDX-License-Identifier: Apache-2.0
// The header by which a kernel asks for the Multiboot protocol. Spec: Multiboot Specification 0.6.96, 3.1.
#pragma once

#include <cstdint>
#include <optional>

#include "machine/file_view.h"

namespace vireo {

struct MultibootHeader {
  uint64_t file_offset = 0;
  uint32_t flags = 0;
  // With flag 16, where to load what, for files that are not ELF.
  uint32_t header_address = 0, load_address = 0, load_end = 0, bss_end = 0, entry = 0;
};

std::optional<MultibootHeader> find_multiboot_header(const FileView& file);

}  // namespace vireo
