// SPDX-License-Identifier: Apache-2.0
#include "virtio/vhost_user/blk.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/log.h"
#include "virtio/blk_features.h"

namespace vireo::virtio::vhost_user {
namespace {

constexpr uint64_t kBlkFeatures = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_GEOMETRY) | bit(VIRTIO_BLK_F_RO) | bit(VIRTIO_BLK_F_BLK_SIZE) |
                                  bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_CONFIG_WCE) | bit(VIRTIO_BLK_F_MQ) | bit(VIRTIO_BLK_F_DISCARD) |
                                  bit(VIRTIO_BLK_F_WRITE_ZEROES);
// What the back-end has to know of rings; of packed ones it could not tell where it is.
constexpr uint64_t kRing = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_RING_F_EVENT_IDX) | bit(VIRTIO_RING_F_INDIRECT_DESC);
constexpr uint64_t kWce = offsetof(virtio_blk_config, wce);  // the one field that is the driver's
constexpr uint64_t kRetryNs = 500'000'000;
constexpr unsigned kDrainMs = 2000;

}  // namespace

Result<std::unique_ptr<Blk>> Blk::create(const BlkConfig& config, Pins pins) {
  std::unique_ptr<Blk> blk(new Blk(config, pins));
  if (pins.memory.shared_file() < 0) return fail(ErrorKind::kInvalid, "guest memory that other processes can map is needed (--memory ...,backing=memfd)");
  TRY_VOID(blk->connect());
  blk->features_ = blk->back_end_->features() & (kBlkFeatures | kRing);
  const unsigned queues = std::min(config.queues, blk->back_end_->queues());
  if (queues == 1) blk->features_ &= ~bit(VIRTIO_BLK_F_MQ);
  for (unsigned i = 0; i < queues; i++) {
    Bell bell{OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))};
    if (!bell.kick.valid() || !bell.call.valid()) return fail_errno("eventfd");
    blk->bells_.push_back(std::move(bell));
    TRY_VOID(pins.loop.watch(blk->bells_[i].call.get(), EPOLLIN, [b = blk.get(), i](uint32_t) { b->called(i); }));
  }
  blk->space_.num_queues = static_cast<uint16_t>(queues);
  blk->retry_ = pins.loop.create([b = blk.get()] { b->try_again(); });
  return blk;
}

Blk::~Blk() {
  pins_.loop.call([this] {
    retry_.reset();
    if (back_end_) pins_.loop.unwatch(back_end_->fd());
    for (Bell& bell : bells_)
      if (bell.call.valid()) pins_.loop.unwatch(bell.call.get());
  });
}

// A session, and the device that it is about.
Result<> Blk::connect() {
  auto end = TRY(FrontEnd::negotiate(TRY(Connection::open(config_.path))));
  if (!(end->features() & bit(VIRTIO_F_VERSION_1))) return fail(ErrorKind::kUnsupported, "the back-end knows virtio before 1.0 alone");
  if (!end->has_config()) return fail(ErrorKind::kUnsupported, "the back-end does not tell its disk's size (no protocol feature CONFIG)");
  if (!bells_.empty()) {  // not the first: what the driver was offered, or has accepted, must be there
    const uint64_t missing = (queues_.empty() ? features_ : accepted_) & (kBlkFeatures | kRing) & ~end->features();
    if (missing || end->queues() < bells_.size()) return fail(ErrorKind::kUnsupported, "it can less than the one before");
  }
  auto bytes = TRY(end->read_config(offsetof(virtio_blk_config, max_secure_erase_sectors)));
  TRY_VOID(pins_.loop.watch(end->fd(), EPOLLIN | EPOLLRDHUP, [this](uint32_t events) {
    std::byte first;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) return lost("it has closed its socket");
    if (recv(back_end_->fd(), &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1) lost("it speaks without being asked");
  }));
  std::lock_guard lock(space_mutex_);
  const uint16_t queues = space_.num_queues;
  const uint8_t cache_mode = space_.wce;
  memcpy(&space_, bytes.data(), bytes.size());
  its_cache_mode_ = space_.wce;
  space_.num_queues = queues;
  if (!bells_.empty()) space_.wce = cache_mode;  // the driver knows of the mode that there was, and start() tells it
  back_end_ = std::move(end);
  return {};
}

uint16_t Blk::type() const { return VIRTIO_ID_BLOCK; }
uint64_t Blk::features() const { return features_ & ~kRing; }
uint64_t Blk::ring_features() const { return features_ & kRing; }
std::vector<uint16_t> Blk::queue_sizes() const { return std::vector<uint16_t>(bells_.size(), config_.queue_size); }

void Blk::read_config(uint64_t offset, std::span<std::byte> data) {
  std::lock_guard lock(space_mutex_);
  auto space = std::as_bytes(std::span(&space_, 1));
  for (size_t i = 0; i < data.size() && offset + i < space.size(); i++) data[i] = space[offset + i];
}

void Blk::write_config(uint64_t offset, std::span<const std::byte> data) {
  if (offset > kWce || offset + data.size() <= kWce) return;
  const std::byte value = data[kWce - offset] & std::byte{1};
  {
    std::lock_guard lock(space_mutex_);
    space_.wce = std::to_integer<uint8_t>(value);
  }
  pins_.loop.call([&] {
    if (!back_end_) return;
    if (auto done = tell_cache_mode(); !done) lost(done.error().message);
  });
}

