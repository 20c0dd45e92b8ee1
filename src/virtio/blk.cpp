// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/log.h"
#include "virtio/blk_features.h"

namespace vireo::virtio {
namespace {

constexpr uint64_t kSector = 512;  // 5.2.4: whatever blk_size says
constexpr uint32_t kMaxSegment = 4 << 20;
constexpr unsigned kRequestsPerTurn = 256;
constexpr uint32_t kMaxRanges = 32;  // in one discard or write zeroes request
constexpr uint32_t kMaxRangeSectors = 1u << 22;  // 2 GiB

}  // namespace

Result<std::unique_ptr<Blk>> Blk::create(const BlkConfig& config, Pins pins, std::unique_ptr<storage::BlockDevice> disk) {
  if (config.serial.size() > VIRTIO_BLK_ID_BYTES)
    return fail(ErrorKind::kInvalid, "disk serial '" + config.serial + "': longer than 20 bytes");
  if (config.queues == 0 || config.queues > kMaxQueues)
    return fail(ErrorKind::kInvalid, "disk queues=" + std::to_string(config.queues) + ": 1 to " + std::to_string(kMaxQueues));
  if (config.queue_size < 4 || config.queue_size > 1024 || !std::has_single_bit(config.queue_size))
    return fail(ErrorKind::kInvalid, "disk queue-size=" + std::to_string(config.queue_size) + ": a power of two from 4 to 1024");
  return std::unique_ptr<Blk>(new Blk(config, pins, std::move(disk)));
}

Blk::Blk(const BlkConfig& config, Pins pins, std::unique_ptr<storage::BlockDevice> disk)
    : LoopDevice(pins.loop), config_(config), disk_(std::move(disk)) {
  storage::Limits limits = disk_->limits();
  space_.capacity = disk_->size() / kSector;
  space_.size_max = kMaxSegment;
  space_.seg_max = config_.queue_size - 2;  // header and status take the rest
  space_.blk_size = limits.logical_block;
  space_.physical_block_exp = static_cast<uint8_t>(std::countr_zero(std::max(1u, limits.physical_block / limits.logical_block)));
  space_.min_io_size = 1;
  space_.num_queues = config_.queues;
  space_.max_discard_sectors = kMaxRangeSectors;
  space_.max_discard_seg = kMaxRanges;
  space_.discard_sector_alignment = std::max({limits.discard_unit, limits.physical_block, limits.logical_block}) / kSector;
  space_.max_write_zeroes_sectors = kMaxRangeSectors;
  space_.max_write_zeroes_seg = kMaxRanges;
  space_.write_zeroes_may_unmap = limits.discard;
  reset();
}

Blk::~Blk() { stop(); }

uint16_t Blk::type() const { return VIRTIO_ID_BLOCK; }

uint64_t Blk::features() const {
  uint64_t features = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) |
                      bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_CONFIG_WCE);
  if (config_.queues > 1) features |= bit(VIRTIO_BLK_F_MQ);
  if (disk_->read_only()) return features | bit(VIRTIO_BLK_F_RO);
  features |= bit(VIRTIO_BLK_F_WRITE_ZEROES);
  if (disk_->limits().discard) features |= bit(VIRTIO_BLK_F_DISCARD);
  return features;
}

std::vector<uint16_t> Blk::queue_sizes() const { return std::vector<uint16_t>(config_.queues, config_.queue_size); }

void Blk::read_config(uint64_t offset, std::span<std::byte> data) {
  std::lock_guard lock(space_mutex_);
  if (offset >= sizeof space_) return;
  size_t n = std::min<size_t>(data.size(), sizeof space_ - offset);
  memcpy(data.data(), reinterpret_cast<const std::byte*>(&space_) + offset, n);
}

void Blk::write_config(uint64_t offset, std::span<const std::byte> data) {
  std::lock_guard lock(space_mutex_);
  if (offset == offsetof(virtio_blk_config, wce) && data.size() == 1) space_.wce = data[0] != std::byte{0};
}

void Blk::features_accepted(uint64_t features) {
  std::lock_guard lock(space_mutex_);
  if (forbid_cache(features)) space_.wce = 0;
}

void Blk::reset() {
  std::lock_guard lock(space_mutex_);
  space_.wce = config_.write_cache;
}

void Blk::fields(Archive& archive) {
  std::lock_guard lock(space_mutex_);
  archive.field(1, "writeback", space_.wce);
}

void Blk::disk_resized() {
  {
    std::lock_guard lock(space_mutex_);
    space_.capacity = disk_->size() / kSector;
  }
  if (running()) signal_config();
}

void Blk::serve(unsigned index) {
  Queue* q = queue(index);
  unsigned left = kRequestsPerTurn;
  q->drain([&](Chain chain) {
    if (!handle(index, std::move(chain))) return false;
    if (--left > 0) return true;
    serve_again(index);  // others want the loop too
    return false;
  });
  disk_->submit();
}

void Blk::stopping() { disk_->drain(); }

