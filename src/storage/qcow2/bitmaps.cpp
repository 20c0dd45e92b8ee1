// SPDX-License-Identifier: Apache-2.0
// The dirty bitmaps of an image in use. Before the first write that they are to know of, those that follow writes are marked
// as in use in the file, so that a crash leaves bitmaps that say of themselves that they are not to be trusted; from then on
// their clusters may be written over. close() writes bits, then tables, and only then takes the marks away.
#include <algorithm>

#include "base/log.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage::qcow2 {
namespace {

constexpr uint64_t kMaxTablesBytes = 128 << 20;  // of all bitmaps of an image

}  // namespace

Result<> Qcow2::load_bitmaps() {
  auto directory = read_bitmap_directory(*file_, header_);
  if (directory) {
    bitmaps_ = std::move(*directory);
    return {};
  }
  if (directory.error().kind != ErrorKind::kCorrupt) return std::unexpected(std::move(directory).error());
  log(LogLevel::kWarning, "'%s': %s; its bitmaps are given up", file_->name().c_str(), directory.error().message.c_str());
  bitmaps_lost_ = true;
  return {};
}

Result<> Qcow2::own_bitmaps() {
  if (bitmaps_.bitmaps.empty()) return {};
  // Nothing is written to a place that is something else as well.
  auto taken = [&](uint64_t offset, uint64_t bytes) {
    for (uint64_t c = offset >> geometry_.cluster_bits; bytes && c <= (offset + bytes - 1) >> geometry_.cluster_bits; ++c)
      if (owners_.get(c) != Owner::kNone) return true;
    return false;
  };
  if (taken(bitmaps_.offset, bitmaps_.bytes)) {
    log(LogLevel::kWarning, "'%s': the bitmap directory overlaps with other metadata; its bitmaps are given up", file_->name().c_str());
    bitmaps_ = {};
    bitmaps_lost_ = true;
    return {};
  }
  own(bitmaps_.offset, bitmaps_.bytes, Owner::kBitmaps);
  // A directory of a few bytes can name the same table, or holes of the file, tens of thousands of times.
  uint64_t bytes = 0;
  for (Bitmap& b : bitmaps_.bitmaps) {
    const uint64_t length = b.table_entries * 8ull;
    b.broken = !check_bitmap_table(*file_, geometry_, b) || length > kMaxTablesBytes - bytes;
    if (b.broken) continue;
    bytes += length;  // of those that are somebody else's as well: to look takes time too
    b.broken = taken(b.table_offset, length);
    if (b.broken) continue;
    if (auto read = read_bitmap_table(*file_, geometry_, b); !read && read.error().kind != ErrorKind::kCorrupt) return read;
    else b.broken = !read;
    if (!b.broken && b.table_entries) own(b.table_offset, length, Owner::kBitmaps);
    for (size_t i = 0; !b.broken && i < b.table.size(); ++i) {
      uint64_t offset = b.table[i] & kOffsetMask;
      if (offset == 0) continue;
      b.broken = taken(offset, 1);
      if (!b.broken) own(offset, 1, Owner::kBitmaps);
    }
    if (b.broken) b.table.clear();
  }
  return {};
}

const Bitmap* Qcow2::find_bitmap(const std::string& name) const {
  auto found = std::ranges::find(bitmaps_.bitmaps, name, &Bitmap::name);
  return found == bitmaps_.bitmaps.end() ? nullptr : &*found;
}

Result<> Qcow2::write_bitmap_flags(const std::vector<Bitmap*>& changed) {
  for (Bitmap* b : changed) {
    std::byte flags[4];
    store(flags, b->flags);
    TRY_VOID(file_->write(bitmaps_.offset + b->flags_at, flags));
  }
  return changed.empty() ? Result<>{} : file_->flush();
}

Result<> Qcow2::take_bitmap(Bitmap& b) {
  if (b.ours) return {};
  if (b.inconsistent() || b.foreign()) return fail(ErrorKind::kInvalid, "Bitmap '" + b.name + "' is inconsistent and cannot be used", EINVAL);
  TRY_VOID(read_bitmap_bits(*file_, geometry_, header_.size, b));
  b.flags |= bitmap_flag::kInUse;
  if (auto written = obeys(Rule::kInUseBeforeWrite) ? write_bitmap_flags({&b}) : Result<>{}; !written) {
    b.flags &= ~bitmap_flag::kInUse;
    return written;
  }
  b.ours = true;
  return {};
}

