// SPDX-License-Identifier: Apache-2.0
// From what was asked for to a running job: which layers are meant, targets made, chains made ready.
#include <filesystem>

#include "base/log.h"
#include "storage/jobs/commit_job.h"
#include "storage/jobs/disk_graph.h"
#include "storage/jobs/stream_job.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kGranularity = 65536;

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || (std::filesystem::equivalent(a, b, error) && !error);
}

bool contains(const std::vector<std::shared_ptr<Image>>& chain, const std::shared_ptr<Image>& layer) { return std::ranges::find(chain, layer) != chain.end(); }

}  // namespace

// The images below a target: those of the disk's own chain are in memory already, and must not be there twice.
Result<> DiskGraph::take_backing(Image& image, LiveDisk& disk) {
  auto* qcow2 = as_qcow2(image);
  if (!qcow2 || !qcow2->header().has_backing || image.backing()) return {};
  const std::string name = resolve_backing(image.name(), qcow2->header().backing_file);
  for (auto& layer : layers(disk.live()->top()))
    if (same_file(layer->name(), name)) {
      image.set_backing(layer);
      return {};
    }
  OpenOptions options;
  options.format = qcow2->header().backing_format();
  options.named_by_image = true;
  options.direct = disk.config().open.direct;
  options.any_key = disk.config().open.any_key;
  image.set_backing(TRY(open_image(name, std::move(options))));
  return {};
}

Result<std::shared_ptr<Image>> DiskGraph::target(const TargetWish& wish, LiveDisk& disk, const std::string& backing, const std::string& backing_format, bool& fresh) {
  const uint64_t size = disk.live()->size();
  std::shared_ptr<Image> image;
  fresh = false;
  if (!wish.node.empty()) {
    image = TRY(take_node(wish.node));
  } else {
    if (!wish.node_name.empty() && (place(wish.node_name) || node(wish.node_name))) return fail(ErrorKind::kInvalid, "Duplicate nodes with node-name='" + wish.node_name + "'");
    for (auto& layer : layers(disk.live()->top()))
      if (same_file(layer->name(), wish.file)) return fail(ErrorKind::kInvalid, "Could not open '" + wish.file + "': it is part of this disk");
    const std::string format = wish.format.empty() ? disk.live()->top()->format() : wish.format;
    image = TRY(make_image({.path = wish.file, .format = format, .size = size, .backing = backing, .backing_format = backing_format, .create = !wish.existing}, disk.config().open));
    fresh = !wish.existing;
    if (!wish.node_name.empty()) name_node(*image, wish.node_name);
  }
  if (image->read_only()) return fail(ErrorKind::kInvalid, "the target is read-only");
  if (image->size() != size) return fail(ErrorKind::kInvalid, "Source and target image have different sizes");
  TRY_VOID(take_backing(*image, disk));
  return image;
}

// It keeps its name, whatever image it is afterwards.
Result<std::shared_ptr<Image>> DiskGraph::make_writable(LiveDisk& disk, std::shared_ptr<Image> layer, const std::string& name) {
  const std::string file = layer->name();
  auto opened = reopen_layer(disk, std::move(layer), true);
  if (opened) name_node(**opened, name);
  else if (auto there = layer_by_file(disk, file)) name_node(*there, name);
  return opened;
}

Result<> DiskGraph::stream(StreamWish wish) {
  Place at = TRY(place(wish.device));
  LiveDisk& disk = *at.disk;
  TRY_VOID(not_busy(disk));
  wish.job = TRY(named(std::move(wish.job), disk));
  auto below = layers(at.layer);
  std::shared_ptr<Image> base;
  if (!wish.base_file.empty()) base = layer_by_file(disk, wish.base_file);
  else if (!wish.base_node.empty()) base = TRY(place(wish.base_node)).layer;
  else if (!wish.bottom_node.empty()) {
    auto bottom = TRY(place(wish.bottom_node)).layer;
    if (!contains(below, bottom) || bottom == at.layer) return fail(ErrorKind::kInvalid, "Node '" + wish.bottom_node + "' is not in the backing chain of '" + wish.device + "'");
    if (Image* under = bottom->backing()) base = under->shared_from_this();
  }
  const bool named_base = !wish.base_file.empty() || !wish.base_node.empty();
  if (named_base && (!base || !contains(below, base) || base == at.layer))
    return fail(ErrorKind::kInvalid, "Can't find '" + (wish.base_file.empty() ? wish.base_node : wish.base_file) + "' in the backing chain");
  if (disk.read_only() || !as_qcow2(*at.layer)) return fail(ErrorKind::kInvalid, "'" + at.layer->name() + "' cannot be streamed into");
  StreamJob::Setup setup{.disk = &disk, .top = at.layer, .base = base, .base_name = base ? (wish.backing_name.empty() ? absolute_name(*base) : wish.backing_name) : "",
                         .base_format = base ? base->format() : "", .graph = &mutex_};
  const std::string name = node_name(*at.layer);
  setup.given_back = [this, name](Image& image) { name_node(image, name); };
  if (at.layer->read_only()) {
    setup.top.reset();
    below.clear();  // whoever keeps the old one keeps its lock
    setup.top = TRY(make_writable(disk, std::exchange(at.layer, nullptr), name));
    setup.reopened = true;
  }
  auto job = std::make_unique<StreamJob>(wish.job, std::move(setup));
  disk.change([&] {
    job->attach();
    disk.live()->set_backing_changes(true);
  });
  return start(std::move(job));
}

