// SPDX-License-Identifier: Apache-2.0
// External and internal snapshots, and a disk's size.
#include <ctime>

#include "base/log.h"
#include "storage/jobs/disk_graph.h"

namespace vireo::storage {

Result<Step> DiskGraph::snapshot(const SnapshotWish& wish) {
  Place at = TRY(place(wish.device));
  LiveDisk& disk = *at.disk;
  TRY_VOID(not_busy(disk));
  if (disk.live()->top() != at.layer) return fail(ErrorKind::kInvalid, "Node '" + wish.device + "' is not the topmost of its disk");
  if (disk.read_only()) return fail(ErrorKind::kInvalid, "Device '" + disk.config().id + "' is read-only");
  std::shared_ptr<Image> old = at.layer, overlay;
  if (!wish.overlay.empty()) {
    overlay = TRY(take_node(wish.overlay));
    if (overlay->backing()) return fail(ErrorKind::kInvalid, "The overlay already has a backing image");
    if (!as_qcow2(*overlay)) return fail(ErrorKind::kUnsupported, "The overlay does not support backing images");
  } else {
    if (wish.format != "qcow2") return fail(ErrorKind::kInvalid, "Format driver '" + wish.format + "' does not support backing files");
    if (!wish.node_name.empty() && (place(wish.node_name) || node(wish.node_name))) return fail(ErrorKind::kInvalid, "New overlay node-name already in use");
    const NewImage file{.path = wish.file, .format = wish.format, .size = old->size(), .backing = absolute_name(*old), .backing_format = old->format(), .create = !wish.existing};
    overlay = TRY(make_image(file, disk.config().open));
    if (!wish.node_name.empty()) name_node(*overlay, wish.node_name);
  }
  if (overlay->read_only()) return fail(ErrorKind::kInvalid, "The overlay is read-only");
  if (overlay->size() != old->size()) return fail(ErrorKind::kInvalid, "The overlay's size is not the disk's");
  // Most of what must be stable goes out while the guest still runs.
  TRY_VOID(old->flush());
  Step step{.disk = &disk};
  step.commit = [&disk, old, overlay]() -> Result<> {
    TRY_VOID(old->flush());
    overlay->set_backing(old);
    disk.live()->set_top(overlay);
    return {};
  };
  step.rollback = [&disk, old, overlay] {
    disk.live()->set_top(old);
    overlay->set_backing(nullptr);
  };
  at.layer.reset();
  step.after = [this, &disk, old = std::move(old), name = wish.overlay]() mutable {
    for (auto at = nodes_.begin(); at != nodes_.end(); ++at)
      if (!name.empty() && at->name == name) {
        nodes_.erase(at);
        break;
      }
    // From here on nobody writes to it, and others may read it.
    const std::string was = node_name(*old);
    auto again = reopen_layer(disk, std::move(old), false);
    if (again) name_node(**again, was);
    else log(LogLevel::kWarning, "disk %s: %s", disk.config().id.c_str(), again.error().message.c_str());
  };
  return step;
}

Result<Step> DiskGraph::internal_snapshot(const std::string& device, const std::string& name) {
  Place at = TRY(place(device));
  TRY_VOID(not_busy(*at.disk));
  if (name.empty()) return fail(ErrorKind::kInvalid, "Name is empty");
  auto* qcow2 = as_qcow2(*at.layer);
  if (!qcow2) return fail(ErrorKind::kUnsupported, "Block format '" + std::string(at.layer->format()) + "' used by node '" + device + "' does not support internal snapshots");
  if (at.disk->read_only()) return fail(ErrorKind::kInvalid, "Device '" + device + "' is read only");
  for (const auto& s : qcow2->snapshots())
    if (s.name == name) return fail(ErrorKind::kInvalid, "Snapshot with name '" + name + "' already exists on device '" + device + "'");
  Step step{.disk = at.disk};
  step.commit = [at, qcow2, name]() -> Result<> {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return qcow2->create_snapshot(name, static_cast<uint32_t>(now.tv_sec), static_cast<uint32_t>(now.tv_nsec));
  };
  step.rollback = [at, qcow2, name] {
    if (int index = qcow2->find_snapshot(name); index >= 0) (void)qcow2->delete_snapshot(static_cast<size_t>(index));
  };
  return step;
}

Result<qcow2::Snapshot> DiskGraph::delete_internal_snapshot(const std::string& device, const std::string& id, const std::string& name) {
  Place at = TRY(place(device));
  TRY_VOID(not_busy(*at.disk));
  auto* qcow2 = as_qcow2(*at.layer);
  size_t index = SIZE_MAX;
  if (qcow2)
    for (size_t i = 0; i < qcow2->snapshots().size(); ++i) {
      const auto& s = qcow2->snapshots()[i];
      if ((id.empty() || s.id == id) && (name.empty() || s.name == name)) index = std::min(index, i);
    }
  if (index == SIZE_MAX || (id.empty() && name.empty()))
    return fail(ErrorKind::kNotFound, "Snapshot with id '" + (id.empty() ? "null" : id) + "' and name '" + (name.empty() ? "null" : name) + "' does not exist on device '" + device + "'");
  const qcow2::Snapshot gone = qcow2->snapshots()[index];
  Result<> done;
  at.disk->change([&] { done = qcow2->delete_snapshot(index); });
  TRY_VOID(done);
  return gone;
}

Result<> DiskGraph::resize(const std::string& device, uint64_t size) {
  Place at = TRY(place(device));
  TRY_VOID(not_busy(*at.disk));
  if (at.disk->live()->top() != at.layer) return fail(ErrorKind::kInvalid, "Node '" + device + "' is not the topmost of its disk");
  if (at.disk->read_only()) return fail(ErrorKind::kInvalid, "Device '" + device + "' is read only");
  if (size == 0 || size % 512) return fail(ErrorKind::kInvalid, "The new size must be a multiple of 512");
  Result<> done;
  at.disk->change([&] {
    done = at.layer->resize(size, Preallocation::kOff);
    for (KeptBitmap& kept : kept_)
      if (done && kept.layer.lock() == at.layer) kept.bitmap->bits().resize(size);
    if (done) at.disk->resized();
  });
  return done;
}

}  // namespace vireo::storage