Result<> Qcow2::take_bitmaps(bool disabled_too) {
  std::vector<Bitmap*> changed;
  for (Bitmap& b : bitmaps_.bitmaps) {
    if (b.ours || b.flags & bitmap_flag::kInUse || !(b.enabled() || disabled_too)) continue;
    changed.push_back(&b);
    Result<> read = b.broken ? fail(ErrorKind::kCorrupt, "its table is damaged") : read_bitmap_bits(*file_, geometry_, header_.size, b);
    if (!read) log(LogLevel::kWarning, "'%s': bitmap '%s' does not know of what is written: %s", file_->name().c_str(), b.name.c_str(), read.error().message.c_str());
    b.ours = read.has_value();
    b.flags |= bitmap_flag::kInUse;
  }
  if (!obeys(Rule::kInUseBeforeWrite)) changed.clear();
  if (auto written = write_bitmap_flags(changed); !written) {
    for (Bitmap* b : changed) b->flags &= ~bitmap_flag::kInUse, b->ours = false;
    return written;
  }
  bitmaps_taken_ = true;
  return {};
}

Result<> Qcow2::track(uint64_t offset, uint64_t length) {
  if (bitmaps_.bitmaps.empty()) return {};
  if (!bitmaps_taken_) TRY_VOID(take_bitmaps(false));
  for (Bitmap& b : bitmaps_.bitmaps)
    if (b.ours && b.enabled()) b.bits->set(offset, length);
  return {};
}

Result<> Qcow2::resize_bitmaps(uint64_t size, bool all_dirty) {
  std::lock_guard lock(mutex_);
  for (Bitmap& b : bitmaps_.bitmaps) {
    if (!b.ours) continue;
    b.bits->resize(size);
    if (all_dirty && b.enabled()) b.bits->set(0, size);
  }
  return {};
}

Result<Bitmap*> Qcow2::usable_bitmap(const std::string& name) {
  auto* b = const_cast<Bitmap*>(find_bitmap(name));
  if (!b) return fail(ErrorKind::kNotFound, "Dirty bitmap '" + name + "' not found", ENOENT);
  if (b->inconsistent() || b->foreign()) return fail(ErrorKind::kInvalid, "Bitmap '" + name + "' is inconsistent and cannot be used", EINVAL);
  return b;
}

Result<BitmapBits*> Qcow2::edit_bitmap(const std::string& name) {
  std::lock_guard lock(mutex_);
  if (file_->read_only()) return fail(ErrorKind::kInvalid, "Bitmap '" + name + "' is readonly and cannot be modified", EROFS);
  Bitmap* b = TRY(usable_bitmap(name));
  TRY_VOID(take_bitmap(*b));
  return &*b->bits;
}

Result<> Qcow2::enable_bitmap(const std::string& name, bool on) {
  TRY(edit_bitmap(name));
  std::lock_guard lock(mutex_);
  Bitmap* b = TRY(usable_bitmap(name));
  b->flags = on ? b->flags | bitmap_flag::kAuto : b->flags & ~bitmap_flag::kAuto;
  return {};
}

Result<const BitmapBits*> Qcow2::bitmap_bits(const std::string& name) {
  std::lock_guard lock(mutex_);
  // An image that is written to has done so when it was opened.
  if (file_->read_only() && !bitmaps_owned_) {
    owners_ = {};
    TRY_VOID(own_bitmaps());
    bitmaps_owned_ = true;
  }
  Bitmap* b = TRY(usable_bitmap(name));
  if (!b->bits) TRY_VOID(read_bitmap_bits(*file_, geometry_, header_.size, *b));
  return &*b->bits;
}

// The header names the directory, or none. Where the extension stays where it is in one sector, one write changes it; else it
// does not count meanwhile.
Result<> Qcow2::name_bitmap_directory(uint64_t offset, uint64_t bytes) {
  Header h = header_;
  auto data = bitmaps_extension(static_cast<uint32_t>(bitmaps_.bitmaps.size()), offset, bytes);
  const bool had = header_.find(extension::kBitmaps) && header_.autoclear & autoclear::kBitmaps, has = !data.empty();
  h.set(extension::kBitmaps, data);
  h.autoclear = has ? h.autoclear | autoclear::kBitmaps : h.autoclear & ~autoclear::kBitmaps;
  if (!h.serialize()) h.set(extension::kFeatureNames, {});  // a courtesy, for which the smallest clusters have no room
  auto before = TRY(header_.serialize()), after = TRY(h.serialize());
  std::vector<std::byte> now(before.size());
  TRY_VOID(file_->read(0, now));
  if (had && has && now == before && before.size() == after.size()) {
    auto [first, unused] = std::ranges::mismatch(before, after);
    auto from = static_cast<uint64_t>(first - before.begin());
    uint64_t to = after.size();
    while (to > from && before[to - 1] == after[to - 1]) --to;
    if (from < to && from / 512 == (to - 1) / 512) {
      TRY_VOID(file_->write(from, std::span(after).subspan(from, to - from)));
      TRY_VOID(file_->flush());
      header_ = h;
      return {};
    }
  }
  auto set_bit = [&](uint64_t autoclear) -> Result<> {
    std::byte bits[8];
    store(bits, autoclear);
    TRY_VOID(put_header_field(at::kAutoclear, bits));
    return file_->flush();
  };
  if (had) TRY_VOID(set_bit(h.autoclear & ~autoclear::kBitmaps));
  Header quiet = h;
  quiet.autoclear &= ~autoclear::kBitmaps;
  TRY_VOID(rewrite_header(quiet));
  if (has) TRY_VOID(set_bit(h.autoclear));
  header_ = h;
  return {};
}

