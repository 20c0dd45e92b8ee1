// SPDX-License-Identifier: Apache-2.0
#include "storage/jobs/live_disk.h"

#include "base/log.h"
#include "storage/image/raw_image.h"

namespace vireo::storage {

Result<std::unique_ptr<LiveDisk>> LiveDisk::create(Config config, std::shared_ptr<Image> image, EventLoop& loop) {
  std::unique_ptr<LiveDisk> disk(new LiveDisk(std::move(config), loop));
  disk->live_ = std::make_shared<LiveImage>(std::move(image));
  disk->image_device_ = TRY(ImageDevice::create(disk->live_, {.direct = disk->config_.open.direct}, loop));
  disk->start();
  return disk;
}

Result<std::unique_ptr<LiveDisk>> LiveDisk::create(Config config, std::unique_ptr<Raw> raw, EventLoop& loop) {
  std::unique_ptr<LiveDisk> disk(new LiveDisk(std::move(config), loop));
  disk->raw_ = std::move(raw);
  disk->start();
  return disk;
}

void LiveDisk::start() {
  read_only_ = below().read_only();
  limits_ = below().limits();
  throttle_.configure(config_.throttle, loop_.now_ns());
  timer_ = loop_.create([this] { release(); });
}

LiveDisk::~LiveDisk() {
  drain();
  timer_.reset();
}

namespace {

// Through the descriptor: the file may have lost its name.
std::string path_of(const Raw& raw) { return "/proc/self/fd/" + std::to_string(raw.fd()); }

}  // namespace

Result<LiveImage*> LiveDisk::go_live() {
  if (live_) return live_.get();
  // Raw's lock on it stays.
  auto file = TRY(open_file({.path = path_of(*raw_), .read_only = read_only_, .direct = config_.open.direct, .no_flush = config_.open.no_flush, .lock = false}));
  auto image = std::make_shared<RawImage>(std::move(file));
  image->set_name(config_.path);
  auto live = std::make_shared<LiveImage>(std::move(image));
  auto device = TRY(ImageDevice::create(live, {.direct = config_.open.direct}, loop_));
  change([&] {
    live_ = std::move(live);
    image_device_ = std::move(device);
  });
  return live_.get();
}

void LiveDisk::change(std::span<LiveDisk* const> disks, const std::function<void()>& what) {
  if (disks.empty()) return what();
  disks[0]->loop_.call([&] {
    // Callbacks of one disk's requests do not begin new ones on another.
    for (LiveDisk* disk : disks) disk->below().drain();
    what();
    for (LiveDisk* disk : disks) {
      if (!disk->image_device_) continue;
      disk->image_device_->image_changed();
      disk->drop_raw();
    }
  });
}

// Its lock goes when its file is in the chain no more, or is there under a lock of its own.
void LiveDisk::drop_raw() {
  if (!raw_) return;
  const std::string path = path_of(*raw_);
  for (Image* layer = live_.get(); layer; layer = layer->backing())
    if (layer->file().name() == path) return;
  raw_.reset();
}

void LiveDisk::set_throttle(const ThrottleConfig& config) {
  loop_.call([&] {
    throttle_.configure(config, loop_.now_ns());
    release();
  });
}

ThrottleConfig LiveDisk::throttle() {
  ThrottleConfig out;
  loop_.call([&] { out = throttle_.config(); });
  return out;
}

DiskStatistics LiveDisk::statistics() {
  DiskStatistics out;
  loop_.call([&] { out = statistics_; });
  return out;
}

template <class Go>
bool LiveDisk::admit(bool write, uint64_t bytes, Go&& go) {
  if (!throttle_.active()) [[likely]] return true;
  // Those behind one that waits wait as well.
  if (waiting_[write].empty()) {
    const uint64_t now = loop_.now_ns(), wait = throttle_.wait_ns(write, now);
    if (wait == 0) {
      throttle_.account(write, bytes);
      return true;
    }
  }
  waiting_[write].push_back({write, bytes, std::forward<Go>(go)()});
  release();
  return false;
}

// Lets go what may go, and comes again when the next one may.
void LiveDisk::release() {
  uint64_t next = UINT64_MAX;
  bool any = false;
  const uint64_t now = loop_.now_ns();
  for (auto& queue : waiting_) {
    while (!queue.empty()) {
      if (throttle_.active()) {
        const uint64_t wait = throttle_.wait_ns(queue.front().write, now);
        if (wait) {
          next = std::min(next, now + wait);
          break;
        }
        throttle_.account(queue.front().write, queue.front().bytes);
      }
      auto go = std::move(queue.front().go);
      queue.pop_front();
      go();
      any = true;
    }
  }
  if (any) below().submit();
  if (next != UINT64_MAX) timer_->arm(next);
}

namespace {

// A request that waits keeps what its call was given. std::function wants copies of what it holds; a Done cannot be copied.
template <class Call>
std::function<void()> keep(Done done, Call call) {
  return [done = std::make_shared<Done>(std::move(done)), call = std::move(call)]() mutable { call(std::move(*done)); };
}

}  // namespace

void LiveDisk::read(uint64_t offset, std::span<const iovec> to, Done done) {
  const uint64_t bytes = total(to);
  ++statistics_.reads;
  statistics_.read_bytes += bytes;
  if (!admit(false, bytes, [&] {
        return keep(std::move(done), [this, offset, parts = Parts(to.begin(), to.end())](Done d) { below().read(offset, parts, std::move(d)); });
      }))
    return;
  below().read(offset, to, std::move(done));
}

void LiveDisk::write(uint64_t offset, std::span<const iovec> from, Done done) {
  const uint64_t bytes = total(from);
  ++statistics_.writes;
  statistics_.write_bytes += bytes;
  statistics_.write_highest = std::max(statistics_.write_highest, offset + bytes);
  if (!admit(true, bytes, [&] {
        return keep(std::move(done), [this, offset, parts = Parts(from.begin(), from.end())](Done d) { below().write(offset, parts, std::move(d)); });
      }))
    return;
  below().write(offset, from, std::move(done));
}

void LiveDisk::flush(Done done) {
  ++statistics_.flushes;
  below().flush(std::move(done));
}

void LiveDisk::discard(uint64_t offset, uint64_t length, Done done) {
  ++statistics_.discards;
  statistics_.discard_bytes += length;
  if (!admit(true, 0, [&] { return keep(std::move(done), [this, offset, length](Done d) { below().discard(offset, length, std::move(d)); }); })) return;
  below().discard(offset, length, std::move(done));
}

void LiveDisk::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) {
  if (!admit(true, 0, [&] {
        return keep(std::move(done), [this, offset, length, may_unmap](Done d) { below().write_zeroes(offset, length, may_unmap, std::move(d)); });
      }))
    return;
  below().write_zeroes(offset, length, may_unmap, std::move(done));
}

// Whoever waits for everything does not wait for the limits.
void LiveDisk::drain() {
  do {
    for (auto& queue : waiting_)
      while (!queue.empty()) {
        auto go = std::move(queue.front().go);
        queue.pop_front();
        go();
      }
    below().drain();
  } while (!waiting_[0].empty() || !waiting_[1].empty());
}

}  // namespace vireo::storage
