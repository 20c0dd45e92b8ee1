// SPDX-License-Identifier: Apache-2.0
#include "storage/qcow2/snapshot_table.h"

#include <algorithm>

namespace vireo::storage::qcow2 {
namespace {

constexpr size_t kFixed = 40;  // the part before the extra data
constexpr size_t kExtraNow = 24;

}  // namespace

Result<SnapshotTable> read_snapshot_table(File& file, const Header& header, SnapshotRepair* repair) {
  SnapshotTable table;
  uint64_t at = header.snapshots_offset, length = 0;  // in the file, and as it would be written anew
  uint64_t count = header.snapshot_count;
  if (count > kMaxSnapshots) {
    if (!repair) return fail(ErrorKind::kCorrupt, "Snapshot table too large", EFBIG);
    repair->say("Discarding " + std::to_string(count - kMaxSnapshots) + " overhanging snapshots");
    repair->removed += count - kMaxSnapshots;
    count = kMaxSnapshots;
  }
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t before = at;
    at = round_up(at, 8);
    length = round_up(length, 8);
    std::byte fixed[kFixed];
    TRY_VOID(file.read(at, fixed));
    at += kFixed;
    Snapshot s;
    s.l1_offset = load<uint64_t>(fixed);
    s.l1_size = load<uint32_t>(fixed + 8);
    uint64_t id_size = load<uint16_t>(fixed + 12), name_size = load<uint16_t>(fixed + 14);
    s.date_sec = load<uint32_t>(fixed + 16);
    s.date_nsec = load<uint32_t>(fixed + 20);
    s.vm_clock_nsec = load<uint64_t>(fixed + 24);
    s.vm_state_size = load<uint32_t>(fixed + 32);
    uint64_t extra_size = load<uint32_t>(fixed + 36);
    s.extra_size = std::min(extra_size, kMaxSnapshotExtra);
    if (extra_size > kMaxSnapshotExtra) {
      const std::string entry = "oo much extra metadata in snapshot table entry " + std::to_string(i);
      if (!repair) return fail(ErrorKind::kCorrupt, "T" + entry + "\nYou can force-remove this extra metadata with qemu-img check -r all", EFBIG);
      repair->say("Discarding t" + entry + " (" + std::to_string(extra_size) + " > " + std::to_string(kMaxSnapshotExtra) + ")");
      ++repair->cut;
    }
    std::vector<std::byte> extra(s.extra_size);
    TRY_VOID(file.read(at, extra));
    at += extra_size;
    s.disk_size = header.size;
    s.icount = UINT64_MAX;
    if (extra.size() >= 8) s.vm_state_size = load<uint64_t>(extra.data());
    if (extra.size() >= 16) s.disk_size = load<uint64_t>(extra.data() + 8);
    if (extra.size() >= 24) s.icount = load<uint64_t>(extra.data() + 16);
    if (extra.size() > kExtraNow) s.extra.assign(extra.begin() + kExtraNow, extra.end());
    s.id.resize(id_size);
    TRY_VOID(file.read(at, std::as_writable_bytes(std::span(s.id))));
    at += id_size;
    s.name.resize(name_size);
    TRY_VOID(file.read(at, std::as_writable_bytes(std::span(s.name))));
    at += name_size;
    length += kFixed + s.extra_size + id_size + name_size;
    if (length > kMaxSnapshotTable || at - header.snapshots_offset > INT32_MAX) {
      const std::string left = std::to_string(count - i);
      if (!repair)
        return fail(ErrorKind::kCorrupt, "Snapshot table is too big\nYou can force-remove all " + left + " overhanging snapshots with qemu-img check -r all", EFBIG);
      repair->say("Discarding " + left + " overhanging snapshots (snapshot table is too big)");
      repair->removed += count - i;
      at = before;
      break;
    }
    table.snapshots.push_back(std::move(s));
  }
  table.bytes = header.snapshot_count ? at - header.snapshots_offset : 0;
  return table;
}

std::vector<std::byte> serialize_snapshots(const std::vector<Snapshot>& list) {
  std::vector<std::byte> out;
  for (const Snapshot& s : list) {
    size_t at = round_up(out.size(), 8), extra = kExtraNow + s.extra.size();
    out.resize(at + kFixed + extra);
    std::byte* p = &out[at];
    store<uint64_t>(p, s.l1_offset);
    store<uint32_t>(p + 8, s.l1_size);
    store<uint16_t>(p + 12, static_cast<uint16_t>(s.id.size()));
    store<uint16_t>(p + 14, static_cast<uint16_t>(s.name.size()));
    store<uint32_t>(p + 16, s.date_sec);
    store<uint32_t>(p + 20, s.date_nsec);
    store<uint64_t>(p + 24, s.vm_clock_nsec);
    store<uint32_t>(p + 32, static_cast<uint32_t>(std::min<uint64_t>(s.vm_state_size, UINT32_MAX)));
    store<uint32_t>(p + 36, static_cast<uint32_t>(extra));
    store<uint64_t>(p + 40, s.vm_state_size);
    store<uint64_t>(p + 48, s.disk_size);
    store<uint64_t>(p + 56, s.icount);
    std::ranges::copy(s.extra, p + kFixed + kExtraNow);
    auto text = [&](const std::string& t) {
      auto bytes = std::as_bytes(std::span(t));
      out.insert(out.end(), bytes.begin(), bytes.end());
    };
    text(s.id);
    text(s.name);
  }
  return out;
}

}  // namespace vireo::storage::qcow2
