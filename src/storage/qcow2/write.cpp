// SPDX-License-Identifier: Apache-2.0
// Writing: in place where a cluster is the active image's alone, else into new clusters.
#include <algorithm>

#include "storage/crypto/encrypted_io.h"
#include "storage/file/aligned_buffer.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

constexpr uint64_t kLongestRun = 8 << 20;  // bytes in one go

}  // namespace

// A guest range that nobody else allocates for meanwhile. Made and destroyed with the lock held.
class Qcow2::BusyRange {
 public:
  BusyRange(Qcow2& image, uint64_t from, uint64_t to) : image_(image), from_(from) { image_.busy_.push_back({from, to}); }
  ~BusyRange() {
    std::erase_if(image_.busy_, [&](const Busy& b) { return b.from == from_; });
    image_.idle_.notify_all();
  }

 private:
  Qcow2& image_;
  uint64_t from_;
};

void Qcow2::wait_idle(uint64_t from, uint64_t to, std::unique_lock<std::mutex>& lock) {
  idle_.wait(lock, [&] { return std::ranges::none_of(busy_, [&](const Busy& b) { return b.from < to && from < b.to; }); });
}

Result<> Qcow2::writable_check(uint64_t offset, uint64_t length) {
  if (file_->read_only()) return fail(ErrorKind::kInvalid, "'" + file_->name() + "' is read-only", EROFS);
  if (offset > header_.size || length > header_.size - offset) return fail(ErrorKind::kInvalid, "write past the end of the image", EIO);
  TRY_VOID(readable());
  std::lock_guard lock(mutex_);
  if (corrupt_) return fail(ErrorKind::kCorrupt, "'" + file_->name() + "' is marked as corrupt", EIO);
  // Its bitmaps would not know of it, and with lazy refcounts nobody would recount.
  if (closed_) return fail(ErrorKind::kInternal, "'" + file_->name() + "' was closed already", EBADF);
  return track(offset, length);
}

Result<> Qcow2::check_overlap(uint64_t host, uint64_t length, const char* what) {
  if (length == 0) return {};
  for (uint64_t c = host >> geometry_.cluster_bits; c <= (host + length - 1) >> geometry_.cluster_bits; ++c)
    if (Owner owner = owners_.get(c); owner != Owner::kNone)
      return corrupt("Preventing invalid write on metadata (overlaps with " + std::string(owner_name(owner)) + "): " + what + " at offset " + std::to_string(host));
  return {};
}

void Qcow2::own(uint64_t offset, uint64_t length, Owner owner) {
  if (length == 0) return;
  for (uint64_t c = offset >> geometry_.cluster_bits; c <= (offset + length - 1) >> geometry_.cluster_bits; ++c)
    owner == Owner::kNone ? owners_.remove(c) : owners_.set(c, owner);
}

// The number that a sector is encrypted under: its place in the file, with the legacy method its place on the disk.
uint64_t Qcow2::cipher_sector(uint64_t guest, uint64_t host) const { return (luks_ ? host : guest) / SectorCipher::kSector; }

// With lazy refcounts the file says that they are not to be trusted before that becomes true.
Result<> Qcow2::before_allocation() {
  if (!lazy() || dirty_marked_) return {};
  if (!(header_.incompatible & incompatible::kDirty)) TRY_VOID(set_dirty_bit(true));
  dirty_marked_ = true;
  return {};
}

void Qcow2::free_later(uint64_t host, uint64_t length, bool give_back) {
  uint64_t first = host >> geometry_.cluster_bits, last = (host + length - 1) >> geometry_.cluster_bits;
  pending_.push_back({first, last - first + 1, give_back});
}

void Qcow2::release_entry(const Entry& entry, bool give_back) {
  if (entry.word & kCompressed) {
    uint64_t word = entry.word & ~(kCompressed | kCopied);
    free_later(geometry_.compressed_offset(word), geometry_.compressed_size(word), give_back);
  } else if (data_file_) {
    // At once, before the entry that says so is stable: after a power cut the old one names zeroes, which is what was asked for. Encrypted,
    // zeroes are noise, so there the space stays.
    if (give_back && config_.discard && !cipher_ && (entry.word & kCopied)) data_file_->discard(entry.word & kOffsetMask, cluster_size());
  } else if (uint64_t host = entry.word & kOffsetMask) {
    free_later(host, cluster_size(), give_back);
  }
}

