// SPDX-License-Identifier: Apache-2.0
// Dirty bitmaps of a running machine's images: those in the image, and those that live as long as the machine.
#include <bit>

#include "storage/jobs/disk_graph.h"

namespace vireo::storage {
namespace {

std::shared_ptr<qcow2::BitmapBits> copy_of(const qcow2::BitmapBits& bits) {
  auto copy = std::make_shared<qcow2::BitmapBits>(bits.disk_size(), static_cast<unsigned>(std::countr_zero(bits.granularity())), LiveBitmap::kPieceBytes);
  copy->merge(bits);
  return copy;
}

}  // namespace

Result<qcow2::BitmapBits*> DiskGraph::FoundBitmap::bits() const {
  if (live) return &live->bits();
  return qcow2->edit_bitmap(name);
}
bool DiskGraph::FoundBitmap::enabled() const {
  if (live) return live->enabled();
  const auto* bitmap = qcow2->find_bitmap(name);
  return bitmap && bitmap->enabled();
}
Result<> DiskGraph::FoundBitmap::enable(bool on) const {
  if (!live) return qcow2->enable_bitmap(name, on);
  live->enable(on);
  return {};
}

void DiskGraph::attach_bitmaps(LiveDisk& disk) {
  for (KeptBitmap& kept : kept_) {
    if (kept.disk != &disk || !disk.live()) continue;
    const bool should = kept.layer.lock() == disk.live()->top();
    if (should == kept.attached) continue;
    if (should) disk.live()->add(*kept.bitmap);
    else disk.live()->remove(*kept.bitmap);
    kept.attached = should;
  }
}

namespace {

// QEMU has other words here than where it adds one.
Result<DiskGraph::Place> place_of_bitmap(DiskGraph& graph, const std::string& node) {
  auto at = graph.place(node);
  if (!at && at.error().kind == ErrorKind::kNotFound) return fail(ErrorKind::kNotFound, "Node '" + node + "' not found");
  return at;
}

}  // namespace

Result<DiskGraph::FoundBitmap> DiskGraph::find_bitmap(const std::string& node, const std::string& name, bool may_be_busy) {
  FoundBitmap found{.place = TRY(place_of_bitmap(*this, node)), .name = name};
  for (auto& [layer, busy] : busy_bitmaps_)
    if (!may_be_busy && busy == name && layer.lock() == found.place.layer)
      return fail(ErrorKind::kBusy, "Bitmap '" + name + "' is currently in use by another operation and cannot be used");
  for (KeptBitmap& kept : kept_)
    if (kept.layer.lock() == found.place.layer && kept.bitmap->name() == name) {
      found.live = kept.bitmap.get();
      return found;
    }
  auto* qcow2 = as_qcow2(*found.place.layer);
  if (!qcow2 || !qcow2->find_bitmap(name)) return fail(ErrorKind::kNotFound, "Dirty bitmap '" + name + "' not found");
  found.qcow2 = qcow2;
  return found;
}

std::vector<DiskGraph::BitmapInfo> DiskGraph::bitmaps(const Place& at) {
  std::vector<BitmapInfo> out;
  auto busy = [&](const std::string& name) {
    return std::ranges::any_of(busy_bitmaps_, [&](auto& b) { return b.second == name && b.first.lock() == at.layer; });
  };
  for (KeptBitmap& kept : kept_)
    if (kept.layer.lock() == at.layer)
      out.push_back({.name = kept.bitmap->name(), .granularity = kept.bitmap->bits().granularity(), .count = kept.bitmap->dirty_bytes(),
                     .recording = kept.bitmap->enabled(), .busy = busy(kept.bitmap->name())});
  if (auto* qcow2 = as_qcow2(*at.layer); qcow2 && !qcow2->bitmaps().empty())
    at.disk->change([&] {
      for (const auto& b : qcow2->bitmaps()) {
        BitmapInfo info{.name = b.name, .granularity = 1ull << b.granularity_bits, .recording = b.enabled(), .busy = busy(b.name), .persistent = true,
                        .inconsistent = b.inconsistent()};
        if (auto bits = qcow2->bitmap_bits(b.name)) info.count = (*bits)->dirty_bytes();
        out.push_back(std::move(info));
      }
    });
  return out;
}

Result<Step> DiskGraph::add_bitmap(const std::string& node, const std::string& name, unsigned granularity_bits, bool persistent, bool enabled) {
  Place at = TRY(place(node));
  if (name.empty() || name.size() > qcow2::kMaxBitmapName) return fail(ErrorKind::kInvalid, "Bitmap name cannot be empty, or longer than 1023 bytes");
  if (auto there = find_bitmap(node, name, true)) return fail(ErrorKind::kInvalid, "Bitmap already exists: " + name);
  if (granularity_bits < qcow2::kMinGranularityBits || granularity_bits > qcow2::kMaxGranularityBits) return fail(ErrorKind::kInvalid, "Granularity must be a power of 2, and at least 512");
  Step step{.disk = at.disk};
  if (persistent) {
    auto* qcow2 = as_qcow2(*at.layer);
    if (!qcow2) return fail(ErrorKind::kUnsupported, "Node '" + node + "' cannot store dirty bitmaps");
    step.commit = [at, qcow2, name, granularity_bits, enabled] { return qcow2->add_bitmap(name, granularity_bits, enabled); };
    step.rollback = [at, qcow2, name] { (void)qcow2->remove_bitmap(name); };
    return step;
  }
  auto bitmap = std::make_shared<std::unique_ptr<LiveBitmap>>(std::make_unique<LiveBitmap>(name, at.layer->size(), granularity_bits, enabled));
  step.commit = [this, at, bitmap]() -> Result<> {
    kept_.push_back({.disk = at.disk, .layer = at.layer, .bitmap = std::move(*bitmap)});
    return {};
  };
  step.rollback = [this] { kept_.pop_back(); };
  return step;
}

Result<Step> DiskGraph::remove_bitmap(const std::string& node, const std::string& name) {
  FoundBitmap found = TRY(find_bitmap(node, name));
  Step step{.disk = found.place.disk};
  step.commit = [this, found]() -> Result<> {
    if (found.qcow2) return found.qcow2->remove_bitmap(found.name);
    for (auto at = kept_.begin(); at != kept_.end(); ++at)
      if (at->bitmap.get() == found.live) {
        if (at->attached) at->disk->live()->remove(*at->bitmap);
        kept_.erase(at);
        break;
      }
    return {};
  };
  return step;
}

Result<Step> DiskGraph::clear_bitmap(const std::string& node, const std::string& name) {
  FoundBitmap found = TRY(find_bitmap(node, name));
  auto before = std::make_shared<std::shared_ptr<qcow2::BitmapBits>>();
  Step step{.disk = found.place.disk};
  step.commit = [found, before]() -> Result<> {
    auto* bits = TRY(found.bits());
    *before = copy_of(*bits);
    bits->clear();
    return {};
  };
  step.rollback = [found, before] {
    if (auto bits = found.bits()) (*bits)->merge(**before);
  };
  return step;
}

Result<Step> DiskGraph::enable_bitmap(const std::string& node, const std::string& name, bool on) {
  FoundBitmap found = TRY(find_bitmap(node, name));
  const bool was = found.enabled();
  Step step{.disk = found.place.disk};
  step.commit = [found, on] { return found.enable(on); };
  step.rollback = [found, was] { (void)found.enable(was); };
  return step;
}

Result<Step> DiskGraph::merge_bitmaps(const BitmapName& into, const std::vector<BitmapName>& from) {
  // Made in the same transaction, it is found only when the time comes.
  Place at = TRY(place_of_bitmap(*this, into.node));
  auto before = std::make_shared<std::shared_ptr<qcow2::BitmapBits>>();
  Step step{.disk = at.disk};
  step.commit = [this, into, from, before]() -> Result<> {
    FoundBitmap target = TRY(find_bitmap(into.node, into.name));
    auto* bits = TRY(target.bits());
    std::vector<std::shared_ptr<qcow2::BitmapBits>> sources;
    for (const BitmapName& one : from) {
      FoundBitmap source = TRY(find_bitmap(one.node, one.name, true));
      const qcow2::BitmapBits* other = source.live ? &source.live->bits() : TRY(source.qcow2->bitmap_bits(one.name));
      if (other->disk_size() != bits->disk_size()) return fail(ErrorKind::kInvalid, "Bitmaps are of different sizes and can't be merged");
      sources.push_back(copy_of(*other));
    }
    *before = copy_of(*bits);
    for (auto& source : sources) bits->merge(*source);
    return {};
  };
  step.rollback = [this, into, before] {
    auto target = find_bitmap(into.node, into.name);
    if (!target) return;
    if (auto bits = target->bits()) (*bits)->clear(), (*bits)->merge(**before);
  };
  return step;
}

}  // namespace vireo::storage
