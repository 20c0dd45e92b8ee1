// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vireo::softkvm {
namespace {

Result<> read_all(int fd, void* into, size_t size, off_t at) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::pread(fd, static_cast<uint8_t*>(into) + done, size - done, at + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot be read");
    if (n == 0) return fail(ErrorKind::kCorrupt, "it is shorter than it says");
    done += static_cast<size_t>(n);
  }
  return {};
}

Result<> write_all(int fd, const void* from, size_t size, off_t at) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::pwrite(fd, static_cast<const uint8_t*>(from) + done, size - done, at + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail_errno("cannot be written");
    done += static_cast<size_t>(n);
  }
  return {};
}

Sha256Digest digest_of(const void* bytes, size_t size) {
  Sha256 sha;
  sha.add(bytes, size);
  return sha.digest();
}

Sha256Digest head_digest(CodeFileHead head, const std::vector<Sha256Digest>& pieces) {
  head.digest = {};
  Sha256 sha;
  sha.add(&head, sizeof head);
  sha.add(pieces.data(), pieces.size() * sizeof pieces[0]);
  return sha.digest();
}

size_t pieces_of(size_t size) { return (size + kCodePiece - 1) / kCodePiece; }

}  // namespace

Result<> read_code_file(int fd, const CodeKey& key, StoredBlocks& into, const std::atomic<bool>* stop) {
  CodeFileHead head;
  TRY_VOID(read_all(fd, &head, sizeof head, 0));
  if (head.magic != CodeFileHead::kMagic || head.version != CodeFileHead::kVersion || head.piece_size != kCodePiece)
    return fail(ErrorKind::kCorrupt, "it is no file of translated code of this version");
  if (head.key != key) return fail(ErrorKind::kCorrupt, "it was made by another engine or for another CPU than its name says");
  if (head.body_size == 0 || head.body_size > kMostCodeFile || head.body_size % 8 || head.piece_count != pieces_of(head.body_size) ||
      head.block_count > head.body_size / sizeof(StoredBlock))
    return fail(ErrorKind::kCorrupt, "its sizes contradict each other");
  std::vector<Sha256Digest> pieces(head.piece_count);
  TRY_VOID(read_all(fd, pieces.data(), pieces.size() * sizeof pieces[0], sizeof head));
  if (head_digest(head, pieces) != head.digest) return fail(ErrorKind::kCorrupt, "the digest of its head is wrong");
  const size_t body = sizeof head + pieces.size() * sizeof pieces[0];
  struct stat info;
  if (::fstat(fd, &info) != 0) return fail_errno("cannot be looked at");
  if (static_cast<uint64_t>(info.st_size) != body + head.body_size) return fail(ErrorKind::kCorrupt, "its size is not what its head says");
  if (!into.make_room(head.body_size, head.block_count)) return fail(ErrorKind::kIo, "there is no memory for it");
  for (size_t i = 0; i < pieces.size(); i++) {
    if (stop && stop->load(std::memory_order_relaxed)) return {};
    const size_t at = i * kCodePiece, size = std::min(kCodePiece, head.body_size - at);
    TRY_VOID(read_all(fd, into.body() + at, size, static_cast<off_t>(body + at)));
    if (digest_of(into.body() + at, size) != pieces[i]) return fail(ErrorKind::kCorrupt, "the digest of a piece is wrong");
    if (!into.take(at + size)) return fail(ErrorKind::kCorrupt, "a block in it is out of its bounds");
  }
  return {};
}

Result<> write_code_file(int fd, const CodeKey& key, StoredBlocks& from) {
  CodeFileHead head{};
  head.magic = CodeFileHead::kMagic;
  head.version = CodeFileHead::kVersion;
  head.piece_size = kCodePiece;
  head.key = key;
  head.body_size = from.taken();
  head.block_count = static_cast<uint32_t>(from.count());
  head.piece_count = static_cast<uint32_t>(pieces_of(head.body_size));
  std::vector<Sha256Digest> pieces;
  for (size_t at = 0; at < head.body_size; at += kCodePiece) pieces.push_back(digest_of(from.body() + at, std::min(kCodePiece, head.body_size - at)));
  head.digest = head_digest(head, pieces);
  TRY_VOID(write_all(fd, &head, sizeof head, 0));
  TRY_VOID(write_all(fd, pieces.data(), pieces.size() * sizeof pieces[0], sizeof head));
  return write_all(fd, from.body(), head.body_size, static_cast<off_t>(sizeof head + pieces.size() * sizeof pieces[0]));
}

}  // namespace vireo::softkvm