Result<> DiskGraph::commit(CommitWish wish) {
  Place at = TRY(place(wish.device));
  LiveDisk& disk = *at.disk;
  TRY_VOID(not_busy(disk));
  wish.job = TRY(named(std::move(wish.job), disk));
  auto chain = layers(disk.live()->top());
  std::shared_ptr<Image> top = chain.front(), base = chain.back();
  auto pick = [&](std::shared_ptr<Image>& into, const std::string& file, const std::string& node) -> Result<> {
    if (!file.empty()) into = layer_by_file(disk, file);
    else if (!node.empty()) into = TRY(place(node)).layer;
    if (!into || !contains(chain, into)) return fail(ErrorKind::kInvalid, "Can't find '" + (file.empty() ? node : file) + "' in the backing chain");
    return {};
  };
  TRY_VOID(pick(top, wish.top_file, wish.top_node));
  TRY_VOID(pick(base, wish.base_file, wish.base_node));
  if (top == base) return fail(ErrorKind::kInvalid, "cannot commit an image into itself");
  if (!contains(layers(top), base)) return fail(ErrorKind::kInvalid, "'" + base->name() + "' is not in this backing file chain");
  if (disk.read_only()) return fail(ErrorKind::kInvalid, "Device '" + disk.config().id + "' is read-only");
  std::shared_ptr<Image> overlay = top == chain.front() ? nullptr : overlay_of(disk, *top);
  const bool reopened = base->read_only();
  const std::string base_node = node_name(*base), base_name = absolute_name(*base), base_path = base->name();
  if (reopened) {
    chain.clear();  // whoever keeps the old one keeps its lock
    base = TRY(make_writable(disk, std::exchange(base, nullptr), base_node));
  }
  disk.change([&] { disk.live()->set_backing_changes(true); });
  if (overlay) {
    CommitJob::Setup setup{.disk = &disk, .overlay = overlay, .top = top, .base = base, .base_name = wish.backing_name.empty() ? base_name : wish.backing_name,
                           .reopened = reopened, .graph = &mutex_, .given_back = [this, base_node](Image& image) { name_node(image, base_node); }};
    top.reset(), overlay.reset(), base.reset(), at.layer.reset();
    return start(std::make_unique<CommitJob>(wish.job, std::move(setup)));
  }
  if (base->size() < top->size())
    if (auto grown = base->resize(top->size(), Preallocation::kOff); !grown) {
      disk.change([&] { disk.live()->set_backing_changes(false); });
      if (!reopened) return grown;
      if (auto again = reopen_layer(disk, std::exchange(base, nullptr), false)) name_node(**again, base_node);
      else log(LogLevel::kWarning, "disk %s: %s", disk.config().id.c_str(), again.error().message.c_str());
      return grown;
    }
  MirrorJob::Setup setup{.disk = &disk, .target = base, .base = base, .sync = MirrorJob::Sync::kTop, .commit = true, .granularity = kGranularity, .graph = &mutex_};
  setup.left = [this, &disk, reopened, base_node, weak = std::weak_ptr(base)](bool switched) {
    disk.change([&] { attach_bitmaps(disk); });
    auto layer = weak.lock();
    if (switched || !reopened || !layer) return;
    if (auto again = reopen_layer(disk, std::move(layer), false)) name_node(**again, base_node);
    else log(LogLevel::kWarning, "disk %s: %s", disk.config().id.c_str(), again.error().message.c_str());
  };
  auto job = std::make_unique<MirrorJob>(wish.job, std::move(setup));
  disk.change([&] { job->attach(); });
  return start(std::move(job));
}

