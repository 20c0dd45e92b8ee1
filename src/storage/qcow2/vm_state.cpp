// SPDX-License-Identifier: Apache-2.0
// Spec: "Snapshots": the state of a machine lies behind the disk, from the first L1 entry on that the disk does not need.
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {

Result<> Qcow2::write_vm_state(uint64_t position, std::span<const std::byte> from) {
  if (file_->read_only()) return fail(ErrorKind::kInvalid, "'" + file_->name() + "' is read-only", EROFS);
  if (data_file_) return fail(ErrorKind::kUnsupported, "an image with an external data file has no place for a VM state", ENOTSUP);
  TRY_VOID(readable());
  const uint64_t start = vm_state_start();
  if (position > INT64_MAX - start || from.size() > INT64_MAX - start - position) return fail(ErrorKind::kInvalid, "the VM state is too large", EFBIG);
  const uint64_t entries = geometry_.l1_entries(start + position + from.size());
  if (entries > kMaxL1Bytes / 8) return fail(ErrorKind::kInvalid, "the VM state is too large", EFBIG);
  if (entries > l1_.size()) {
    TRY_VOID(quiesce());
    std::vector<uint64_t> l1 = l1_;
    l1.resize(entries);
    TRY_VOID(set_l1(std::move(l1), header_.size));
    TRY_VOID(commit(true));
    TRY_VOID(commit(true));  // what the first one freed
  }
  file_->event("vmstate_save");
  iovec one = part(from.data(), from.size());
  return write_space(start + position, {&one, 1});
}

Result<> Qcow2::read_vm_state(uint64_t position, std::span<std::byte> to) {
  TRY_VOID(readable());
  const uint64_t start = vm_state_start();
  if (position > INT64_MAX - start || to.size() > INT64_MAX - start - position) return fail(ErrorKind::kInvalid, "the VM state is too large", EFBIG);
  file_->event("vmstate_load");
  iovec one = part(to.data(), to.size());
  return read_space(start + position, {&one, 1});
}

}  // namespace vireo::storage::qcow2