Result<> Qcow2::write(uint64_t offset, std::span<const iovec> from) {
  TRY_VOID(writable_check(offset, total(from)));
  auto written = write_space(offset, from);
  if (!written) told_ = true;
  return written;
}

Result<> Qcow2::write_space(uint64_t offset, std::span<const iovec> from) {
  const uint64_t length = total(from);
  uint64_t done = 0;
  while (done < length) {
    uint64_t at = offset + done;
    std::unique_lock lock(mutex_);
    uint64_t cluster = geometry_.cluster_start(at);
    // What is being allocated here must be seen as it will be.
    wait_idle(cluster, cluster + cluster_size(), lock);
    Mapping m = TRY(map(at, std::min(length - done, kLongestRun)));
    if (m.kind != Kind::kNormal || !(m.copied || data_file_)) {
      TRY_VOID(allocate_and_write(at, slice(from, done, length - done), done, lock));
      continue;
    }
    if (!data_file_) TRY_VOID(check_overlap(m.host, m.length, "data"));
    Hold keep = hold();
    lock.unlock();
    Parts piece = slice(from, done, m.length);
    if (cipher_) {
      Allocation same{.guest = cluster, .clusters = 1, .host = m.host - geometry_.in_cluster(at), .owned = true};
      TRY_VOID(fill(same, at, at + m.length, at, piece));
    } else {
      file_->event("write_aio");
      TRY_VOID(data_file().writev(m.host, piece));
    }
    done += m.length;
  }
  return commit_if_full();
}

// A part of what the file has, so that small images stay small.
void Qcow2::reserve_ahead(uint64_t end) {
  if (reserved_ == UINT64_MAX || end <= reserved_) return;
  uint64_t step = std::clamp<uint64_t>(round_up(high_water_ / 8, cluster_size()), 16 * cluster_size(), std::max<uint64_t>(64 << 20, 16 * cluster_size()));
  uint64_t from = std::max(reserved_, high_water_);
  reserved_ = file_->reserve_ahead(from, std::max(end, from + step) - from) ? std::max(end, from + step) : UINT64_MAX;
}

// What was reserved and is not used goes with the image's last commit.
Result<> Qcow2::drop_reserved() {
  std::lock_guard lock(mutex_);
  if (reserved_ == UINT64_MAX || reserved_ <= high_water_ || file_->size() > reserved_) return {};
  reserved_ = 0;
  return file_->truncate(high_water_);
}

// New clusters for up to `clusters` guest clusters from `guest` on, which all need them.
Result<Qcow2::Allocation> Qcow2::allocate_data(uint64_t guest, uint64_t clusters) {
  file_->event("cluster_alloc");
  if (data_file_) return Allocation{.guest = guest, .clusters = clusters, .host = guest, .owned = true};
  TRY_VOID(before_allocation());
  cool();
  Refcounts::Run run = TRY(refcounts_->allocate(clusters, 1));
  Allocation out{.guest = guest, .clusters = run.count, .host = run.cluster << geometry_.cluster_bits};
  uint64_t bytes = run.count << geometry_.cluster_bits;
  out.fresh = out.host >= high_water_ && file_->grows() && file_->new_space_is_zero();
  TRY_VOID(check_overlap(out.host, bytes, "data"));
  if (out.fresh) reserve_ahead(out.host + bytes);
  high_water_ = std::max(high_water_, out.host + bytes);
  return out;
}