Result<> Blk::tell_cache_mode() {
  std::byte mode;
  {
    std::lock_guard lock(space_mutex_);
    mode = std::byte{space_.wce};
  }
  if (mode == std::byte{its_cache_mode_}) return {};
  TRY_VOID(back_end_->write_config(kWce, {&mode, 1}));
  its_cache_mode_ = std::to_integer<uint8_t>(mode);
  return {};
}

void Blk::features_accepted(uint64_t features) {
  std::lock_guard lock(space_mutex_);
  if (forbid_cache(features)) space_.wce = 0;
}

void Blk::activate(uint64_t accepted_features, std::span<Queue* const> queues, Interrupt& interrupt) {
  pins_.loop.call([&] {
    queues_.assign(queues.begin(), queues.end());
    accepted_ = accepted_features;
    interrupt_ = &interrupt;
    if (!back_end_) return;  // when it is back
    if (auto done = start(); !done) lost(done.error().message);
  });
}

Result<> Blk::start() {
  TRY_VOID(back_end_->set_features(accepted_));
  if (accepted_ & bit(VIRTIO_BLK_F_CONFIG_WCE)) TRY_VOID(tell_cache_mode());
  TRY_VOID(back_end_->set_memory(pins_.memory));
  for (unsigned i = 0; i < queues_.size(); i++) {
    if (!queues_[i] || queues_[i]->broken()) continue;
    TRY_VOID(back_end_->start({i, queues_[i]->config(), queues_[i]->state().next_avail, bells_[i].kick.get(), bells_[i].call.get()}, pins_.memory));
    notify(i);  // what is there already
  }
  return {};
}

void Blk::notify(unsigned index) {
  if (index >= bells_.size()) return;
  const uint64_t one = 1;
  [[maybe_unused]] auto done = write(bells_[index].kick.get(), &one, sizeof one);  // full: it is ringing
}

void Blk::called(unsigned index) {
  uint64_t count;
  if (read(bells_[index].call.get(), &count, sizeof count) == sizeof count && interrupt_) interrupt_->queue(index);
}

uint16_t Blk::used_index(const Queue& queue) const {
  uint16_t index = queue.state().next_used;
  auto at = pins_.memory.range(queue.config().device + 2, sizeof index);
  if (!at.empty()) index = __atomic_load_n(reinterpret_cast<const uint16_t*>(at.data()), __ATOMIC_ACQUIRE);
  return index;
}

// The ring is ours again, without a request under way.
Result<> Blk::take_back(unsigned index) {
  Queue& queue = *queues_[index];
  const uint16_t base = TRY(back_end_->stop(index));
  uint16_t used = used_index(queue);
  for (unsigned ms = 0; used != base && ms < kDrainMs; ms++) {
    usleep(1000);
    used = used_index(queue);
  }
  if (used != base) log(LogLevel::kWarning, "--disk vhost-user=%s: the back-end has not finished %u requests of queue %u", config_.path.c_str(), static_cast<uint16_t>(base - used), index);
  queue.move_to(used, used);
  return {};
}

void Blk::deactivate() {
  pins_.loop.call([&] {
    for (unsigned i = 0; i < queues_.size(); i++) {
      if (!queues_[i] || queues_[i]->broken()) continue;
      if (back_end_)
        if (auto done = take_back(i); !done) lost(done.error().message);
      called(i);
    }
    interrupt_ = nullptr;
    queues_.clear();
  });
}

void Blk::lost(const std::string& why) {
  if (!back_end_) return;
  log(LogLevel::kError, "--disk vhost-user=%s: the back-end is gone (%s); the disk stands until one is there again", config_.path.c_str(), why.c_str());
  pins_.loop.unwatch(back_end_->fd());
  back_end_.reset();
  // What it has not finished the next one does again.
  for (Queue* queue : queues_)
    if (queue && !queue->broken()) {
      const uint16_t used = used_index(*queue);
      queue->move_to(used, used);
    }
  retry_->arm(pins_.loop.now_ns() + kRetryNs);
}

void Blk::try_again() {
  auto again = [this]() -> Result<> {
    TRY_VOID(connect());
    if (queues_.empty()) return {};
    return start();
  };
  auto done = again();
  if (done) {
    told_unfit_ = false;
    log(LogLevel::kWarning, "--disk vhost-user=%s: a back-end is there again", config_.path.c_str());
    if (interrupt_) interrupt_->config();  // the disk may have another size
    return;
  }
  if (back_end_) {
    pins_.loop.unwatch(back_end_->fd());
    back_end_.reset();
  }
  const bool nobody = done.error().kind == ErrorKind::kNotFound || done.error().code == ECONNREFUSED || done.error().code == ENOENT;
  if (!nobody && !std::exchange(told_unfit_, true))
    log(LogLevel::kError, "--disk vhost-user=%s: the new back-end: %s", config_.path.c_str(), done.error().message.c_str());
  retry_->arm(pins_.loop.now_ns() + kRetryNs);
}

void Blk::fields(Archive& archive) {
  std::lock_guard lock(space_mutex_);
  archive.field(1, "write_cache", space_.wce);
}

}  // namespace vireo::virtio::vhost_user