bool Blk::handle(unsigned index, Chain chain) {
  virtio_blk_outhdr header;
  std::byte* status = nullptr;
  if (chain.take_value(header)) status = chain.take_last_writable();
  // Without a header or a place for the status there is no way to answer (5.2.6.1).
  if (!status) {
    queue(index)->fail("a disk request without header or status");
    return false;
  }
  if (free_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }
  Request* request = free_.back();
  free_.pop_back();
  request->data_size = chain.writable_size();
  request->chain.emplace(std::move(chain));
  request->queue = index;
  request->type = header.type;
  request->status = status;
  request->written = 0;
  request->parts_left = 1;
  request->error = 0;
  switch (header.type) {
    case VIRTIO_BLK_T_IN: read(request, header.sector); break;
    case VIRTIO_BLK_T_OUT: write(request, header.sector); break;
    case VIRTIO_BLK_T_FLUSH: disk_->flush([this, request](int error) { part_done(request, error); }); break;
    case VIRTIO_BLK_T_GET_ID: get_id(request); break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES: ranges(request); break;
    default: complete(request, VIRTIO_BLK_S_UNSUPP); break;
  }
  return true;
}

bool Blk::in_bounds(uint64_t sector, uint64_t bytes) const {
  return sector <= space_.capacity && bytes % kSector == 0 && bytes / kSector <= space_.capacity - sector;
}

void Blk::read(Request* request, uint64_t sector) {
  if (!in_bounds(sector, request->data_size)) return complete(request, VIRTIO_BLK_S_IOERR);
  disk_->read(sector * kSector, request->chain->writable(), [this, request](int error) { part_done(request, error); });
}

void Blk::write(Request* request, uint64_t sector) {
  if (disk_->read_only() || !in_bounds(sector, request->chain->readable_size())) return complete(request, VIRTIO_BLK_S_IOERR);
  disk_->write(sector * kSector, request->chain->readable(), [this, request](int error) { stable(request, error); });
}

void Blk::get_id(Request* request) {
  char id[VIRTIO_BLK_ID_BYTES] = {};  // 5.2.6: padded with zeroes, without a terminator when full
  memcpy(id, config_.serial.data(), config_.serial.size());
  request->written = request->chain->put(0, std::as_bytes(std::span(id)));
  complete(request, VIRTIO_BLK_S_OK);
}

void Blk::ranges(Request* request) {
  Chain& chain = *request->chain;
  bool discard = request->type == VIRTIO_BLK_T_DISCARD;
  if (!has(discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)) return complete(request, VIRTIO_BLK_S_UNSUPP);
  virtio_blk_discard_write_zeroes list[kMaxRanges];
  uint64_t count = chain.readable_size() / sizeof list[0];
  if (count == 0 || count > kMaxRanges || chain.readable_size() % sizeof list[0]) return complete(request, VIRTIO_BLK_S_IOERR);
  chain.take(std::as_writable_bytes(std::span(list, count)));
  // 5.2.6.2: unknown flags, and unmap for a discard, are not supported, whatever else is wrong.
  for (auto& range : std::span(list, count))
    if (range.flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)) return complete(request, VIRTIO_BLK_S_UNSUPP);
  for (auto& range : std::span(list, count))
    if (range.num_sectors > kMaxRangeSectors || !in_bounds(range.sector, range.num_sectors * kSector))
      return complete(request, VIRTIO_BLK_S_IOERR);
  request->parts_left = static_cast<unsigned>(count);
  for (auto& range : std::span(list, count)) {
    uint64_t offset = range.sector * kSector, length = range.num_sectors * kSector;
    if (discard)
      disk_->discard(offset, length, [this, request](int error) { part_done(request, error); });
    else
      disk_->write_zeroes(offset, length, range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
                          [this, request](int error) { stable(request, error); });
  }
}

void Blk::stable(Request* request, int error) {
  bool write_back;
  {
    // 5.2.5.2: the field decides where it is negotiated; else a driver that can flush gets a cache.
    std::lock_guard lock(space_mutex_);
    write_back = has(VIRTIO_BLK_F_CONFIG_WCE) ? space_.wce : has(VIRTIO_BLK_F_FLUSH);
  }
  if (error || write_back) return part_done(request, error);
  disk_->flush([this, request](int flush_error) { part_done(request, flush_error); });
  if (std::exchange(submit_posted_, true)) return;
  loop().post([this] {
    submit_posted_ = false;
    if (running()) disk_->submit();
  });
}

void Blk::part_done(Request* request, int error) {
  if (error && !request->error) request->error = error;
  if (--request->parts_left > 0) return;
  if (request->error) {
    if (complaints_.allow())
      log(LogLevel::kWarning, "disk %s: a guest request failed: %s", config_.name.c_str(), strerror(request->error));
  } else if (request->type == VIRTIO_BLK_T_IN) {
    request->written = request->data_size;
  }
  complete(request, request->error ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

void Blk::complete(Request* request, uint8_t status) {
  *request->status = std::byte{status};
  // What is reported is written from the start without a gap; the status byte counts when everything before it does.
  uint64_t used = request->written == request->data_size ? request->written + 1 : request->written;
  queue(request->queue)->push(std::move(*request->chain), static_cast<uint32_t>(used), request->data_size + 1);
  request->chain.reset();
  signal_later(request->queue);
  free_.push_back(request);
}

}  // namespace vireo::virtio
