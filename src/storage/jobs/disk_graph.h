// SPDX-License-Identifier: Apache-2.0
// A machine's disks by name, the images they lie on, and what can be done with them while the guest runs. Calls are one at a time, with
// mutex() held; jobs take it when they change a chain.
#pragma once

#include <list>
#include <map>

#include "storage/jobs/backup_job.h"
#include "storage/jobs/chain.h"
#include "storage/jobs/job_list.h"
#include "storage/jobs/live_bitmap.h"
#include "storage/jobs/mirror_job.h"

namespace vireo::storage {

// A change that is prepared, so that several can come into effect at one moment, or none.
struct Step {
  LiveDisk* disk = nullptr;
  std::function<Result<>()> commit;   // inside of LiveDisk::change()
  std::function<void()> rollback;     // the same, when a later one failed
  std::function<void()> after;        // outside, when all are done
  std::function<void()> abandon;      // outside, when they are not
};

class DiskGraph {
 public:
  explicit DiskGraph(JobListener& listener) : listener_(listener) {}
  ~DiskGraph() { jobs_.cancel_all(); }
  std::mutex& mutex() { return mutex_; }
  JobList& jobs() { return jobs_; }

  void add(LiveDisk& disk) { disks_.push_back(&disk); }
  const std::vector<LiveDisk*>& disks() const { return disks_; }

  struct Place {
    LiveDisk* disk = nullptr;
    std::shared_ptr<Image> layer;
  };
  // By the disk's name (then the topmost image is meant) or an image's node name. kNotFound: there is neither, and nothing else is.
  Result<Place> place(const std::string& name);
  std::string node_name(const Image& image);
  void name_node(const Image& image, const std::string& name) { names_.push_back({image.weak_from_this(), name}); }
  // A layer by its file's name.
  std::shared_ptr<Image> layer_by_file(LiveDisk& disk, const std::string& file);
  Result<> not_busy(LiveDisk& disk);

  // Nodes that were added by name and are not in use yet: an image, or a file alone.
  struct Node {
    std::string name, driver, path;
    std::shared_ptr<Image> image;  // null: a file
  };
  Result<> add_node(Node node);
  Result<> remove_node(const std::string& name);
  Node* node(const std::string& name);
  std::list<Node>& nodes() { return nodes_; }
  Result<std::shared_ptr<Image>> take_node(const std::string& name);  // for a use

  // All at one moment, or none.
  Result<> carry_out(std::vector<Step> steps);

  struct SnapshotWish {
    std::string device, file, format = "qcow2", node_name;
    bool existing = false;
    std::string overlay;  // instead of a file: a node
  };
  Result<Step> snapshot(const SnapshotWish& wish);
  Result<Step> internal_snapshot(const std::string& device, const std::string& name);
  Result<qcow2::Snapshot> delete_internal_snapshot(const std::string& device, const std::string& id, const std::string& name);
  Result<> resize(const std::string& device, uint64_t size);

  struct StreamWish {
    std::string device, base_file, base_node, bottom_node, backing_name;
    Job::Config job;
  };
  Result<> stream(StreamWish wish);
  struct CommitWish {
    std::string device, base_file, base_node, top_file, top_node, backing_name;
    Job::Config job;
  };
  Result<> commit(CommitWish wish);
  // A copy's target: a file to be made or there, or a node.
  struct TargetWish {
    std::string file, format, node, node_name;
    bool existing = false;
  };
  struct MirrorWish {
    std::string device;
    TargetWish target;
    MirrorJob::Sync sync = MirrorJob::Sync::kFull;
    bool write_blocking = false;
    uint64_t granularity = 0;
    Job::Config job;
  };
  Result<> mirror(MirrorWish wish);
  struct BackupWish {
    std::string device;
    TargetWish target;
    BackupJob::Sync sync = BackupJob::Sync::kFull;
    std::string bitmap;
    enum class BitmapMode { kOnSuccess, kNever, kAlways } bitmap_mode = BitmapMode::kOnSuccess;
    bool compress = false;
    Job::Config job;
  };
  Result<Step> backup(BackupWish wish);

  // Dirty bitmaps.
  struct BitmapInfo {
    std::string name;
    uint64_t granularity = 0, count = 0;
    bool recording = false, busy = false, persistent = false, inconsistent = false;
  };
  std::vector<BitmapInfo> bitmaps(const Place& place);
  Result<Step> add_bitmap(const std::string& node, const std::string& name, unsigned granularity_bits, bool persistent, bool enabled);
  Result<Step> remove_bitmap(const std::string& node, const std::string& name);
  Result<Step> clear_bitmap(const std::string& node, const std::string& name);
  Result<Step> enable_bitmap(const std::string& node, const std::string& name, bool on);
  struct BitmapName {
    std::string node, name;
  };
  Result<Step> merge_bitmaps(const BitmapName& into, const std::vector<BitmapName>& from);

 private:
  struct KeptBitmap {
    LiveDisk* disk;
    std::weak_ptr<Image> layer;
    std::unique_ptr<LiveBitmap> bitmap;
    bool attached = false;
  };
  struct FoundBitmap {
    Place place;
    qcow2::Qcow2* qcow2 = nullptr;  // persistent; else
    LiveBitmap* live = nullptr;
    std::string name;
    Result<qcow2::BitmapBits*> bits() const;
    bool enabled() const;
    Result<> enable(bool on) const;
  };
  Result<FoundBitmap> find_bitmap(const std::string& node, const std::string& name, bool may_be_busy = false);
  // In-memory bitmaps see the writes of the topmost image alone. Inside of change().
  void attach_bitmaps(LiveDisk& disk);
  Result<std::shared_ptr<Image>> target(const TargetWish& wish, LiveDisk& disk, const std::string& backing, const std::string& backing_format, bool& fresh);
  Result<> take_backing(Image& image, LiveDisk& disk);
  Result<std::shared_ptr<Image>> make_writable(LiveDisk& disk, std::shared_ptr<Image> layer, const std::string& name);
  Result<> start(std::unique_ptr<Job> job);
  Result<Job::Config> named(Job::Config config, LiveDisk& disk);

  JobListener& listener_;
  std::mutex mutex_;
  std::vector<LiveDisk*> disks_;
  struct NodeName {
    std::weak_ptr<const Image> image;
    std::string name;
  };
  std::vector<NodeName> names_;
  unsigned next_name_ = 100;
  std::list<Node> nodes_;
  std::list<KeptBitmap> kept_;
  std::vector<std::pair<std::weak_ptr<Image>, std::string>> busy_bitmaps_;
  JobList jobs_;
};

}  // namespace vireo::storage
