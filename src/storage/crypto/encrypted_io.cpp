// SPDX-License-Identifier: Apache-2.0
#include "storage/crypto/encrypted_io.h"

#include <algorithm>
#include <memory>

#include "storage/file/aligned_buffer.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kSector = SectorCipher::kSector;
constexpr size_t kBlock = 256 << 10;  // fits the second-level cache, so that ciphertext is sent while it is warm

std::unexpected<Error> no_memory() { return fail(ErrorKind::kIo, "no memory for a buffer", ENOMEM); }

}  // namespace

Result<> read_encrypted(File& file, SectorCipher& cipher, uint64_t host, uint64_t number, std::span<const iovec> to) {
  if (host % kSector == 0 && std::ranges::all_of(to, [](const iovec& p) { return p.iov_len % kSector == 0; })) {
    TRY_VOID(file.readv(host, to));
    for (const iovec& p : to) {
      auto* bytes = static_cast<std::byte*>(p.iov_base);
      TRY_VOID(cipher.decrypt(number, bytes, bytes, p.iov_len));
      number += p.iov_len / kSector;
    }
    return {};
  }
  const uint64_t skip = host % kSector, length = total(to);
  AlignedBuffer buffer(std::min<uint64_t>(kBlock, skip + length + kSector));
  if (!buffer.bytes) return no_memory();
  for (uint64_t done = 0; done < length;) {
    uint64_t lead = (skip + done) % kSector, n = std::min<uint64_t>(length - done, kBlock - lead);
    uint64_t sectors = (lead + n + kSector - 1) / kSector;
    TRY_VOID(file.read(host + done - lead, std::span(buffer.bytes, sectors * kSector)));
    TRY_VOID(cipher.decrypt(number + (skip + done) / kSector, buffer.bytes, buffer.bytes, sectors * kSector));
    copy_to(slice(to, done, n), buffer.bytes + lead);
    done += n;
  }
  return {};
}

Result<> write_encrypted(File& file, SectorCipher& cipher, uint64_t host, uint64_t number, std::span<const iovec> from) {
  const uint64_t length = total(from);
  // Kept: a buffer of this size is fresh pages from the kernel each time. What stays in it is ciphertext.
  thread_local AlignedBuffer buffer(kBlock);
  if (!buffer.bytes) return no_memory();
  const bool direct = std::ranges::all_of(from, [](const iovec& p) { return p.iov_len % kSector == 0; });
  for (uint64_t done = 0; done < length;) {
    uint64_t n = std::min<uint64_t>(length - done, kBlock), first = number + done / kSector;
    std::byte* to = buffer.bytes;
    for (const iovec& p : slice(from, done, n)) {
      if (direct) {
        TRY_VOID(cipher.encrypt(first, static_cast<const std::byte*>(p.iov_base), to, p.iov_len));
        first += p.iov_len / kSector;
      } else {
        std::copy_n(static_cast<const std::byte*>(p.iov_base), p.iov_len, to);
      }
      to += p.iov_len;
    }
    if (!direct) TRY_VOID(cipher.encrypt(first, buffer.bytes, buffer.bytes, n));
    TRY_VOID(file.write(host + done, std::span<const std::byte>(buffer.bytes, n)));
    done += n;
  }
  return {};
}

}  // namespace vireo::storage
