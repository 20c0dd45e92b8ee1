// SPDX-License-Identifier: Apache-2.0
#include "storage/file/blkdebug_file.h"

namespace vireo::storage {

Result<> BlkdebugFile::check(IoType type, uint64_t offset, uint64_t length, const char* what) {
  if (int code = rules_->check(type, offset, length)) return fail_errno("'" + name_ + "': " + what, code);
  return {};
}

Result<> BlkdebugFile::readv(uint64_t offset, std::span<const iovec> to) {
  TRY_VOID(check(IoType::kRead, offset, total(to), "reading"));
  return file_->readv(offset, to);
}

Result<> BlkdebugFile::writev(uint64_t offset, std::span<const iovec> from) {
  TRY_VOID(check(IoType::kWrite, offset, total(from), "writing"));
  return file_->writev(offset, from);
}

Result<> BlkdebugFile::flush() {
  TRY_VOID(check(IoType::kFlush, 0, file_->size(), "flushing"));
  return file_->flush();
}

Result<> BlkdebugFile::zero(uint64_t offset, uint64_t length, bool unmap) {
  TRY_VOID(check(IoType::kWriteZeroes, offset, length, "writing zeroes"));
  return file_->zero(offset, length, unmap);
}

void BlkdebugFile::discard(uint64_t offset, uint64_t length) {
  if (check(IoType::kDiscard, offset, length, "discarding")) file_->discard(offset, length);
}

}  // namespace vireo::storage
