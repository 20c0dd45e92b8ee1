// SPDX-License-Identifier: Apache-2.0
// A qcow2 image in use. One lock guards all metadata; data moves outside it. Rules that keep the file whole:
//  - allocation: refcounts in memory, data to the file, then the L2 entry in memory; commit() brings refcounts, L2 and L1
//    to the file in this order with flushes between (commit.cpp);
//  - a dropped reference is counted down only after a commit made its absence stable; then the cluster waits until no
//    transfer that may still touch it is under way (Hold), its space is given back, and it may be used again;
//  - two allocating writes to one guest cluster wait for each other (busy ranges).
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

#include "storage/crypto/luks.h"
#include "storage/image/image.h"
#include "storage/qcow2/bitmap.h"
#include "storage/qcow2/cluster_set.h"
#include "storage/qcow2/compression.h"
#include "storage/qcow2/header.h"
#include "storage/qcow2/ordering.h"
#include "storage/qcow2/refcounts.h"
#include "storage/qcow2/table_cache.h"

namespace vireo::storage::qcow2 {

struct SnapshotRepair;

struct OpenConfig {
  uint64_t l2_cache = 32 << 20, refcount_cache = 8 << 20;
  bool discard = true;      // freed clusters' space goes back to the file system
  std::optional<bool> lazy_refcounts;  // instead of what the image says
  bool keep_autoclear = false;  // for a check that writes nothing
  bool allow_corrupt = false, allow_dirty = false;  // repair is the caller's
  std::optional<SecretBytes> secret;  // password of an encrypted image
  SnapshotRepair* snapshots = nullptr;  // what is wrong with their list is put right instead of refused
  bool no_data = false;     // an encrypted image's key is not asked for: its data cannot be read or written
  uint32_t broken_rules = 0;  // tests only: see ordering.h
};

struct Snapshot {
  std::string id, name;
  uint64_t l1_offset = 0;
  uint32_t l1_size = 0;
  uint32_t date_sec = 0, date_nsec = 0;
  uint64_t vm_clock_nsec = 0;
  uint64_t vm_state_size = 0;
  uint64_t disk_size = 0;
  std::vector<std::byte> extra;  // from the 16th byte on (24th: instruction count), kept as it is
  uint64_t icount = 0;
  uint64_t extra_size = 24;    // of the entry as it was read
};

// An L2 entry and what it says of one subcluster.
struct Entry {
  uint64_t word = 0;
  uint64_t bitmap = 0;  // extended L2: zero bits << 32 | allocation bits
};
enum class Kind { kUnallocated, kZero, kZeroAllocated, kNormal, kCompressed, kUnallocatedInCluster, kInvalid };

class Qcow2 final : public Image {
 public:
  static Result<std::unique_ptr<Qcow2>> open(std::unique_ptr<File> file, std::unique_ptr<File> data_file, const OpenConfig& config);
  ~Qcow2() override;

