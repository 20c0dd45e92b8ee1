// SPDX-License-Identifier: Apache-2.0
// Reading and writing a stretch of encrypted sectors of a file. What is whole sectors in the caller's memory is changed
// there; the rest goes through a copy.
#pragma once

#include "storage/crypto/sector_cipher.h"
#include "storage/file/file.h"

namespace vireo::storage {

// `number`: of the sector in which `host` lies; host must lie as deep in its sector as the disk's offset does in its own.
Result<> read_encrypted(File& file, SectorCipher& cipher, uint64_t host, uint64_t number, std::span<const iovec> to);
// Whole sectors only.
Result<> write_encrypted(File& file, SectorCipher& cipher, uint64_t host, uint64_t number, std::span<const iovec> from);

}  // namespace vireo::storage