Result<> DiskGraph::mirror(MirrorWish wish) {
  Place at = TRY(place(wish.device));
  LiveDisk& disk = *at.disk;
  TRY_VOID(not_busy(disk));
  wish.job = TRY(named(std::move(wish.job), disk));
  if (disk.live()->top() != at.layer) return fail(ErrorKind::kInvalid, "Node '" + wish.device + "' is not the topmost of its disk");
  using Sync = MirrorJob::Sync;
  Image* below = at.layer->backing();
  if (wish.sync == Sync::kTop && !below) wish.sync = Sync::kFull;
  std::string backing, format;
  if (wish.sync == Sync::kTop) backing = absolute_name(*below), format = below->format();
  if (wish.sync == Sync::kNone) backing = absolute_name(*at.layer), format = at.layer->format();
  if (wish.granularity && (wish.granularity < 512 || wish.granularity > 64 << 20 || !std::has_single_bit(wish.granularity)))
    return fail(ErrorKind::kInvalid, "Parameter 'granularity' expects a power of 2 from 512 to 64 MiB");
  bool fresh = false;
  auto image = TRY(target(wish.target, disk, backing, format, fresh));
  if (wish.sync != Sync::kFull && !image->backing()) {
    // A node that was opened without what lies below it.
    if (!as_qcow2(*image)) return fail(ErrorKind::kInvalid, "the target cannot have a backing file, so sync=full is needed");
    image->set_backing(wish.sync == Sync::kTop ? below->shared_from_this() : at.layer);
  }
  MirrorJob::Setup setup{.disk = &disk, .target = image, .base = wish.sync == Sync::kTop ? below->shared_from_this() : nullptr, .sync = wish.sync, .write_blocking = wish.write_blocking,
                         .zero_target = fresh && wish.sync == Sync::kFull, .granularity = wish.granularity ? wish.granularity : kGranularity, .graph = &mutex_};
  setup.left = [this, &disk, image, node = wish.target.node](bool switched) {
    disk.change([&] { attach_bitmaps(disk); });
    if (switched) std::erase_if(nodes_, [&](const Node& n) { return !node.empty() && n.name == node; });
    else if (node.empty() && !image->read_only()) (void)image->close();
  };
  auto job = std::make_unique<MirrorJob>(wish.job, std::move(setup));
  disk.change([&] { job->attach(); });
  return start(std::move(job));
}

Result<Step> DiskGraph::backup(BackupWish wish) {
  Place at = TRY(place(wish.device));
  LiveDisk& disk = *at.disk;
  TRY_VOID(not_busy(disk));
  wish.job = TRY(named(std::move(wish.job), disk));
  if (disk.live()->top() != at.layer) return fail(ErrorKind::kInvalid, "Node '" + wish.device + "' is not the topmost of its disk");
  using Sync = BackupJob::Sync;
  Image* below = at.layer->backing();
  if (wish.sync == Sync::kTop && !below) wish.sync = Sync::kFull;
  if (wish.sync == Sync::kBitmap && wish.bitmap.empty()) return fail(ErrorKind::kInvalid, "must provide a valid bitmap name for 'bitmap' sync mode");
  if (wish.sync != Sync::kBitmap && !wish.bitmap.empty()) return fail(ErrorKind::kUnsupported, "a bitmap goes with sync=incremental and sync=bitmap");
  std::string backing, format;
  if (wish.sync == Sync::kTop) backing = absolute_name(*below), format = below->format();
  if (wish.sync == Sync::kNone) backing = absolute_name(*at.layer), format = at.layer->format();
  bool fresh = false;
  auto image = TRY(target(wish.target, disk, backing, format, fresh));
  const uint64_t granularity = std::max(kGranularity, image->cluster_size());
  if (wish.compress && image->cluster_size() != granularity) return fail(ErrorKind::kUnsupported, "Compression is not supported for this target");
  const bool never = wish.bitmap_mode == BackupWish::BitmapMode::kNever;
  auto bits = std::make_shared<std::optional<qcow2::BitmapBits>>();
  const std::string node = node_name(*at.layer);
  auto free_bitmap = [this, layer = std::weak_ptr(at.layer), name = wish.bitmap] {
    std::erase_if(busy_bitmaps_, [&](auto& b) { return b.second == name && b.first.lock() == layer.lock(); });
  };
  // What was written since the last backup counts for the next one, if this one fails.
  auto put_back = [this, node, name = wish.bitmap, bits, free_bitmap, never](bool done) {
    free_bitmap();
    if (done || never || !*bits) return;
    if (auto found = find_bitmap(node, name))
      if (auto now = found->bits()) (*now)->merge(**bits);
  };
  BackupJob::Setup setup{.disk = &disk, .target = image, .close_target = wish.target.node.empty(), .sync = wish.sync, .bits = std::nullopt, .zero_target = fresh && wish.sync == Sync::kFull, .compress = wish.compress,
                         .granularity = granularity, .graph = &mutex_};
  setup.left = [this, &disk, put_back, target_node = wish.target.node](bool done) {
    put_back(done);
    attach_bitmaps(disk);
  };
  auto job = std::make_shared<std::unique_ptr<BackupJob>>(std::make_unique<BackupJob>(wish.job, std::move(setup)));
  Step step{.disk = &disk};
  step.commit = [this, job, node, bits, never, name = wish.bitmap]() -> Result<> {
    if (!name.empty()) {
      FoundBitmap found = TRY(find_bitmap(node, name));
      auto* now = TRY(found.bits());
      auto copy = [&] {
        qcow2::BitmapBits out(now->disk_size(), static_cast<unsigned>(std::countr_zero(now->granularity())), LiveBitmap::kPieceBytes);
        out.merge(*now);
        return out;
      };
      (*job)->set_bits(copy());
      bits->emplace(copy());
      if (!never) now->clear();
      busy_bitmaps_.push_back({found.place.layer, name});
    }
    (*job)->attach();
    return {};
  };
  step.rollback = [job, put_back] {
    (*job)->abandon();
    put_back(false);
  };
  step.after = [this, job] { (void)start(std::move(*job)); };
  return step;
}

}  // namespace vireo::storage