// Takes as much of the data as one run of clusters holds. The lock is held on entry and may not be on return.
Result<> Qcow2::allocate_and_write(uint64_t offset, std::span<const iovec> from, uint64_t& done, std::unique_lock<std::mutex>& lock) {
  const uint64_t size = cluster_size(), guest = geometry_.cluster_start(offset);
  uint64_t end = offset + std::min(total(from), kLongestRun);
  end = std::min(end, guest - guest % geometry_.l2_span() + geometry_.l2_span());
  Mapping first = TRY(map(offset, 1));
  Allocation a;
  uint64_t from_guest = guest, to_guest = guest + size;  // what will be in the new place
  const bool own_cluster = (first.copied || data_file_) && !(first.entry.word & kCompressed) &&
                           (first.kind == Kind::kZeroAllocated || first.kind == Kind::kUnallocatedInCluster);
  if (own_cluster) {
    // The space is there already; only its entry says that it does not count.
    a = {.guest = guest, .clusters = 1, .host = first.entry.word & kOffsetMask, .owned = true, .whole = !geometry_.extended_l2};
    if (data_file_) a.host = guest;
    else TRY_VOID(check_overlap(a.host, size, "data"));
    end = std::min(end, guest + size);
    if (geometry_.extended_l2) {
      // Only subclusters that are not there yet: those that are may be written in place.
      end = std::min(end, offset + (TRY(map(offset, end - offset))).length);
    }
  } else {
    auto needs_all_new = [&](uint64_t at) -> Result<bool> {
      Mapping m = TRY(map(at, 1));
      if (m.kind == Kind::kUnallocated || m.kind == Kind::kZero || m.kind == Kind::kCompressed) return true;
      return !(m.copied || data_file_);
    };
    uint64_t clusters = 1;
    while (guest + clusters * size < end) {
      uint64_t next = guest + clusters * size;
      if (std::ranges::any_of(busy_, [&](const Busy& b) { return b.from < next + size && next < b.to; })) break;
      if (!TRY(needs_all_new(next))) break;
      ++clusters;
    }
    TRY(writable_l2(guest));  // before the data, so that data in a row stays in a row
    a = TRY(allocate_data(guest, clusters));
    end = std::min(end, guest + a.clusters * size);
    to_guest = guest + a.clusters * size;
    // Where nothing of the old cluster must move along, subclusters that are not written can stay as they are.
    a.whole = !geometry_.extended_l2 || a.clusters > 1 ||
              !(first.kind == Kind::kUnallocated || first.kind == Kind::kZero) || (first.entry.word & (kOffsetMask | kCompressed));
  }
  if (!a.whole) {
    from_guest = offset - offset % geometry_.subcluster_size();
    to_guest = round_up(end, geometry_.subcluster_size());
  }
  BusyRange busy(*this, guest, guest + a.clusters * size);
  lock.unlock();
  Result<> result = fill(a, from_guest, to_guest, offset, slice(from, 0, end - offset));
  lock.lock();
  if (result) result = link(a, from_guest, to_guest);
  if (!result) {
    // Nothing ever named the clusters: they can go at once.
    if (!a.owned)
      for (uint64_t c = 0; c < a.clusters; ++c) (void)refcounts_->subtract((a.host >> geometry_.cluster_bits) + c);
    return result;
  }
  done += end - offset;
  return {};
}

