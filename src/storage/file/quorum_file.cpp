// SPDX-License-Identifier: Apache-2.0
#include "storage/file/quorum_file.h"

#include <algorithm>
#include <cerrno>

namespace vireo::storage {

Result<std::unique_ptr<QuorumFile>> QuorumFile::create(std::vector<std::unique_ptr<File>> copies, size_t threshold, bool first, std::string name) {
  if (copies.empty()) return fail(ErrorKind::kInvalid, "Number of provided children must be 1 or more", EINVAL);
  if (threshold < 1) return fail(ErrorKind::kInvalid, "Parameter 'vote-threshold' expects a value >= 1", ERANGE);
  if (threshold > copies.size()) return fail(ErrorKind::kInvalid, "threshold may not exceed children count", ERANGE);
  for (auto& copy : copies)
    if (copy->size() != copies[0]->size()) return fail(ErrorKind::kInvalid, "'" + copy->name() + "' and '" + copies[0]->name() + "' have different lengths", EIO);
  return std::unique_ptr<QuorumFile>(new QuorumFile(std::move(copies), threshold, first, std::move(name)));
}

bool QuorumFile::read_only() const {
  return std::ranges::any_of(copies_, [](auto& copy) { return copy->read_only(); });
}

// Enough of them must do it; else the first reason why one did not.
template <typename Act>
Result<> QuorumFile::vote(Act act) {
  size_t good = 0;
  Result<> bad;
  for (auto& copy : copies_) {
    auto done = act(*copy);
    if (done) ++good;
    else if (bad) bad = std::move(done);
  }
  return good >= threshold_ ? Result<>{} : std::move(bad);
}

Result<> QuorumFile::readv(uint64_t offset, std::span<const iovec> to) {
  if (first_) {
    Result<> bad;
    for (auto& copy : copies_) {
      auto done = copy->readv(offset, to);
      if (done) return {};
      if (bad) bad = std::move(done);
    }
    return bad;
  }
  struct Version {
    std::vector<std::byte> bytes;
    size_t votes;
  };
  std::vector<Version> versions;
  TRY_VOID(vote([&](File& copy) -> Result<> {
    std::vector<std::byte> bytes(total(to));
    TRY_VOID(copy.read(offset, bytes));
    auto same = std::ranges::find(versions, bytes, &Version::bytes);
    same == versions.end() ? versions.push_back({std::move(bytes), 1}) : void(++same->votes);
    return {};
  }));
  auto most = std::ranges::max_element(versions, {}, &Version::votes);
  if (most->votes < threshold_) return fail(ErrorKind::kIo, "'" + name_ + "': the copies do not agree", EIO);
  copy_to(to, most->bytes.data());
  return {};
}

Result<> QuorumFile::writev(uint64_t offset, std::span<const iovec> from) {
  const uint64_t end = offset + total(from);
  if (end > size()) return fail(ErrorKind::kUnsupported, "'" + name_ + "': copies do not become longer", ENOTSUP);
  return vote([&](File& copy) { return copy.writev(offset, from); });
}

Result<> QuorumFile::flush() {
  return vote([](File& copy) { return copy.flush(); });
}

Result<> QuorumFile::zero(uint64_t offset, uint64_t length, bool unmap) {
  return vote([&](File& copy) { return copy.zero(offset, length, unmap); });
}

// Discarded bytes may differ from copy to copy, which a vote would take for damage.
void QuorumFile::discard(uint64_t, uint64_t) {}

Result<> QuorumFile::truncate(uint64_t) { return fail(ErrorKind::kUnsupported, "Image format driver does not support resize", ENOTSUP); }

Result<> QuorumFile::reserve(uint64_t offset, uint64_t length) {
  return vote([&](File& copy) { return copy.reserve(offset, length); });
}

// Only what is a hole in all of them.
FileExtent QuorumFile::extent(uint64_t offset, uint64_t length) {
  bool hole = true;
  for (auto& copy : copies_) {
    const FileExtent here = copy->extent(offset, length);
    length = std::min(length, here.length);
    hole = hole && here.hole;
  }
  return {length, hole};
}

uint64_t QuorumFile::allocated() const {
  uint64_t all = 0;
  for (auto& copy : copies_) all += copy->allocated();
  return all;
}

}  // namespace vireo::storage