  const char* format() const override { return "qcow2"; }
  File& file() override { return *file_; }
  File& data_file() override { return data_file_ ? *data_file_ : *file_; }
  bool has_data_file() const { return data_file_ != nullptr; }
  Luks* luks() { return luks_ ? &*luks_ : nullptr; }  // null: not encrypted so
  uint64_t size() const override { return header_.size; }
  bool read_only() const override { return file_->read_only(); }
  uint64_t cluster_size() const override { return geometry_.cluster_size(); }
  uint64_t write_unit() const override { return geometry_.subcluster_size(); }
  Image* backing() override { return backing_.get(); }
  void set_backing(std::shared_ptr<Image> backing) override { backing_ = std::move(backing); }
  using Image::read;
  using Image::write;
  Result<> read(uint64_t offset, std::span<const iovec> to) override;
  Result<> write(uint64_t offset, std::span<const iovec> from) override;
  Result<> write_zeroes(uint64_t offset, uint64_t length, bool may_unmap) override;
  Result<> write_compressed(uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(uint64_t offset, uint64_t length) override;
  Result<> flush() override;
  Result<Extent> status(uint64_t offset, uint64_t length) override;
  Result<> resize(uint64_t size, Preallocation preallocation) override;
  Result<> close() override;
  bool locate(uint64_t offset, uint64_t length, bool for_write, std::vector<Segment>& out, Hold& hold) override;
  bool read_now(uint64_t offset, std::span<const iovec> to) override;
  uint64_t read_together() const override { return compressed_seen_ ? cluster_size() : 0; }

  // Nothing more is written, not even by the destructor: as if the process had died.
  void abandon() { closed_ = true; }

  const Header& header() const { return header_; }
  // The header region is written anew; for changes of names, versions, features. Callers keep guests out.
  Result<> rewrite_header(const Header& header);
  // Compressing needs no lock: several threads can, and hand over in order. Empty: it would not become smaller.
  std::vector<std::byte> compress(std::span<const std::byte> cluster) const;
  Result<> write_precompressed(uint64_t offset, std::span<const std::byte> compressed);

  const std::vector<Snapshot>& snapshots() const { return snapshots_; }
  int find_snapshot(const std::string& id_or_name) const;  // -1: none
  Result<> create_snapshot(const std::string& name, uint32_t date_sec, uint32_t date_nsec);
  Result<> delete_snapshot(size_t index);
  Result<> renew_snapshot_table();  // in the form that this version has
  Result<> apply_snapshot(size_t index);
  // From now on reads show that snapshot; the image must have been opened read-only.
  Result<> show_snapshot(size_t index);

  // Dirty bitmaps. Those that are enabled follow every write; changes of their bits are stored by close().
  const std::vector<Bitmap>& bitmaps() const { return bitmaps_.bitmaps; }
  const Bitmap* find_bitmap(const std::string& name) const;  // null: none
  Result<> add_bitmap(const std::string& name, unsigned granularity_bits, bool enabled);
  Result<> remove_bitmap(const std::string& name);  // an inconsistent one as well
  // Its bits, to be changed; and whether it follows writes.
  Result<BitmapBits*> edit_bitmap(const std::string& name);
  Result<> enable_bitmap(const std::string& name, bool on);
  Result<const BitmapBits*> bitmap_bits(const std::string& name);  // to be read

  // What a machine keeps beside the disk: bytes behind the disk's end, in the same tables, which snapshots take along.
  Result<> write_vm_state(uint64_t position, std::span<const std::byte> from);
  Result<> read_vm_state(uint64_t position, std::span<std::byte> to);
  uint64_t vm_state_start() const { return geometry_.l1_entries(header_.size) * geometry_.l2_span(); }

  // Nothing is allocated afterwards: a backing file shows everywhere.
  Result<> drop_all_data();
  Result<> make_empty();  // the same by starting over: the file is as short as a new one afterwards
  // Entries for every cluster of [from, to): with space behind them, all zeroes when read. `show_backing` (extended L2 entries only): what
  // is read stays the backing file's.
  Result<> preallocate(uint64_t from, uint64_t to, Preallocation preallocation, bool show_backing = false);

  // Changes of the whole image, which tell how far they are: steps done, of how many.
  using Steps = std::function<void(uint64_t done, uint64_t all)>;
  Result<> change_refcount_width(unsigned order, const Steps& tell);
  Result<> expand_zero_clusters(const Steps& tell);

 private:
  struct Busy {
    uint64_t from, to;
  };
  struct Freed {
    uint64_t cluster;
    uint64_t count;
    bool give_back;
  };
  // A range of one cluster that a write will fill, or several clusters in a row in the guest and the file.
  struct Allocation {
    uint64_t guest = 0;     // cluster start
    uint64_t clusters = 0;
    uint64_t host = 0;
    bool fresh = false;     // beyond what the file ever had: holes read as zeroes
    bool owned = false;     // the host clusters were there before (no new reference)
    bool whole = true;      // the entry's other subclusters are replaced, too
  };
  class BusyRange;

  Qcow2(std::unique_ptr<File> file, std::unique_ptr<File> data_file, const OpenConfig& config)
      : config_(config), file_(std::move(file)), data_file_(std::move(data_file)) {}
  Result<> open_image();
  Result<> load_l1(uint64_t offset, uint32_t size);
  Result<> open_writable();
  Result<> load_snapshots();
  Result<> open_encryption();
  Result<> readable() const;
  bool obeys(Rule rule) const { return !(config_.broken_rules & static_cast<uint32_t>(rule)); }
  bool lazy() const { return config_.lazy_refcounts.value_or(header_.lazy_refcounts()) && v3(); }
  bool v3() const { return header_.version >= 3; }

  // map.cpp. The lock is held.
  Result<Table*> l2_table(uint64_t guest, bool only_cached = false);  // null: none (or not in memory)
  Result<Table*> writable_l2(uint64_t guest);
  Entry entry_at(const Table& table, uint64_t guest) const;
  void set_entry(Table& table, uint64_t guest, Entry entry);
  Kind kind(const Entry& entry, unsigned subcluster) const;
  // Bytes from `guest` on that are of the same kind, and in a row in the file when they are there.
  struct Mapping {
    Kind kind = Kind::kUnallocated;
    Entry entry;
    uint64_t host = 0;
    uint64_t length = 0;
    bool copied = false;
    bool known = true;  // false: the table is not in memory and was not to be loaded
  };
  Result<Mapping> map(uint64_t guest, uint64_t length, bool only_cached = false);
  std::unexpected<Error> corrupt(const std::string& what);
  Hold hold();

  // vm_state.cpp, write.cpp, read.cpp
  Result<> read_space(uint64_t offset, std::span<const iovec> to);
  Result<> write_space(uint64_t offset, std::span<const iovec> from);
  // Where what can be read from `guest` on ends: the disk, or the state of a machine behind it.
  uint64_t space_end(uint64_t guest) const { return guest < vm_state_start() ? header_.size : UINT64_MAX; }
  Result<> write_some(uint64_t& offset, std::span<const iovec> from, uint64_t& done, std::unique_lock<std::mutex>& lock);
  Result<> allocate_and_write(uint64_t offset, std::span<const iovec> from, uint64_t& written, std::unique_lock<std::mutex>& lock);
  Result<Allocation> allocate_data(uint64_t guest, uint64_t clusters);
  Result<> link(const Allocation& allocation, uint64_t from, uint64_t to);
  Result<> fill(const Allocation& allocation, uint64_t from, uint64_t to, uint64_t offset, std::span<const iovec> data);
  Result<> before_allocation();
  uint64_t cipher_sector(uint64_t guest, uint64_t host) const;
  void reserve_ahead(uint64_t end);
  Result<> drop_reserved();
  Result<> check_overlap(uint64_t host, uint64_t length, const char* what);
  void wait_idle(uint64_t from, uint64_t to, std::unique_lock<std::mutex>& lock);
  Result<> zero_clusters(uint64_t from, uint64_t to, bool may_unmap, bool discard, std::unique_lock<std::mutex>& lock);
  Result<> drop_entries(uint64_t from, uint64_t to);
  Result<bool> zero_unit(uint64_t unit, uint64_t from, uint64_t to, bool may_unmap);
  Result<> zero_in_steps(uint64_t from, uint64_t to, bool may_unmap, bool discard);
  Result<> writable_check(uint64_t offset, uint64_t length);
  void release_entry(const Entry& entry, bool give_back);  // the references an entry held
  void free_later(uint64_t host, uint64_t length, bool give_back);
  Result<uint64_t> allocate_bytes(uint64_t length);
  Result<> link_compressed(uint64_t guest, uint64_t word);

  // commit.cpp
  Result<> commit(bool durable);       // the lock must not be held
  Result<> commit_now(bool durable);
  Result<> commit_if_full();
  void apply_frees(std::vector<Freed>& frees);
  void cool();                         // frees what no transfer holds any more
  Result<> flush_files();

  // refcount_width.cpp, zero_expansion.cpp
  struct NewRefcounts {
    std::map<uint64_t, uint64_t> blocks;  // offsets by index
    uint64_t table = 0, table_clusters = 0, walks = 3;
  };
  Result<NewRefcounts> plan_refcounts(const Geometry& wanted, const Steps& tell);
  Result<> expand_zeroes_in(uint64_t l2);
  Result<> connect_refcounts();

  // snapshot.cpp
  Result<> count_tree(const std::vector<uint64_t>& l1, int by);
  Result<> write_snapshot_table(const std::vector<Snapshot>& list);
  Result<> set_l1(std::vector<uint64_t> l1, uint64_t size);
  Result<> set_copied(bool from_refcounts);
  Result<> snapshot_work(const std::function<Result<>()>& work);
  Result<> quiesce();
  Result<std::vector<uint64_t>> read_l1(uint64_t offset, uint32_t entries);
  Result<std::vector<uint64_t>> read_snapshot_l1(const Snapshot& s);
  Result<> write_l1_table(uint64_t offset, const std::vector<uint64_t>& l1);
  void own(uint64_t offset, uint64_t length, Owner owner);
  Result<uint64_t> allocate_area(uint64_t bytes);
  void free_area(uint64_t offset, uint64_t bytes);
  Result<> put_header_field(unsigned offset, std::span<const std::byte> bytes);
  Result<> set_dirty_bit(bool on);

  // bitmaps.cpp. The lock is held.
  Result<> load_bitmaps();
  Result<> own_bitmaps();
  Result<> track(uint64_t offset, uint64_t length);
  Result<> take_bitmaps(bool disabled_too);
  Result<> take_bitmap(Bitmap& bitmap);
  Result<Bitmap*> usable_bitmap(const std::string& name);
  Result<> write_bitmap_flags(const std::vector<Bitmap*>& changed);
  // The lock is not held.
  Result<> resize_bitmaps(uint64_t size, bool all_dirty);
  Result<> store_bitmaps();
  Result<> store_bitmap(Bitmap& bitmap, std::vector<uint64_t>& unused, bool& moved);
  Result<> write_bitmap_directory();
  Result<> name_bitmap_directory(uint64_t offset, uint64_t bytes);

  Result<> read_compressed(const Entry& entry, uint64_t in_cluster, std::span<const iovec> to);

  OpenConfig config_;
  std::unique_ptr<File> file_, data_file_;
  std::shared_ptr<Image> backing_;
  Header header_;
  Geometry geometry_;
  std::unique_ptr<Refcounts> refcounts_;
  std::unique_ptr<TableCache> l2_;
  std::vector<uint64_t> l1_;
  uint64_t l1_dirty_from_ = 0, l1_dirty_to_ = 0;
  std::vector<Snapshot> snapshots_;
  uint64_t snapshot_table_size_ = 0;
  BitmapDirectory bitmaps_;
  bool bitmaps_taken_ = false;  // those that follow writes are marked as in use
  bool bitmaps_lost_ = false;   // their directory cannot be read
  bool bitmaps_owned_ = false;  // of a read-only image: it was looked at whether they share what is to be each one's own
  ClusterSet owners_;
  bool corrupt_ = false, closed_ = false, dirty_marked_ = false;
  std::atomic<int> flush_error_ = 0;  // the kernel forgets what it could not write: so must we trust nothing after
  std::atomic<bool> told_ = false;      // the last write or commit failed, and its caller knows
  uint64_t high_water_ = 0;       // nothing was ever in the file from here on
  uint64_t reserved_ = 0;         // the file's end when it was made longer than it needs to be
  uint64_t compressed_next_ = 0;  // room for compressed data in a started cluster
  std::unique_ptr<ClusterCache> decompressed_;
  std::atomic<bool> compressed_seen_ = false;
  std::optional<Luks> luks_;
  std::unique_ptr<SectorCipher> cipher_;
  bool locked_ = false;  // encrypted, and the key is not known

  mutable std::mutex mutex_;
  std::mutex commit_mutex_;  // before mutex_
  std::mutex partial_;       // before mutex_: encrypted writes of parts of sectors
  std::condition_variable idle_;
  std::vector<Busy> busy_;
  std::vector<Freed> pending_;    // unlinked in memory
  bool allocated_since_commit_ = false;
  // Transfers under way, counted by the epoch in which they started.
  uint64_t epoch_ = 1;
  std::map<uint64_t, unsigned> holds_;
  struct Cooling {
    uint64_t cluster;
    uint64_t epoch;
    bool give_back;
  };
  std::vector<Cooling> cooling_;
};

}  // namespace vireo::storage::qcow2