// Writes [from, to) of the guest to its new place: `data` from `offset` on, around it what is read there now.
Result<> Qcow2::fill(const Allocation& a, uint64_t from, uint64_t to, uint64_t offset, std::span<const iovec> data) {
  const uint64_t data_end = offset + total(data);
  to = std::max(to, data_end);
  auto host = [&](uint64_t guest) { return a.host + (guest - a.guest); };
  const bool sides = obeys(Rule::kCowBeforeL2);
  uint64_t start = sides ? from : offset, end = sides ? to : data_end;
  // Where the file has zeroes already, zeroes around the data need not be written.
  auto known_zero = [&](uint64_t at, uint64_t until) -> Result<bool> {
    if (!a.fresh || cipher_ || at >= until) return at >= until;
    if (at >= vm_state_start()) return false;
    if (at >= header_.size) return true;
    until = std::min(until, header_.size);
    auto here = TRY(status_above(*this, nullptr, at, until - at));
    return here.zero && here.length >= until - at;
  };
  if (TRY(known_zero(start, offset))) start = offset;
  if (TRY(known_zero(data_end, end))) end = data_end;
  Parts all;
  AlignedBuffer copy;
  if (start == offset && end == data_end) {
    all.assign(data.begin(), data.end());
  } else {
    // One buffer in one piece: what is there now, with the data put into it.
    copy = AlignedBuffer(end - start);
    if (!copy.bytes) return fail(ErrorKind::kIo, "no memory for a buffer", ENOMEM);
    auto side = [&](uint64_t at, uint64_t until) -> Result<> {
      if (at >= until) return {};
      const uint64_t space = space_end(at);
      uint64_t have = at < space ? std::min(until, space) - at : 0;
      std::span whole(copy.bytes + (at - start), until - at);
      file_->event("cow_read");
      iovec there = part(whole.data(), have);
      if (have) TRY_VOID(read_space(at, {&there, 1}));
      std::ranges::fill(whole.subspan(have), std::byte{0});
      return {};
    };
    if (offset > start && end > data_end && data_end - offset <= (end - start) / 2) {
      TRY_VOID(side(start, end));  // one read of all costs less than two
    } else {
      TRY_VOID(side(start, offset));
      TRY_VOID(side(data_end, end));
    }
    copy_from(data, copy.bytes + (offset - start));
    uint64_t first = 0, last = end - start;
    if (a.fresh && !cipher_) {
      if (offset > start && all_zero(copy.bytes, offset - start)) first = offset - start;
      if (end > data_end && all_zero(copy.bytes + (data_end - start), end - data_end)) last = data_end - start;
    }
    all.push_back(part(copy.bytes + first, last - first));
    start += first;
  }
  file_->event(copy.bytes ? "cow_write" : "write_aio");
  if (copy.bytes) file_->event("write_aio");
  if (!cipher_) return data_file().writev(host(start), all);
  // Only overwrites in place can begin or end inside a sector; what is around is read from the image itself.
  const uint64_t lead = start % 512, finish = start + total(all), trail = round_up(finish, 512) - finish;
  // Another writer's part of the same sector is not to be written over with what was there before.
  std::unique_lock part_of_sector(partial_, std::defer_lock);
  if (lead || trail) part_of_sector.lock();
  std::byte before[512] = {}, after[512] = {};
  if (lead) {
    iovec there = part(before, lead);
    TRY_VOID(read_space(start - lead, {&there, 1}));
    all.insert(all.begin(), part(before, lead));
  }
  if (trail) {
    iovec there = part(after, finish < space_end(finish) ? std::min(trail, space_end(finish) - finish) : 0);
    if (there.iov_len) TRY_VOID(read_space(finish, {&there, 1}));
    all.push_back(part(after, trail));
  }
  return write_encrypted(data_file(), *cipher_, host(start) - lead, cipher_sector(start - lead, host(start) - lead), all);
}

// The data is written: the entries of [from, to) name it.
Result<> Qcow2::link(const Allocation& a, uint64_t from, uint64_t to) {
  Table* table = TRY(writable_l2(a.guest));
  for (uint64_t i = 0; i < a.clusters; ++i) {
    uint64_t guest = a.guest + (i << geometry_.cluster_bits), host = a.host + (i << geometry_.cluster_bits);
    Entry old = entry_at(*table, guest), now{host | kCopied, 0};
    if (geometry_.extended_l2) {
      if (a.whole) {
        now.bitmap = 0xffffffff;
      } else {
        auto first = static_cast<unsigned>((std::max(from, guest) - guest) / geometry_.subcluster_size());
        auto last = static_cast<unsigned>((std::min(to, guest + cluster_size()) - guest - 1) / geometry_.subcluster_size());
        uint64_t mask = (last - first == 31 ? 0xffffffffull : ((1ull << (last - first + 1)) - 1)) << first;
        now.bitmap = ((old.bitmap | mask) & 0xffffffff) | ((old.bitmap >> 32 & ~mask) << 32);
      }
    }
    set_entry(*table, guest, now);
    if (!a.owned) release_entry(old, false);
  }
  return {};
}

}  // namespace vireo::storage::qcow2