// The list as it is in memory goes to a new place. On failure the old one still counts.
Result<> Qcow2::write_bitmap_directory() {
  std::vector<uint64_t> flags_at;
  auto bytes = serialize_bitmap_directory(bitmaps_.bitmaps, flags_at);
  uint64_t offset = TRY(allocate_area(bytes.size()));
  if (offset) TRY_VOID(file_->write(offset, bytes));
  TRY_VOID(commit(true));
  TRY_VOID(name_bitmap_directory(offset, bytes.size()));
  free_area(bitmaps_.offset, bitmaps_.bytes);
  std::lock_guard lock(mutex_);
  if (offset) own(offset, bytes.size(), Owner::kBitmaps);
  bitmaps_.offset = offset;
  bitmaps_.bytes = bytes.size();
  for (size_t i = 0; i < flags_at.size(); ++i) bitmaps_.bitmaps[i].flags_at = flags_at[i];
  return {};
}

Result<> Qcow2::add_bitmap(const std::string& name, unsigned granularity_bits, bool enabled) {
  auto bad = [](const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); };
  TRY_VOID(quiesce());
  if (!v3()) return bad("Cannot store dirty bitmaps in qcow2 v2 files", ENOTSUP);
  if (find_bitmap(name)) return bad("Bitmap already exists: " + name, EEXIST);
  if (bitmaps_.bitmaps.size() >= kMaxBitmaps) return bad("Maximum number of persistent bitmaps is already reached", EOVERFLOW);
  if (name.empty() || name.size() > kMaxBitmapName) return bad("Bitmap name should be from 1 to 1023 bytes long");
  if (granularity_bits < kMinGranularityBits) return bad("Granularity is under minimum (512 bytes)");
  if (granularity_bits > kMaxGranularityBits) return bad("Granularity exceeds maximum (2147483648 bytes)");
  uint64_t pieces = bitmap_pieces(header_.size, granularity_bits, cluster_size());
  if (pieces * cluster_size() > kMaxBitmapBytes) return bad("Too much space will be occupied by the bitmap. Use larger granularity");
  Bitmap b{.name = name, .granularity_bits = granularity_bits, .flags = enabled ? bitmap_flag::kAuto : 0};
  b.table.resize(std::max<uint64_t>(pieces, 1));
  b.table_entries = static_cast<uint32_t>(b.table.size());
  bitmaps_.bitmaps.push_back(std::move(b));
  // All tables that count take new places, in this order: an image of the reference's making is as long (iotest 190).
  struct Area {
    uint64_t offset, bytes;
  };
  std::vector<Area> were, are;
  auto place = [&](Bitmap& one) -> Result<> {
    const Area area{TRY(allocate_area(one.table.size() * 8)), one.table.size() * 8};
    std::vector<std::byte> raw(area.bytes);
    for (size_t i = 0; i < one.table.size(); ++i) store(&raw[i * 8], one.table[i]);
    were.push_back({one.table_offset, one.table_offset ? area.bytes : 0});
    are.push_back(area);
    one.table_offset = area.offset;
    return file_->write(area.offset, raw);
  };
  auto moves = [](const Bitmap& one) { return !one.inconsistent() && !one.foreign() && one.table.size() == one.table_entries; };
  Result<> done;
  for (Bitmap& one : bitmaps_.bitmaps)
    if (done && moves(one)) done = place(one);
  if (done) done = write_bitmap_directory();
  if (!done) {
    size_t i = 0;
    for (Bitmap& one : bitmaps_.bitmaps)
      if (i < were.size() && moves(one)) one.table_offset = were[i++].offset;
    bitmaps_.bitmaps.pop_back();
    for (const Area& area : are) free_area(area.offset, area.bytes);
    return done;
  }
  for (const Area& area : were)
    if (area.bytes) free_area(area.offset, area.bytes);
  bitmaps_taken_ = false;
  std::lock_guard lock(mutex_);
  for (const Area& area : are) own(area.offset, area.bytes, Owner::kBitmaps);
  return {};
}

