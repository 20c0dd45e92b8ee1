// SPDX-License-Identifier: Apache-2.0
// A file of translated code: a head, a digest for each piece of what follows, and the records of stored_block.h one behind the other. Nothing of a piece
// is used before its digest has been seen to be right, and the digests are under one of their own in the head. What is read is a copy: a change
// to the file afterwards changes nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "softkvm/translate/stored_blocks.h"

namespace vireo::softkvm {

// Who made the code, and for what: engine_key.h.
using CodeKey = Sha256Digest;

struct CodeFileHead {
  static constexpr uint64_t kMagic = 0x45444f4345524956;  // "VIRECODE"
  static constexpr uint32_t kVersion = 1;

  uint64_t magic;
  uint32_t version, piece_size;
  CodeKey key;
  uint64_t body_size;
  uint32_t block_count, piece_count;
  Sha256Digest digest;  // of this head with zeroes here, and of the pieces' digests
};
static_assert(sizeof(CodeFileHead) == 96);

constexpr size_t kCodePiece = 256u << 10;
constexpr size_t kMostCodeFile = 256u << 20;  // bytes of records

// Reads the file behind `fd` into `into`, which is new, piece by piece; stops early when `stop` is set.
Result<> read_code_file(int fd, const CodeKey& key, StoredBlocks& into, const std::atomic<bool>* stop = nullptr);
// Writes a file of what `from` has taken.
Result<> write_code_file(int fd, const CodeKey& key, StoredBlocks& from);

}  // namespace vireo::softkvm
