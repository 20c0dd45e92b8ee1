// SPDX-License-Identifier: Apache-2.0
// A file of translated code, as --code-cache reads it. From its ninth byte on the input is the records; the head is made to fit, since no input would
// get past the digests by itself. The lowest bits of the first byte say what is done to the file after that: 1 changes a byte, which has to be seen,
// 2 cuts it off. Each record that is taken is looked for by its own bytes, and copied out.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "softkvm/translate/code_file.h"

using namespace vireo::softkvm;

namespace {

// A file whose digests are right.
std::vector<uint8_t> file_of(const uint8_t* body, size_t size, uint32_t count, const CodeKey& key) {
  std::vector<vireo::Sha256Digest> pieces;
  for (size_t at = 0; at < size; at += kCodePiece) {
    vireo::Sha256 sha;
    sha.add(body + at, std::min(kCodePiece, size - at));
    pieces.push_back(sha.digest());
  }
  CodeFileHead head{.magic = CodeFileHead::kMagic, .version = CodeFileHead::kVersion, .piece_size = kCodePiece, .key = key, .body_size = size,
                    .block_count = count, .piece_count = static_cast<uint32_t>(pieces.size()), .digest = {}};
  vireo::Sha256 sha;
  sha.add(&head, sizeof head);
  sha.add(pieces.data(), pieces.size() * sizeof pieces[0]);
  head.digest = sha.digest();
  std::vector<uint8_t> file(sizeof head + pieces.size() * sizeof pieces[0] + size);
  std::memcpy(file.data(), &head, sizeof head);
  std::memcpy(file.data() + sizeof head, pieces.data(), pieces.size() * sizeof pieces[0]);
  if (size) std::memcpy(file.data() + file.size() - size, body, size);
  return file;
}

void use(StoredBlocks& blocks) {
  static uint8_t page[4096];
  static const std::unique_ptr<uint8_t[]> out(new uint8_t[kBlockRoom + 64]);
  blocks.each([&](const StoredBlock& stored) {
    std::memset(page, 0, sizeof page);
    const uint8_t* from = stored.source();
    uint8_t cut[16] = {};
    for (unsigned i = 0; i < stored.range_count; i++) {
      const LookedAt& range = stored.ranges()[i];
      if (stored.straddle) std::memcpy(cut, from, range.size);
      else std::memcpy(page + range.at, from, range.size);
      from += range.size;
    }
    PageCopy copy(page);
    Source source{copy, stored.offset, stored.offset, stored.straddle ? cut : nullptr, stored.mode, 0};
    Block block{};
    static BlockNotes notes;
    const StoredBlock* found = blocks.find(copy, source);
    if (!found) return;
    if (found->chunks() == 0 && !found->straddle) abort();
    const size_t used = blocks.restore(*found, copy, source, out.get(), 64, block, notes);
    if (used > kBlockRoom || used == 0) abort();
    if (const StoredBlock* behind = blocks.behind(*found); behind && (behind->bytes() < found->bytes() || behind->size > blocks.taken())) abort();
    if (notes.side_count > kMostSides || notes.site_count > kMostSites) abort();
    for (const SideEntry& e : notes.all_side())
      if (e.host < 64 || e.host >= 64 + used) abort();
    for (const LinkSite& s : notes.all_sites())
      if (s.at < 64 || s.at + 4 > 64 + used || s.unlinked < 64 || s.unlinked >= 64 + used || s.target >= 4096) abort();
    for (uint32_t entry : block.linked_entry)
      if (entry < 64 || entry >= 64 + used) abort();
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 9) return 0;
  const uint8_t what = data[0] & 7;
  const uint8_t where = data[1], value = data[2];
  const CodeKey key{1, 2, 3};
  const size_t records = size - 8;
  std::vector<uint8_t> file = file_of(data + 8, records, static_cast<uint32_t>(records / sizeof(StoredBlock)), key);
  if (what == 1) file[where % file.size()] ^= value;
  if (what == 2) file.resize(where % file.size());
  const int fd = memfd_create("code", MFD_CLOEXEC);
  if (fd < 0 || write(fd, file.data(), file.size()) != static_cast<ssize_t>(file.size())) abort();
  StoredBlocks blocks;
  auto result = read_code_file(fd, key, blocks);
  close(fd);
  if (what == 1 && value && result) abort();  // a changed bit went unseen
  use(blocks);
  return 0;
}