Result<> Qcow2::remove_bitmap(const std::string& name) {
  TRY_VOID(quiesce());
  if (!find_bitmap(name)) return fail(ErrorKind::kNotFound, "Dirty bitmap '" + name + "' not found", ENOENT);
  auto found = std::ranges::find(bitmaps_.bitmaps, name, &Bitmap::name);
  Bitmap gone = std::move(*found);
  bitmaps_.bitmaps.erase(found);
  if (auto written = write_bitmap_directory(); !written) {
    bitmaps_.bitmaps.push_back(std::move(gone));
    return written;
  }
  if (gone.broken) return {};
  free_area(gone.table_offset, gone.table_entries * 8ull);
  for (uint64_t entry : gone.table)
    if (entry & kOffsetMask) free_area(entry & kOffsetMask, cluster_size());
  return commit(true);
}

// Bits and table of one bitmap. `unused`: clusters that it no longer needs; `moved`: the directory must say where the table is.
Result<> Qcow2::store_bitmap(Bitmap& b, std::vector<uint64_t>& unused, bool& moved) {
  const auto& pieces = b.bits->pieces();
  std::vector<uint64_t> table(std::max<uint64_t>(pieces.size(), 1));
  const auto* first = pieces.empty() ? nullptr : &pieces[0];
  auto uniform = [&](const BitmapBits::Piece& piece, std::byte value) {
    return std::all_of(piece.bytes.get(), piece.bytes.get() + cluster_size(), [&](std::byte x) { return x == value; });
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const BitmapBits::Piece& piece = first[i];
    uint64_t old = i < b.table.size() ? b.table[i] & kOffsetMask : 0;
    if (!piece.bytes) table[i] = piece.ones ? kAllOnes : 0;
    else if (uniform(piece, std::byte{0})) table[i] = 0;
    else if (uniform(piece, std::byte{0xff})) table[i] = kAllOnes;
    else {
      bool alone = false;
      if (old) {
        std::lock_guard lock(mutex_);
        alone = TRY(refcounts_->get(old >> geometry_.cluster_bits)) == 1;
      }
      table[i] = alone ? old : TRY(allocate_area(cluster_size()));
      if (!alone) {
        std::lock_guard lock(mutex_);
        own(table[i], 1, Owner::kBitmaps);
      }
      TRY_VOID(file_->write(table[i], {piece.bytes.get(), cluster_size()}));
    }
  }
  for (size_t i = 0; i < b.table.size(); ++i)
    if (uint64_t old = b.table[i] & kOffsetMask; old && (i >= table.size() || table[i] != old)) unused.push_back(old);
  std::vector<std::byte> raw(table.size() * 8);
  for (size_t i = 0; i < table.size(); ++i) store(&raw[i * 8], table[i]);
  if (table.size() != b.table_entries) {
    uint64_t offset = TRY(allocate_area(raw.size()));
    {
      std::lock_guard lock(mutex_);
      own(offset, raw.size(), Owner::kBitmaps);
    }
    for (uint64_t at = geometry_.cluster_start(b.table_offset); b.table_entries && at < b.table_offset + b.table_entries * 8ull; at += cluster_size())
      unused.push_back(at);
    b.table_offset = offset;
    b.table_entries = static_cast<uint32_t>(table.size());
    moved = true;
  }
  b.table = table;
  // What the table names must be counted before it does.
  TRY_VOID(commit(true));
  return file_->write(b.table_offset, raw);
}

Result<> Qcow2::store_bitmaps() {
  std::vector<uint64_t> unused;
  std::vector<Bitmap*> changed;
  bool moved = false;
  for (Bitmap& b : bitmaps_.bitmaps)
    if (b.ours) changed.push_back(&b);
  if (changed.empty()) return {};
  for (Bitmap* b : changed)
    if (obeys(Rule::kBitmapBeforeClean)) TRY_VOID(store_bitmap(*b, unused, moved));
  TRY_VOID(file_->flush());
  if (moved) TRY_VOID(write_bitmap_directory());
  for (Bitmap* b : changed) b->flags &= ~bitmap_flag::kInUse;
  {
    std::lock_guard lock(mutex_);
    TRY_VOID(write_bitmap_flags(changed));
  }
  for (Bitmap* b : changed) b->ours = false;
  if (!obeys(Rule::kBitmapBeforeClean))
    for (Bitmap* b : changed) TRY_VOID(store_bitmap(*b, unused, moved));
  for (uint64_t offset : unused) free_area(offset, cluster_size());
  return commit(true);
}

}  // namespace vireo::storage::qcow2
